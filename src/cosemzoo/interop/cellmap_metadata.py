"""`metadata.json` of cellmap-models: what it says, and the manifest that can be made of it.

The fields are those of cellmap-models 0.2.4 (`ModelMetadata`), format version "1". Shapes there are of space
alone, without batch and channels, and lengths are whole numbers.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

from attrs import Factory, frozen

from cosemzoo._version import __version__
from cosemzoo.document import Problem, read_document, write_document
from cosemzoo.errors import InvalidMetadata
from cosemzoo.loading.labels import UNKNOWN_KIND
from cosemzoo.loading.layouts import AS_IS, HEAD_PREFIX, detect_layout
from cosemzoo.manifest import Channel, HeadTensor, Manifest

METADATA_FILE: Final = "metadata.json"
#: The only version of the format.
METADATA_VERSION: Final = "1"

Whole = tuple[int, ...]


@frozen(kw_only=True)
class CellmapMetadata:
    """What a `metadata.json` says; None where it says nothing.

    Attributes
    ----------
    model_name, model_type, framework : str or None
    spatial_dims : int or None
        3 for volumes.
    in_channels, out_channels : int or None
    iteration : int or None
    input_voxel_size, output_voxel_size : tuple of int or None
        In nm, z y x.
    channels_names : tuple of str or None
        One for each output row.
    input_shape, output_shape : tuple of int or None
        Voxels of a block, z y x.
    inference_input_shape, inference_output_shape : tuple of int or None
        The same, where the network does not train.
    author, description, version : str or None
    """

    model_name: str | None = None
    model_type: str | None = None
    framework: str | None = None
    spatial_dims: int | None = None
    in_channels: int | None = None
    out_channels: int | None = None
    iteration: int | None = None
    input_voxel_size: Whole | None = None
    output_voxel_size: Whole | None = None
    channels_names: tuple[str, ...] | None = None
    input_shape: Whole | None = None
    output_shape: Whole | None = None
    inference_input_shape: Whole | None = None
    inference_output_shape: Whole | None = None
    author: str | None = None
    description: str | None = None
    version: str | None = None
    extra: Mapping[str, Any] = Factory(dict)

    def to_json(self) -> str:
        """Give the text of `metadata.json`."""
        return write_document(self)


def manifest_from_metadata(
    text: str | bytes,
    shapes: Mapping[str, Sequence[int]],
    *,
    head: str | None = None,
    source: str = METADATA_FILE,
) -> Manifest:
    """Make the manifest of a network that was exported with cellmap-models.

    What the file does not say stays open: the kind of each channel, the range of the input, and which network
    it is. Weights of the COSEM U-Net belong to a form with activations after each upsampling, or without;
    the metadata do not say which.

    Parameters
    ----------
    text : str or bytes
        The content of `metadata.json`.
    shapes : mapping of str to sequence of int
        The shape of every tensor of the network, by its name.
    head : str, optional
        The module whose tensors have one slice per channel, along axis 0. By default the one that is called
        ``prediction_head`` in one of the layouts of `cosemzoo.loading.layouts`.
    source : str
        What the file is called in an error.

    Returns
    -------
    Manifest

    Raises
    ------
    InvalidMetadata
        With every problem: what is missing, of another type, or contradicts the shapes.

    Examples
    --------
    >>> text = '{"model_name": "run07", "channels_names": ["mito", "er"], "input_voxel_size": [8, 8, 8]}'
    >>> manifest = manifest_from_metadata(text, {"prediction_head.weight": (2, 72, 1, 1, 1)})
    >>> manifest.run, manifest.labels, manifest.input_voxel_size
    ('run07', ('mito', 'er'), (8.0, 8.0, 8.0))
    """
    content = text.encode("utf-8", "surrogatepass") if isinstance(text, str) else text
    values, problems = read_document(CellmapMetadata, content)
    said = CellmapMetadata(**values)
    names = said.channels_names or ()
    tensors = _head_tensors(shapes, head)
    # What could not be read is named already, and is not missing.
    wrong = {path.removeprefix("$.").partition("[")[0] for path, _ in problems}
    if wrong != {"$"}:
        problems += [each for each in _problems(said) if each[0].removeprefix("$.") not in wrong]
        problems += _head_problems(names, tensors, shapes, head)
    if problems:
        raise InvalidMetadata(source, problems)
    assert said.model_name is not None
    layout = detect_layout(shapes)
    return Manifest(
        run=said.model_name,
        iteration=said.iteration,
        channels=tuple(Channel(name, UNKNOWN_KIND) for name in names),
        head=tuple(map(HeadTensor, tensors)),
        input_voxel_size=_lengths(said.input_voxel_size),
        output_voxel_size=_lengths(said.output_voxel_size),
        layout=None if layout is AS_IS else layout.name,
        tool_version=__version__,
    )


def _problems(said: CellmapMetadata) -> Iterator[Problem]:
    version = said.extra.get("format_version", METADATA_VERSION)
    if version != METADATA_VERSION:
        read = f"this version of cosemzoo reads {METADATA_VERSION!r}: upgrade it"
        yield "$.format_version", f"is {version!r}; {read}"
    if not (said.model_name or "").strip():
        yield "$.model_name", "is missing" if said.model_name is None else "is empty"
    if said.iteration is not None and said.iteration < 0:
        yield "$.iteration", f"is {said.iteration}, less than 0"
    for name in ("input_voxel_size", "output_voxel_size"):
        size = getattr(said, name)
        if size is not None and (len(size) != 3 or min(size) <= 0):
            yield f"$.{name}", f"is {list(size)}, not three lengths above 0 (nm; z, y, x)"
    yield from _name_problems(said.channels_names, said.out_channels)


def _name_problems(names: Sequence[str] | None, rows: int | None) -> Iterator[Problem]:
    if not names:
        yield "$.channels_names", "is missing" if names is None else "is empty"
        return
    for row, name in enumerate(names):
        first = names.index(name)
        if not name.strip():
            yield f"$.channels_names[{row}]", "is empty"
        elif first != row:
            yield f"$.channels_names[{row}]", f"{name} is also channel {first}"
    if rows not in (None, len(names)):
        yield "$.out_channels", f"is {rows}, but there are {len(names)} names"


def _head_tensors(shapes: Mapping[str, Sequence[int]], head: str | None) -> tuple[str, ...]:
    if head is not None:
        return tuple(sorted(name for name in shapes if name.rpartition(".")[0] == head))
    layout = detect_layout(shapes)
    # A tensor may have two names; the first is the one that a file keeps.
    named: dict[str, str] = {}
    for name in sorted(shapes):
        canonical = layout.canonical(name)
        if canonical.startswith(HEAD_PREFIX):
            named.setdefault(canonical, name)
    return tuple(named.values())


def _head_problems(
    names: Sequence[str], tensors: Sequence[str], shapes: Mapping[str, Sequence[int]], head: str | None
) -> Iterator[Problem]:
    if not tensors:
        fitting = {name.rpartition(".")[0]: None for name in shapes if [*shapes[name][:1]] == [len(names)]}
        found = f"modules with {len(names)} rows: {', '.join(fitting) or 'none'}"
        yield "head", f"there is no module {head or 'prediction_head'!r} with tensors; give head=; {found}"
    for name in tensors:
        if names and [*shapes[name][:1]] != [len(names)]:
            found = f"has the shape {list(shapes[name])}, but there are {len(names)} channels"
            yield name, found


def _lengths(size: Whole | None) -> tuple[float, float, float] | None:
    if size is None:
        return None
    z, y, x = map(float, size)
    return z, y, x

"""A checkpoint as a folder that cellmap-models opens and cellmap-flow serves.

Written for cellmap-models 0.2.4, whose `CellmapModel(folder)` reads `metadata.json` and the model files, and
for cellmap-flow 0.2.3, which runs `model.ts`.
"""

import math
import os
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from textwrap import shorten
from typing import Any, Final, cast

import torch
import yaml  # type: ignore[import-untyped]
from attrs import frozen
from huggingface_hub import ModelCardData, metadata_load

from cosemzoo._version import __version__
from cosemzoo.errors import CosemZooWarning, ExportRefused, HubUnavailable, NotCached
from cosemzoo.interop.cellmap_metadata import (
    METADATA_FILE,
    METADATA_VERSION,
    CellmapMetadata,
    manifest_from_metadata,
)
from cosemzoo.interop.programs import largest_deviations, write_exported, write_torchscript
from cosemzoo.interop.whole_folder import absolute, float32_bytes, place_problem, whole_folder
from cosemzoo.manifest import Manifest
from cosemzoo.models import ReferenceLike, resolve
from cosemzoo.nets import CosemUNet
from cosemzoo.nets.shapes import Shapes
from cosemzoo.publishing.plain_text import cell
from cosemzoo.ready import empty_network, load_model
from cosemzoo.verify import TOLERANCE
from cosemzoo.zoo import Checkpoint, Zoo

__all__ = ["CellmapExport", "CellmapMetadata", "export_cellmap", "manifest_from_metadata"]

TORCHSCRIPT_FILE: Final = "model.ts"
EXPORTED_FILE: Final = "model.pt2"
CARD_FILE: Final = "README.md"

#: What `export_cellmap` does, in this order.
STEPS: Final = (
    "reading the weights",
    f"writing {TORCHSCRIPT_FILE}",
    f"writing {EXPORTED_FILE}",
    "comparing both with the network",
)
# That of cellmap-models and of cellmap-flow's examples for these networks.
_USUAL_INPUT: Final = (216, 216, 216)
# What cellmap-models puts there; with the labels, people find networks by them.
_TAGS: Final = ("pytorch", "torchscript", "3d", "segmentation", "electron-microscopy", "cellmap")
_REASON_LENGTH: Final = 300
_LICENSE_FIELDS: Final = ("license", "license_name", "license_link")


@frozen(kw_only=True)
class CellmapExport:
    """A folder that was written.

    Attributes
    ----------
    folder : Path
    checkpoint : Checkpoint
        What is in it.
    metadata : CellmapMetadata
        Its `metadata.json`.
    files : mapping of str to int
        Bytes of each file, by name.
    deviation : float
        By how much the files' outputs are off the network's at most, relative to its root mean square.
    """

    folder: Path
    checkpoint: Checkpoint
    metadata: CellmapMetadata
    files: Mapping[str, int]
    deviation: float


def export_cellmap(
    reference: ReferenceLike,
    folder: str | os.PathLike[str],
    *,
    input_shape: Sequence[int] | None = None,
    voxel_size: Sequence[int] | None = None,
    zoo: Zoo | None = None,
    progress: Callable[[str], None] | None = None,
) -> CellmapExport:
    """Write a checkpoint's network as a folder of cellmap-models, whole or not at all.

    `model.ts` and `model.pt2` are not locked to a shape: they take every input that fits, and refuse others.
    Both are run beside the network before the folder appears. COSEM setup04 takes about 4 GB of memory.

    Parameters
    ----------
    reference : str, os.PathLike, Reference or Checkpoint
    folder : str or os.PathLike
        Where to; it must not be there yet, or be empty.
    input_shape : sequence of three int, optional
        The block, in voxels z y x, that the metadata name; by default the smallest that fits from 216 on.
    voxel_size : sequence of three int, optional
        Of the input, in nm, z y x, that the metadata name instead of the manifest's. The format takes whole
        numbers only.
    zoo : Zoo, optional
    progress : callable, optional
        Told of each of `STEPS` when it begins.

    Returns
    -------
    CellmapExport

    Raises
    ------
    ExportRefused
        With every problem: the folder is not empty, the shape does not fit, the voxel sizes are not whole; or
        if a file cannot be made or written, or does not compute what the network does.
    UnknownNetwork
        If the network cannot be built here.
    DiskFull
        If there is no room for the folder.
    CosemZooError
        As `cosemzoo.fetch`.

    Warns
    -----
    CosemZooWarning
        If the run's card cannot be had here, so that the folder's card states no licence.

    Examples
    --------
    >>> export_cellmap("setup04@1820500", "setup04")  # doctest: +SKIP
    """
    zoo = Zoo() if zoo is None else zoo
    begin = progress or (lambda _: None)
    target = absolute(folder)
    checkpoint = resolve(reference, zoo=zoo)
    metadata = _describe(checkpoint, target, input_shape, voxel_size)
    license_fields = _license(checkpoint, zoo)
    steps = iter(STEPS)
    begin(next(steps))
    # Its own copies: a mapped tensor would bring the whole file along.
    network = cast("CosemUNet", load_model(checkpoint, dtype=torch.float32, share=False, zoo=zoo))
    # Each file once; of model.ts there are two for a moment, before there is the other.
    needed = 2 * float32_bytes(network)
    with whole_folder(str(checkpoint.reference), target, needed=needed) as made:
        begin(next(steps))
        write_torchscript(network, made / TORCHSCRIPT_FILE)
        begin(next(steps))
        _write_exported(checkpoint, target, network, made / EXPORTED_FILE)
        begin(next(steps))
        deviation = _compare(checkpoint, target, network, made)
        (made / METADATA_FILE).write_text(metadata.to_json(), encoding="utf-8")
        card = _card(checkpoint, metadata, network.shapes, license_fields)
        (made / CARD_FILE).write_text(card, encoding="utf-8")
        files = {path.name: path.stat().st_size for path in sorted(made.iterdir())}
    return CellmapExport(
        folder=target, checkpoint=checkpoint, metadata=metadata, files=files, deviation=deviation
    )


def _describe(
    checkpoint: Checkpoint,
    folder: Path,
    input_shape: Sequence[int] | None,
    voxel_size: Sequence[int] | None,
) -> CellmapMetadata:
    """Give the metadata, before anything large is read."""
    manifest = checkpoint.manifest
    network = cast("CosemUNet", empty_network(manifest, str(checkpoint.reference)))
    assert manifest is not None
    shapes = network.shapes
    problems = [*filter(None, [place_problem(folder)])]
    block = tuple(input_shape or shapes.valid_input_shape(_USUAL_INPUT))
    output: tuple[int, ...] = ()
    try:
        output = shapes.output_shape(block)
    except ValueError as error:
        problems.append(str(error))
    lengths, wrong = _voxel_sizes(manifest, shapes, voxel_size)
    problems += wrong
    if problems:
        raise ExportRefused(str(checkpoint.reference), folder, problems)
    return CellmapMetadata(
        model_name=manifest.run,
        model_type="UNet",
        framework="torch",
        spatial_dims=len(block),
        in_channels=next(network.parameters()).shape[1],
        out_channels=len(manifest.channels),
        iteration=manifest.iteration,
        input_voxel_size=lengths[0],
        output_voxel_size=lengths[1],
        channels_names=manifest.channel_names,
        input_shape=block,
        output_shape=output,
        inference_input_shape=block,
        inference_output_shape=output,
        # Where there is nothing, cellmap-models names its own authors.
        author="not stated",
        description=_description(checkpoint, manifest, shapes, lengths[0]),
        version="1.0.0",
        extra={"format_version": METADATA_VERSION},
    )


def _voxel_sizes(
    manifest: Manifest, shapes: Shapes, voxel_size: Sequence[int] | None
) -> tuple[tuple[tuple[int, ...], tuple[int, ...]], list[str]]:
    """Give the input's and the output's, in whole nm, and what is wrong with them."""
    factors = [axis.factor for axis in shapes.axes]
    given = voxel_size or manifest.input_voxel_size
    if given is None:
        problem = "the manifest does not say the input's voxel size; say it in nm (z y x)"
        return ((), ()), [f"{problem}, such as {_typed([4 * factor for factor in factors])}"]
    lengths = [length / factor for length, factor in zip(given, factors, strict=True)]
    whole = [max(1, round(length)) for length in lengths]
    inside = tuple(length * factor for length, factor in zip(whole, factors, strict=True))
    problems = []
    if list(whole) != lengths:
        problems.append(
            f"cellmap-models takes voxel sizes of whole nm, and those of the input are {_times(given)} and "
            f"of the output {_times(lengths)}; name the nearest that are whole, {_typed(inside)}"
        )
    stated = manifest.output_voxel_size
    if voxel_size is None and stated is not None and not all(map(math.isclose, stated, lengths)):
        problems.append(
            f"the manifest says voxels of {_times(given)} nm before the network and {_times(stated)} nm "
            f"after it, but the network makes them {_times(lengths)} nm; say which it takes, {_typed(inside)}"
        )
    return (inside, tuple(whole)), problems


def _typed(lengths: Sequence[int]) -> str:
    return f"voxel_size=({', '.join(map(str, lengths))}) or --voxel-size {' '.join(map(str, lengths))}"


def _times(numbers: Sequence[float]) -> str:
    return " x ".join(f"{number:g}" for number in numbers)


def _description(checkpoint: Checkpoint, manifest: Manifest, shapes: Shapes, lengths: Sequence[int]) -> str:
    target, interval, stated = manifest.target, manifest.input_range, manifest.input_voxel_size
    sentences = []
    if manifest.generated:
        sentences.append("GENERATED WEIGHTS: made-up numbers in the network's shapes, not a trained network.")
    # A folder's path is this machine's own, and means nothing elsewhere.
    name = checkpoint if checkpoint.repository else f"{manifest.run}, content {checkpoint.identity}"
    sentences.append(f"{name}; exported with cosemzoo {__version__}.")
    sentences.append(f"Channels: {', '.join(map(str, manifest.channels))}.")
    sentences.append(
        f"{TORCHSCRIPT_FILE} and {EXPORTED_FILE} take any input of {_fitting(shapes)} voxels along each axis "
        "(n = 0, 1, 2, …), in batches of any size, and refuse others: they are not locked to the shape that "
        "they were traced with."
    )
    if interval is not None:
        sentences.append(
            f"The input is raw data scaled to the range from {interval[0]:g} to {interval[1]:g}."
        )
    if manifest.input_sampling is not None:
        sentences.append(f"Input voxels: {manifest.input_sampling}.")
    if target is not None:
        sentences.append(f"The output is {target.description}.")
    if stated is not None and list(stated) != list(lengths):
        sentences.append(
            f"The run says input voxels of {_times(stated)} nm; this file says {_times(lengths)} nm, "
            "because its format takes whole numbers, or because whoever exported it said so."
        )
    return " ".join(sentences)


def _fitting(shapes: Shapes) -> str:
    sizes = [f"{axis.smallest} + {axis.step}·n" for axis in shapes.axes]
    return sizes[0] if len({*sizes}) == 1 else f"({', '.join(sizes)})"


def _write_exported(checkpoint: Checkpoint, folder: Path, network: CosemUNet, path: Path) -> None:
    try:
        write_exported(network, path)
    except RuntimeError as error:
        # Such as of a network whose smallest input is a single voxel deep somewhere inside.
        reason = shorten(str(error), _REASON_LENGTH, placeholder=" …")
        problem = f"torch {torch.__version__} cannot make {path.name} of its network: {reason}"
        raise ExportRefused(str(checkpoint.reference), folder, [problem]) from error


def _compare(checkpoint: Checkpoint, folder: Path, network: CosemUNet, made: Path) -> float:
    names = (TORCHSCRIPT_FILE, EXPORTED_FILE)
    off = largest_deviations(network, *(made / name for name in names))
    problems = [
        f"{name}, as torch {torch.__version__} wrote it, gives other numbers than the network, off by "
        f"{deviation:.3g} of their root mean square; try another version of torch"
        for name, deviation in zip(names, off, strict=True)
        # Not a number is no small deviation.
        if not deviation <= TOLERANCE
    ]
    if problems:
        raise ExportRefused(str(checkpoint.reference), folder, problems)
    return max(off)


def _license(checkpoint: Checkpoint, zoo: Zoo) -> dict[str, Any]:
    """Give what the run's own card says of its licence."""
    try:
        path = zoo.fetch_beside(checkpoint, CARD_FILE)
    except (NotCached, HubUnavailable) as error:
        # `cosemzoo fetch` does not bring it, and the networks are of use without it.
        reason = error.reason if isinstance(error, HubUnavailable) else "it is not in the cache"
        message = f"{checkpoint.reference}: the run's card cannot be had ({reason}); no licence is stated"
        warnings.warn(message, CosemZooWarning, stacklevel=3)
        return {}
    try:
        said = None if path is None else metadata_load(path)
    except (ValueError, yaml.YAMLError):
        # A card that the Hub cannot read says nothing.
        said = None
    return {name: said[name] for name in _LICENSE_FIELDS if name in said} if said else {}


def _card(
    checkpoint: Checkpoint, metadata: CellmapMetadata, shapes: Shapes, license_fields: Mapping[str, Any]
) -> str:
    assert checkpoint.manifest is not None
    data = ModelCardData(
        library_name="cellmap-models",
        tags=[*_TAGS, *checkpoint.manifest.labels],
        **license_fields,
    )
    block, output = _times(metadata.input_shape or ()), _times(metadata.output_shape or ())
    voxels = [_times(size or ()) for size in (metadata.input_voxel_size, metadata.output_voxel_size)]
    rows = "\n".join(
        f"| {row} | {cell(str(channel))} |" for row, channel in enumerate(checkpoint.manifest.channels)
    )
    return f"""---
{data.to_yaml()}
---

# {metadata.model_name}

{metadata.description}

| | |
|---|---|
| iteration | {"not stated" if metadata.iteration is None else metadata.iteration} |
| voxels, input → output | {voxels[0]} → {voxels[1]} nm (z y x) |
| block, input → output | {block} → {output} voxels |
| inputs that fit | {_fitting(shapes)} voxels along each axis, n = 0, 1, 2, … |

| row | channel |
|---|---|
{rows}

## Files

| file | for |
|---|---|
| `{METADATA_FILE}` | cellmap-models and cellmap-flow |
| `{TORCHSCRIPT_FILE}` | TorchScript: inference, cellmap-flow |
| `{EXPORTED_FILE}` | torch.export: fine-tuning; written with torch {torch.__version__} |

Neither is locked to the block above, as files that cellmap-models traces are: both take every input that
fits, in batches of any size, and refuse others. The block is what cellmap-flow reads at a time.
Both compute in float32.

```python
from cellmap_models.model_export.cellmap_model import CellmapModel

model = CellmapModel("path/to/this/folder")
output = model.ts_model(raw)  # raw: (batch, {metadata.in_channels}, z, y, x), float32
network = model.train()  # for fine-tuning, from {EXPORTED_FILE}
```
"""

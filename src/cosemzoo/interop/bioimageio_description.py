"""What a bioimage.io package says of a network: its description (format 0.5) and its README, as data."""

import math
import re
import textwrap
from collections.abc import Iterator, Sequence
from typing import Any, Final

from attrs import frozen

from cosemzoo.manifest import MANIFEST_FILE, Manifest, Target
from cosemzoo.nets.arguments import read_arguments
from cosemzoo.nets.shapes import Axis, Shapes
from cosemzoo.publishing.cosem import BUCKET_URL
from cosemzoo.publishing.plain_text import cell
from cosemzoo.ready import network_arguments
from cosemzoo.reference import published_iterations
from cosemzoo.zoo import Checkpoint

#: The files of a package, its description first.
DESCRIPTION_FILE: Final = "bioimageio.yaml"
STATE_DICT_FILE: Final = "weights.pt"
TORCHSCRIPT_FILE: Final = "weights.torchscript.pt"
NETWORK_FILE: Final = "network.py"
README_FILE: Final = "README.md"
TEST_INPUT_FILE: Final = "test-input.npy"
TEST_OUTPUT_FILE: Final = "test-output.npy"

#: Who is named as the author of the published COSEM runs, and the licence of their code and weights: that of
#: the training scripts (BSD-3-Clause), which the Hub organisation of the project states for weights too.
COSEM_AUTHORS: Final = ("COSEM Project Team",)
COSEM_LICENSE: Final = "BSD-3-Clause"
#: Where the network was published.
CITATION: Final = {
    "text": "Heinrich et al. (2021): Whole-cell organelle segmentation in volume electron microscopy",
    "doi": "10.1038/s41586-021-03977-3",
}

_GENERATED: Final = "GENERATED WEIGHTS: made-up numbers in the network's shapes, not a trained network."
_INPUT, _OUTPUT = "raw", "prediction"
_AXES: Final = ("z", "y", "x")
_LARGEST: Final = {"uint8": 255, "uint16": 65535}
_UNCHANGED: Final = {"gain": 1.0, "offset": 0.0}
# What the format allows for a name, and how much of a description it shows.
_NOT_IN_NAMES: Final = re.compile(r"[^A-Za-z0-9_+\- ()]")
_RUN_LENGTH: Final = 32
_DESCRIPTION_LENGTH: Final = 512
_SHORT_LENGTH: Final = 128
# Readers work sizes out in floating point, size · scale / scale, and compare them exactly. That is exact for
# voxel sizes that are whole multiples of this part of a nm, and fails for others (216 · 5.24 / 2.62).
_EXACT_PART: Final = 64
_ROUNDED: Final = "but the size of the output cannot be worked out exactly from these voxel sizes"


@frozen(kw_only=True)
class PackageFacts:
    """What a package says that its checkpoint does not.

    Attributes
    ----------
    authors : tuple of str
    license : str
        An SPDX identifier.
    raw_range : (int, int)
        The raw values that become the ends of the network's input range; what is beyond them is clipped.
    torch_version : str
        With which torch the weights were written.
    tolerance : float or None
        By how much an output may be off the test output; None for what readers allow.
    """

    authors: tuple[str, ...]
    license: str
    raw_range: tuple[int, int]
    torch_version: str
    tolerance: float | None


def is_cosem(manifest: Manifest) -> bool:
    """Say whether it is one of the published COSEM checkpoints: by its run, iteration and source.

    A run of that name may be anybody's: what is said of authors and licence holds for the file in the
    authors' bucket.
    """
    lineage = manifest.lineage
    from_bucket = lineage is not None and (lineage.source_url or "").startswith(BUCKET_URL)
    fine_tuned = lineage is not None and lineage.has_base
    published = str(manifest.iteration) in published_iterations().get(manifest.run, ())
    return from_bucket and not fine_tuned and published


def raw_type(largest: int) -> str:
    """Give the type of raw data: the narrowest that holds its largest value.

    Examples
    --------
    >>> raw_type(255), raw_type(256)
    ('uint8', 'uint16')
    """
    return next(dtype for dtype, most in _LARGEST.items() if largest <= most)


def range_problem(raw_range: tuple[int, int]) -> str | None:
    """Say what is wrong with a range of raw values, None if nothing is."""
    low, high = raw_range
    if 0 <= low < high <= max(_LARGEST.values()):
        return None
    return f"the raw range is {low} to {high}; it is two whole numbers, 0 ≤ LOW < HIGH ≤ 65535 (--raw-range)"


def voxel_problems(manifest: Manifest, shapes: Shapes) -> Iterator[str]:
    """Give where the voxel sizes contradict the network."""
    taken, made = manifest.input_voxel_size, manifest.output_voxel_size
    if taken is None or made is None:
        return
    for name, axis, large, small in zip(_AXES, shapes.axes, taken, made, strict=True):
        if not math.isclose(large, small * axis.factor):
            yield (
                f"its manifest says voxels of {large:g} nm in and {small:g} nm out along {name}, but the "
                f"network makes {axis.factor} of each; correct config.json"
            )


def scaling(raw_range: tuple[int, int], input_range: tuple[float, float]) -> tuple[float, float]:
    """Give gain and offset of the line from a range of raw values to the network's input range.

    Examples
    --------
    >>> scaling((0, 200), (-1.0, 1.0))
    (0.01, -1.0)
    """
    (low, high), (least, most) = raw_range, input_range
    gain = (most - least) / (high - low)
    return gain, least - low * gain


def describe(checkpoint: Checkpoint, shapes: Shapes, facts: PackageFacts) -> dict[str, Any]:
    """Describe a package, as the format has it.

    Sizes are a smallest size and whole steps beyond it. Along an axis the output has ``size · input scale /
    output scale + offset`` voxels, which is exactly what a network without padding gives: for 8 nm to 4 nm,
    2 · size - 364. It is no halo: a halo is what the reader has to crop.

    Where voxel sizes are not such that readers can work this out without rounding, the smallest size and that
    of its output are the only ones that are described along that axis.

    Parameters
    ----------
    checkpoint : Checkpoint
        With a manifest that says the network and its input range.
    shapes : Shapes
        Of its network.
    facts : PackageFacts

    Returns
    -------
    dict
        All of `bioimageio.yaml` but the version of the format and the digests of files.
    """
    manifest = _manifest(checkpoint)
    arguments, spaces = network_arguments(manifest), _spaces(manifest, shapes)
    return {
        "type": "model",
        "name": _name(manifest),
        "description": _description(manifest),
        "authors": [{"name": name} for name in facts.authors],
        "cite": [dict(CITATION)],
        "license": facts.license,
        "tags": _tags(manifest),
        "documentation": {"source": README_FILE},
        "attachments": [{"source": MANIFEST_FILE}],
        "inputs": [_input(manifest, spaces, read_arguments(arguments).input_channels, facts)],
        "outputs": [_output(manifest, spaces)],
        "weights": {
            "pytorch_state_dict": {
                "source": STATE_DICT_FILE,
                "architecture": {
                    "source": NETWORK_FILE,
                    "callable": "CosemUNet",
                    "kwargs": arguments,
                },
                "pytorch_version": facts.torch_version,
                "comment": f"{NETWORK_FILE} needs Python 3.10 or newer, and torch.",
            },
            "torchscript": {
                "source": TORCHSCRIPT_FILE,
                "parent": "pytorch_state_dict",
                "pytorch_version": facts.torch_version,
                "comment": "It takes every size that is described, not only that of the test input.",
            },
        },
        "config": {**_tolerance(facts), "cosemzoo": _origin(checkpoint)},
    }


def write_readme(checkpoint: Checkpoint, shapes: Shapes, facts: PackageFacts) -> str:
    """Write the documentation of a package."""
    manifest = _manifest(checkpoint)
    low, high = facts.raw_range
    least, most = _range(manifest)
    origin = ", ".join(f"{name} {value}" for name, value in _origin(checkpoint).items())
    sampling = f" Its voxels: {manifest.input_sampling}." if manifest.input_sampling else ""
    channels = "\n".join(
        f"| {row} | {cell(channel.label)} | {channel.kind} |" for row, channel in enumerate(manifest.channels)
    )
    sections = [
        f"# {_name(manifest)}",
        *([f"**{_GENERATED}**"] if manifest.generated else []),
        "A 3-D U-Net for volume electron microscopy, of the kind of Heinrich et al. 2021 "
        f"(doi:{CITATION['doi']}).",
        "## Output",
        f"| row | label | kind |\n|---|---|---|\n{channels}",
        _target(manifest.target),
        "## Input",
        f"Raw data, {raw_type(high)}, of {_voxels(manifest.input_voxel_size)}.{sampling} The output has "
        f"{_voxels(manifest.output_voxel_size)}.",
        f"Values from {low} to {high} become {least:g} to {most:g}; what is beyond is clipped first. The "
        "range belongs to a data set's contrast: for another one, change `clip` and `scale_linear` in "
        f"`{DESCRIPTION_FILE}`. It does not depend on what is in a block, so that blocks fit together.",
        "Sizes in voxels, for n = 0, 1, 2 …:\n\n"
        + "\n".join(space.rule() for space in _spaces(manifest, shapes)),
        "## Weights",
        f"- `{STATE_DICT_FILE}`: a state dict of tensors alone, for the network in `{NETWORK_FILE}`, which "
        "needs torch and nothing else.\n"
        f"- `{TORCHSCRIPT_FILE}`: the same as TorchScript, which needs no Python.\n\n"
        "Both take every size above, in batches of any size, and refuse others.",
        "## Validation",
        "No scores are stated here. To measure the network on your own data, predict a block whose labels "
        "are known, apply the threshold, and compare the two with the Dice coefficient, label by label.",
        f"`bioimageio test` computes the test output again from `{TEST_INPUT_FILE}`, which is noise: it "
        "shows that the network computes as it did when it was exported, not that it predicts well.",
        "## Origin",
        f"Exported by cosemzoo from: {origin}. `{MANIFEST_FILE}` is its manifest.",
    ]
    return "\n\n".join(section for section in sections if section) + "\n"


def _manifest(checkpoint: Checkpoint) -> Manifest:
    assert checkpoint.manifest is not None
    return checkpoint.manifest


def _range(manifest: Manifest) -> tuple[float, float]:
    assert manifest.input_range is not None
    return manifest.input_range


def _name(manifest: Manifest) -> str:
    origin = "COSEM " if is_cosem(manifest) else ""
    iteration = "" if manifest.iteration is None else f" {manifest.iteration}"
    run = _NOT_IN_NAMES.sub("_", manifest.run)[:_RUN_LENGTH]
    return f"{origin}{run}{iteration} volume EM U-Net"


def _description(manifest: Manifest) -> str:
    generated = f"{_GENERATED} " if manifest.generated else ""
    channels = ", ".join(manifest.channel_names)
    text = f"{generated}A 3-D U-Net for volume electron microscopy. It predicts: {channels}."
    return textwrap.shorten(text, _DESCRIPTION_LENGTH, placeholder=" …")


def _tags(manifest: Manifest) -> list[str]:
    tags = ["electron-microscopy", "3d", "pytorch", "unet", "semantic-segmentation", "volume-em", "cosem"]
    return [*tags, *(["generated-weights"] if manifest.generated else []), *manifest.labels]


def _origin(checkpoint: Checkpoint) -> dict[str, str]:
    # A folder's path says nothing to others.
    if checkpoint.commit is None:
        return {"content_hash": checkpoint.identity}
    repository = f"{checkpoint.repository}@{checkpoint.criterion}"
    return {"reference": repository, "commit": checkpoint.commit}


def _tolerance(facts: PackageFacts) -> dict[str, Any]:
    if facts.tolerance is None:
        return {}
    return {"bioimageio": {"reproducibility_tolerance": [{"absolute_tolerance": facts.tolerance}]}}


def _input(
    manifest: Manifest, spaces: Sequence["_Space"], channels: int, facts: PackageFacts
) -> dict[str, Any]:
    low, high = facts.raw_range
    line = dict(zip(("gain", "offset"), scaling(facts.raw_range, _range(manifest)), strict=True))
    dtype = raw_type(high)
    names = ["raw"] if channels == 1 else [f"raw_{i}" for i in range(channels)]
    names = [*(manifest.input_channels or names)]
    float32 = {"id": "ensure_dtype", "kwargs": {"dtype": "float32"}}
    return {
        "id": _INPUT,
        "description": _short(manifest.input_sampling or "raw data"),
        "axes": [
            {"type": "batch"},
            {"type": "channel", "channel_names": names},
            *(space.input_axis() for space in spaces),
        ],
        "data": {"type": dtype, "range": [0, _LARGEST[dtype]]},
        # By fixed numbers, as in training: `scale_range` would scale by the percentiles of each block.
        "preprocessing": [
            float32,
            {"id": "clip", "kwargs": {"min": low, "max": high}},
            # The format forbids a line that changes nothing.
            *([{"id": "scale_linear", "kwargs": line}] if line != _UNCHANGED else []),
            # Without it readers go back to the type of the raw data.
            float32,
        ],
        "test_tensor": {"source": TEST_INPUT_FILE},
    }


def _output(manifest: Manifest, spaces: Sequence["_Space"]) -> dict[str, Any]:
    return {
        "id": _OUTPUT,
        "description": _short(_target(manifest.target)),
        "axes": [
            {"type": "batch"},
            {"type": "channel", "channel_names": [*manifest.channel_names]},
            *(space.output_axis() for space in spaces),
        ],
        "data": {"type": "float32"},
        "test_tensor": {"source": TEST_OUTPUT_FILE},
    }


@frozen
class _Space:
    """An axis in space, of input and output; a `unit` of None means that the voxel sizes are relative."""

    name: str
    axis: Axis
    unit: str | None
    input_scale: float
    output_scale: float

    @property
    def exact(self) -> bool:
        whole = ((scale * _EXACT_PART).is_integer() for scale in (self.input_scale, self.output_scale))
        return all(whole) and self.input_scale == self.output_scale * self.axis.factor

    @property
    def offset(self) -> int:
        return self.axis.output - self.axis.smallest * self.axis.factor

    def input_axis(self) -> dict[str, Any]:
        size = {"min": self.axis.smallest, "step": self.axis.step} if self.exact else self.axis.smallest
        return self._physical(self.input_scale) | {"size": size}

    def output_axis(self) -> dict[str, Any]:
        reference = {"tensor_id": _INPUT, "axis_id": self.name, "offset": self.offset}
        return self._physical(self.output_scale) | {"size": reference if self.exact else self.axis.output}

    def rule(self) -> str:
        axis = self.axis
        if not self.exact:
            return f"- {self.name}: {axis.smallest} in, {axis.output} out; others would fit, {_ROUNDED}"
        factor = "" if axis.factor == 1 else f"{axis.factor} · "
        sign = "-" if self.offset < 0 else "+"
        return (
            f"- {self.name}: {axis.smallest} + {axis.step} · n in, {factor}size {sign} {abs(self.offset)} out"
        )

    def _physical(self, scale: float) -> dict[str, Any]:
        said = {} if self.exact else {"description": f"other sizes would fit, {_ROUNDED}"}
        unit = {} if self.unit is None else {"unit": self.unit}
        return {"type": "space", "id": self.name, "scale": scale, **unit, **said}


def _spaces(manifest: Manifest, shapes: Shapes) -> list[_Space]:
    unknown = (None,) * len(_AXES)
    taken, made = manifest.input_voxel_size or unknown, manifest.output_voxel_size or unknown
    return [_space(*each) for each in zip(_AXES, shapes.axes, taken, made, strict=True)]


def _space(name: str, axis: Axis, taken: float | None, made: float | None) -> _Space:
    unit = None if taken is None and made is None else "nanometer"
    if taken is not None:
        return _Space(name, axis, unit, taken, taken / axis.factor if made is None else made)
    made = 1.0 if made is None else made
    return _Space(name, axis, unit, made * axis.factor, made)


def _voxels(size: tuple[float, float, float] | None) -> str:
    lengths = "unknown size" if size is None else f"{' x '.join(f'{length:g}' for length in size)} nm (z y x)"
    return f"voxels of {lengths}"


def _target(target: Target | None) -> str:
    if target is None:
        return "What its values mean is not stated."
    threshold = "" if target.threshold is None else f"; a voxel is of the label above {target.threshold:g}"
    return f"{target.description}{threshold}"


def _short(text: str) -> str:
    return textwrap.shorten(text, _SHORT_LENGTH, placeholder=" …")

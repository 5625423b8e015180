"""Which of DaCapo's networks a run of the zoo fits, and which labels its task has."""

from collections.abc import Mapping, Sequence
from typing import Any, Final

from cosemzoo.errors import InvalidOption, UnknownNetwork
from cosemzoo.interop.dacapo.peer import dacapo_module
from cosemzoo.models import ReferenceLike, WeightsStore, resolve
from cosemzoo.nets.arguments import CosemArguments, read_arguments
from cosemzoo.nets.build import NETWORKS
from cosemzoo.nets.shapes import shapes_of
from cosemzoo.zoo import Checkpoint

#: Voxels along each axis that training feeds the published networks, where nothing else is said.
_USUAL_INPUT: Final = (216, 216, 216)


def architecture_config_for(
    reference: ReferenceLike,
    *,
    name: str | None = None,
    input_shape: Sequence[int] | None = None,
    zoo: WeightsStore | None = None,
) -> Any:
    """Give the configuration of DaCapo's network that a checkpoint fits, tensor by tensor.

    Parameters
    ----------
    reference : str, os.PathLike, Reference or Checkpoint
        A run whose network is a COSEM U-Net.
    name : str, optional
        What DaCapo stores it as; by default the run's name.
    input_shape : sequence of three int, optional
        Voxels (z, y, x) of the blocks to train with; by default the smallest that fits of at least 216 along
        each axis, with which cellmap-models begins.
    zoo : WeightsStore, optional

    Returns
    -------
    dacapo.experiments.architectures.CNNectomeUNetConfig

    Raises
    ------
    ExtraMissing
        If DaCapo is not installed.
    UnknownNetwork
        If the manifest does not say which network it is, or DaCapo cannot build it; with every reason.
    InvalidOption
        If no input of this shape fits; it says which are the nearest that do.
    CosemZooError
        As `cosemzoo.resolve`.

    Examples
    --------
    >>> config = architecture_config_for("setup04@1820500")  # doctest: +SKIP
    >>> config.num_fmaps, config.fmap_inc_factor, config.fmaps_out  # doctest: +SKIP
    (12, 6, 72)
    """
    checkpoint = resolve(reference, zoo=zoo)
    read = _arguments_of(checkpoint)
    shapes = shapes_of(read)
    shape = shapes.valid_input_shape(_USUAL_INPUT) if input_shape is None else tuple(map(int, input_shape))
    try:
        shapes.output_shape(shape)
    except ValueError as error:
        raise InvalidOption("input_shape", input_shape, f"a shape that fits: {error}") from error
    settings, problems = unet_settings(read)
    if problems:
        raise UnknownNetwork(str(checkpoint.reference), f"DaCapo cannot build it: {'; '.join(problems)}")
    module = dacapo_module("dacapo.experiments.architectures")
    return module.CNNectomeUNetConfig(name=name or checkpoint.reference.run, input_shape=shape, **settings)


def task_labels_for(reference: ReferenceLike, *, zoo: WeightsStore | None = None) -> list[str]:
    """Give the labels of a run, for the `channels` of a task that predicts the same.

    Raises
    ------
    UnknownNetwork
        If the checkpoint does not name its channels.
    CosemZooError
        As `cosemzoo.resolve`.
    """
    checkpoint = resolve(reference, zoo=zoo)
    if checkpoint.manifest is None:
        raise UnknownNetwork(str(checkpoint.reference), "it does not name its channels")
    return list(checkpoint.manifest.labels)


def unet_settings(read: CosemArguments) -> tuple[Mapping[str, Any], Sequence[str]]:
    """Say a COSEM U-Net with the arguments of DaCapo's ``CNNectomeUNetConfig``.

    Returns
    -------
    mapping of str to object
        Without ``name`` and ``input_shape``. Names and meanings are those of DaCapo 0.3.5; of its main, too.
    sequence of str
        Why DaCapo has no network of exactly these tensors and this arithmetic; empty where it has.
    """
    first, growth = read.widths_down[0], read.widths_down[1] // read.widths_down[0]
    settings = {
        "fmaps_out": read.widths_up[0],
        "fmaps_in": read.input_channels,
        "num_fmaps": first,
        "fmap_inc_factor": growth,
        "downsample_factors": [*read.factors],
        "kernel_size_down": [[*kernels] for kernels in read.kernel_sizes_down],
        "kernel_size_up": [[*kernels] for kernels in read.kernel_sizes_up],
        "upsample_factors": None if read.final_upsample is None else [read.final_upsample],
        "constant_upsample": read.upsampling == "constant",
        "padding": read.padding,
    }
    return settings, [*_differences(read, first, growth)]


def _differences(read: CosemArguments, first: int, growth: int) -> Any:
    """Compare with what `CNNectomeUNet.module` of DaCapo 0.3.5 makes of the same settings."""
    down = tuple(first * growth**level for level in range(len(read.widths_down)))
    if read.widths_down != down:
        yield f"its widths grow by one factor, {first} · n^level; these are {list(read.widths_down)}"
    # The upsampling to the finest level gives as many features as the level below it has.
    up = (first * growth, *down[1:-1])
    if read.widths_up != up:
        yield f"its widths after the bottom would be {list(up)}; these are {list(read.widths_up)}"
    if not read.activation_on_upsample:
        yield "it has an activation after each upsampling; this network has none"
    if read.final_upsample is None:
        return
    if read.upsampling != "constant":
        yield "its last upsampling repeats voxels; this one is a transposed convolution"
    if read.final_width != read.widths_up[0]:
        yield f"its last convolutions have {read.widths_up[0]} features; these have {read.final_width}"
    if read.kernel_sizes_final[0] != read.kernel_sizes_up[-1]:
        yield "its last kernel sizes are those of the lowest level; these are others"
    if read.padding != "valid":
        yield "its last convolutions are never padded; these are"


def _arguments_of(checkpoint: Checkpoint) -> CosemArguments:
    manifest = checkpoint.manifest
    architecture = None if manifest is None else manifest.architecture
    reference = str(checkpoint.reference)
    if architecture is None:
        raise UnknownNetwork(reference, "its manifest does not say which network it is")
    if architecture.name not in NETWORKS:
        raise UnknownNetwork(reference, f"its network is {architecture.name!r}, no COSEM U-Net")
    assert manifest is not None
    try:
        return read_arguments({"channels": len(manifest.channels), **architecture.arguments})
    except ValueError as error:
        raise UnknownNetwork(reference, str(error)) from error

"""A network as a program in one file, which runs without its Python code: TorchScript, and torch.export.

Neither is locked to the shape that it was traced with: both take every input that fits the network, in
batches of any size, and refuse what does not fit.
"""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from shutil import copyfileobj
from typing import Any
from zipfile import ZipFile, ZipInfo

import torch
from torch import Tensor

from cosemzoo.nets import CosemUNet


def write_torchscript(network: CosemUNet, path: Path) -> None:
    """Write a network as TorchScript, for ``torch.jit.load``.

    The network is run once, on the smallest input that fits.

    Parameters
    ----------
    network : CosemUNet
        In evaluation mode, on the CPU, in float32. Its tensors keep their names.
    path : Path
    """
    axes = network.shapes.axes
    channels = _input_channels(network)
    smallest, step = [axis.smallest for axis in axes], [axis.step for axis in axes]
    with _quiet():
        # A trace leaves out what the network itself checks, because that is Python; this is kept.
        fitting = torch.jit.script(_fitting)
        hook = network.register_forward_pre_hook(
            lambda _, given: (fitting(given[0], channels, smallest, step),)
        )
        try:
            with torch.no_grad():
                example = torch.zeros(1, channels, *smallest)
                traced: Any = torch.jit.trace(network, example, check_trace=False)  # type: ignore[no-untyped-call]
        finally:
            hook.remove()
        traced.save(str(path))
    _remove_source_paths(path)


def write_exported(network: CosemUNet, path: Path) -> None:
    """Write a network as a program of torch.export, for ``torch.export.load``.

    Nothing is computed. It takes about half a minute: torch reasons about every possible shape.

    Parameters
    ----------
    network : CosemUNet
        As for `write_torchscript`.
    path : Path
    """
    # torch takes an axis of one voxel for one that is always so: the example has more along each.
    shape = [2, _input_channels(network), *_next_to_smallest(network)]
    sizes: dict[int, Any] = {0: torch.export.Dim("batch", min=1)}
    for i, axis in enumerate(network.shapes.axes):
        steps, rest = divmod(axis.smallest, axis.step)
        sizes[2 + i] = axis.step * torch.export.Dim(f"steps_{i}", min=steps) + rest
    with _quiet():
        exported = torch.export.export(
            network, (torch.zeros(shape),), dynamic_shapes={"raw": sizes}, strict=False
        )
        # They say where the Python files lie on this machine, and are of no use elsewhere.
        for node in exported.graph.nodes:
            node.meta.pop("stack_trace", None)
        # Only an example, and at full size 80 MB of zeros.
        exported.example_inputs = None
        torch.export.save(exported, path)


def largest_deviations(network: CosemUNet, torchscript: Path, exported: Path) -> tuple[float, float]:
    """Run both files beside the network that they were made from, on noise of another shape than was traced.

    Returns
    -------
    (float, float)
        The largest absolute difference of TorchScript and of torch.export, each relative to the root mean
        square of the network's output; NaN where one of them is not finite.
    """
    generator = torch.Generator().manual_seed(0)
    shape = (1, _input_channels(network), *_next_to_smallest(network))
    raw = torch.rand(shape, generator=generator) * 2 - 1
    with torch.no_grad(), _quiet():
        expected = network(raw)
        scale = expected.square().mean().sqrt()

        def deviation(output: Tensor) -> float:
            return float((output - expected).abs().max() / scale)

        # One after the other: each holds the weights once more.
        first = deviation(torch.jit.load(str(torchscript))(raw))  # type: ignore[no-untyped-call]
        return first, deviation(torch.export.load(exported).module()(raw))


def _fitting(raw: Tensor, channels: int, smallest: list[int], step: list[int]) -> Tensor:
    # TorchScript knows only some of Python.
    if raw.dim() != 5 or raw.shape[1] != channels:
        raise ValueError(f"the network takes (batch, {channels}, z, y, x), not a tensor of {raw.shape}")
    for axis in range(3):
        size = raw.shape[2 + axis]
        if size < smallest[axis] or (size - smallest[axis]) % step[axis] != 0:
            raise ValueError(
                f"an input of {raw.shape[2:]} voxels (z y x) does not fit the network: along each axis it "
                f"takes the smallest, {smallest}, and any number of steps, {step}, more"
            )
    return raw


def _remove_source_paths(path: Path) -> None:
    """Write a TorchScript file once more, without what is for debugging: it holds paths of this machine.

    The reader does without.
    """
    lean = path.with_name(f"{path.name}.lean")
    with ZipFile(path) as full, ZipFile(lean, "w") as kept:
        for name in full.namelist():
            if not name.endswith(".debug_pkl"):
                with full.open(name) as record, kept.open(ZipInfo(name), "w", force_zip64=True) as copy:
                    copyfileobj(record, copy)
    lean.replace(path)


def _input_channels(network: CosemUNet) -> int:
    return next(network.parameters()).shape[1]


def _next_to_smallest(network: CosemUNet) -> tuple[int, ...]:
    return tuple(axis.smallest + axis.step for axis in network.shapes.axes)


@contextmanager
def _quiet() -> Iterator[None]:
    """Leave out what torch says about itself, and that a trace leaves out what the network itself checks."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        warnings.simplefilter("ignore", FutureWarning)
        warnings.filterwarnings("ignore", "Converting a tensor to a Python boolean")
        yield

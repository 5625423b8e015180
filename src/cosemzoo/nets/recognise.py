"""Is a state dict a COSEM U-Net, and built with which arguments? Its names and shapes say it.

Two forms exist. Where the output voxels are smaller than the input's, the U-Net is followed by an upsampling
and a pass of convolutions, and its names start with ``backbone.0.``; the plain form ends with the U-Net, and
its names start with ``backbone.``. cellmap-models 0.2.4 builds the first form at equal voxel sizes as well.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from itertools import count, takewhile
from typing import Any, Final

from attrs import frozen

from cosemzoo.nets.arguments import FACTORS, FINAL_UPSAMPLE, UNKNOWN, WIDTHS_DOWN, WIDTHS_UP

_Kernel = tuple[int, ...]
# A number, or three for z, y and x; or `UNKNOWN`.
_Factor = int | list[int] | str
_Tensor = tuple[str, tuple[int, ...]]
_Shapes = Mapping[str, tuple[int, ...]]

_POINT: Final = (1, 1, 1)
_USUAL: Final = ((3, 3, 3), (3, 3, 3))
_HEAD: Final = "prediction_head"
# What an upsampling calls its convolution: after a repetition of voxels, or itself a transposed one, which is
# alone there unless an activation follows.
_ACTIVATED: Final = "up.0"
_UPSAMPLINGS: Final = {"up.1": "constant", _ACTIVATED: "transposed", "up": "transposed"}


def recognise(
    shapes: Mapping[str, Sequence[int]],
    *,
    input_voxel_size: Sequence[float] | None = None,
    output_voxel_size: Sequence[float] | None = None,
) -> dict[str, Any] | None:
    """Recognise a COSEM U-Net by the names and shapes of its tensors.

    Parameters
    ----------
    shapes : mapping of str to sequence of int
        The shape of every tensor, by its canonical name (``backbone.…``, ``prediction_head.…``).
    input_voxel_size, output_voxel_size : sequence of float, optional
        In nm. Their ratio says by how much the final upsampling enlarges, where no tensor says it.

    Returns
    -------
    dict or None
        None unless every tensor is one of such a network and none is missing. Else, as JSON values:

        ``input_channels``, ``channels``
            How many the network takes and gives.
        ``widths_down``, ``widths_up``
            Feature maps of each level before the bottom and of the bottom; after it, the finest first.
        ``upsampling``
            ``"constant"`` (voxels are repeated, then convolved) or ``"transposed"``.
        ``factors``
            By how much the features of each level are pooled.
        ``activation_on_upsample``
            Whether an activation follows each upsampling.
        ``final_upsample``
            The factor of the upsampling after the U-Net; None for the plain form, which has none.
        ``final_width``
            Feature maps before the head, where they are not those of the finest level.
        ``kernel_sizes_down``, ``kernel_sizes_up``, ``kernel_sizes_final``
            Kernel sizes (z y x) of every convolution, by level, where they are not all 3 3 3 and 3 3 3.

        What nothing says is `UNKNOWN`.

    Notes
    -----
    A factor is a number, or three for z, y and x where they differ. Those of transposed convolutions are
    their kernel sizes, and their names say whether an activation follows. Pooling, the repetition of voxels
    and activations have no tensors. So for constant upsampling, factors and activation are those of the
    published networks where all that the tensors do say is as in these, widths included, and else unknown.
    The factor of the final upsampling is the ratio of the voxel sizes; without these, the same holds for it.
    Padding, which leaves no trace either, is left out, and means ``"valid"``.
    """
    found = {name: tuple(shape) for name, shape in shapes.items()}
    try:
        network = _read(found)
    except (LookupError, ValueError):
        return None
    # One comparison is the whole check: what was read off some of the tensors must give all of them.
    if dict(network.tensors()) != found:
        return None
    return network.arguments(_ratio(input_voxel_size, output_voxel_size))


@frozen
class _Pass:
    """Convolutions one after another, all of one width."""

    width: int
    kernels: tuple[_Kernel, ...]

    def tensors(self, name: str, width_in: int) -> Iterator[_Tensor]:
        for i, kernel in enumerate(self.kernels):
            # Between two convolutions is an activation, which counts as one.
            yield from _convolution(f"{name}.conv_pass.{2 * i}", width_in, self.width, kernel)
            width_in = self.width


@frozen
class _Network:
    root: str
    way: str
    input_channels: int
    channels: int
    down: tuple[_Pass, ...]
    up: tuple[_Pass, ...]
    factors: tuple[_Kernel, ...]
    # What follows the U-Net; in the plain form nothing does.
    final_factor: _Kernel | None
    final: _Pass | None

    def tensors(self) -> Iterator[_Tensor]:
        width = self.input_channels
        for level, convolutions in enumerate(self.down):
            yield from convolutions.tensors(f"{self.root}l_conv.{level}", width)
            width = convolutions.width
        below = [convolutions.width for convolutions in (*self.up[1:], self.down[-1])]
        for level, (left, right, factor) in enumerate(zip(self.down, self.up, self.factors, strict=False)):
            yield from self._upsampling(f"{self.root}r_up.0.{level}", below[level], right.width, factor)
            yield from right.tensors(f"{self.root}r_conv.0.{level}", left.width + right.width)
        width = self.up[0].width
        if self.final is not None and self.final_factor is not None:
            yield from self._upsampling("backbone.1", width, width, self.final_factor)
            yield from self.final.tensors("backbone.2", width)
            width = self.final.width
        yield from _convolution(_HEAD, width, self.channels, _POINT)

    def arguments(self, ratio: _Factor | None) -> dict[str, Any]:
        arguments: dict[str, Any] = {
            "input_channels": self.input_channels,
            "channels": self.channels,
            "widths_down": [convolutions.width for convolutions in self.down],
            "widths_up": [convolutions.width for convolutions in self.up],
            "upsampling": _UPSAMPLINGS[self.way],
            **self._hidden(ratio),
        }
        passes = {"kernel_sizes_down": self.down, "kernel_sizes_up": self.up}
        if self.final is None:
            arguments["final_upsample"] = None
        else:
            passes["kernel_sizes_final"] = (self.final,)
            if self.final.width != self.up[0].width:
                arguments["final_width"] = self.final.width
        for name, those in passes.items():
            if any(convolutions.kernels != _USUAL for convolutions in those):
                arguments[name] = [[list(kernel) for kernel in each.kernels] for each in those]
        return arguments

    def _hidden(self, ratio: _Factor | None) -> dict[str, Any]:
        """Give what transposed convolutions say, and no tensor of the constant form."""
        if _UPSAMPLINGS[self.way] == "transposed":
            return {
                "factors": [_factor(kernel) for kernel in self.factors],
                "activation_on_upsample": self.way == _ACTIVATED,
                "final_upsample": None if self.final_factor is None else _factor(self.final_factor),
            }
        published = self._is_as_published()
        return {
            "factors": list(FACTORS) if published else UNKNOWN,
            "activation_on_upsample": True if published else UNKNOWN,
            "final_upsample": ratio or (FINAL_UPSAMPLE if published else UNKNOWN),
        }

    def _is_as_published(self) -> bool:
        down, up = tuple(one.width for one in self.down), tuple(one.width for one in self.up)
        final = (self.final,) if self.final else ()
        return (
            (self.input_channels, down, up) == (1, WIDTHS_DOWN, WIDTHS_UP)
            and all(one.kernels == _USUAL for one in (*self.down, *self.up, *final))
            and all(one.width == WIDTHS_UP[0] for one in final)
        )

    def _upsampling(self, name: str, width_in: int, width: int, factor: _Kernel) -> Iterator[_Tensor]:
        name = f"{name}.{self.way}"
        if _UPSAMPLINGS[self.way] == "constant":
            yield from _convolution(name, width_in, width, _POINT)
        else:
            yield f"{name}.weight", (width_in, width, *factor)
            yield f"{name}.bias", (width,)


def _read(shapes: _Shapes) -> _Network:
    nested = any(name.startswith("backbone.0.") for name in shapes)
    root = "backbone.0." if nested else "backbone."
    down = tuple(_passes(shapes, f"{root}l_conv"))
    up = tuple(_passes(shapes, f"{root}r_conv.0"))
    if not up:
        raise LookupError
    way = next((way for way in _UPSAMPLINGS if f"{root}r_up.0.0.{way}.weight" in shapes), "")
    return _Network(
        root=root,
        way=way,
        input_channels=shapes[f"{root}l_conv.0.conv_pass.0.weight"][1],
        channels=shapes[f"{_HEAD}.weight"][0],
        down=down,
        up=up,
        factors=tuple(_kernel(shapes[f"{root}r_up.0.{level}.{way}.weight"]) for level in range(len(up))),
        final_factor=_kernel(shapes[f"backbone.1.{way}.weight"]) if nested else None,
        final=_pass(shapes, "backbone.2") if nested else None,
    )


def _passes(shapes: _Shapes, name: str) -> Iterator[_Pass]:
    for level in count():
        if f"{name}.{level}.conv_pass.0.weight" not in shapes:
            return
        yield _pass(shapes, f"{name}.{level}")


def _pass(shapes: _Shapes, name: str) -> _Pass:
    names = (f"{name}.conv_pass.{2 * i}.weight" for i in count())
    found = [shapes[name] for name in takewhile(shapes.__contains__, names)]
    return _Pass(found[0][0], tuple(map(_kernel, found)))


def _kernel(shape: tuple[int, ...]) -> _Kernel:
    _, _, *kernel = shape
    if len(kernel) != len(_POINT):
        raise LookupError
    return tuple(kernel)


def _convolution(name: str, width_in: int, width: int, kernel: _Kernel) -> Iterator[_Tensor]:
    yield f"{name}.weight", (width, width_in, *kernel)
    yield f"{name}.bias", (width,)


def _ratio(
    input_voxel_size: Sequence[float] | None, output_voxel_size: Sequence[float] | None
) -> _Factor | None:
    """Give how many output voxels lie along an input voxel: `UNKNOWN` where those are no whole numbers."""
    if input_voxel_size is None or output_voxel_size is None:
        return None
    ratios = [large / small for large, small in zip(input_voxel_size, output_voxel_size, strict=True)]
    whole = [round(ratio) for ratio in ratios]
    return _factor(whole) if all(map(math.isclose, ratios, whole)) and min(whole) > 0 else UNKNOWN


def _factor(numbers: Sequence[int]) -> _Factor:
    """Give a factor along z, y and x as one number, where it is the same along all of them."""
    return numbers[0] if len(set(numbers)) == 1 else list(numbers)

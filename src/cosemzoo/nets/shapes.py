"""How large the output of a COSEM U-Net is, by arithmetic: no torch, no forward pass.

Along an axis, what fits is a smallest size and every whole step beyond it. A step is what all the pooling
together makes one voxel of, and the output grows by the same stretch. So what is cropped on the way is the
same for all sizes, and is worked out once, for the smallest.
"""

from collections.abc import Mapping, Sequence
from itertools import count
from typing import Any, Final

from attrs import frozen

from cosemzoo.nets.arguments import CosemArguments, Kernels, Voxels, read_arguments

_AXES: Final = ("z", "y", "x")


@frozen
class Crop:
    """Voxels that are cut off along an axis: at its start, and at both ends together."""

    start: int
    total: int


@frozen
class Axis:
    """The sizes that fit along one axis.

    Attributes
    ----------
    smallest : int
        Voxels of the smallest input.
    step : int
        What may be added to it, any number of times.
    output : int
        Voxels of the output of the smallest input.
    factor : int
        Voxels of the output along one of the input.
    skipped, upsampled : tuple of Crop
        What is cropped at each level, the finest first, of the features from before the pooling and of those
        that come up from below, before the two are joined.
    """

    smallest: int
    step: int
    output: int
    factor: int
    skipped: tuple[Crop, ...]
    upsampled: tuple[Crop, ...]

    def fits(self, size: int) -> bool:
        """Say whether an input of this size fits."""
        return size >= self.smallest and (size - self.smallest) % self.step == 0

    def at_least(self, size: int) -> int:
        """Give the smallest size that fits and is no smaller than another."""
        steps = max(0, -((self.smallest - size) // self.step))
        return self.smallest + steps * self.step

    def output_of(self, size: int) -> int:
        """Give the voxels of the output of an input that fits."""
        return self.output + (size - self.smallest) * self.factor


@frozen
class Shapes:
    """The shapes of a network's input and output, in voxels along z, y and x.

    Examples
    --------
    >>> shapes = shapes_of({"channels": 14})
    >>> shapes.valid_input_shape((200, 216, 1)), shapes.output_shape((216, 216, 198))
    ((216, 216, 198), (68, 68, 32))
    >>> shapes.context
    (91.0, 91.0, 91.0)
    """

    axes: tuple[Axis, Axis, Axis]

    @property
    def context(self) -> tuple[float, float, float]:
        """Voxels of the input, at each end of an axis, that the output does not reach.

        Where it is not whole, half a voxel fewer at the start and half a voxel more at the end.

        Times the voxel size of the input it is in nm: 91 · 8 nm = 728 nm for the published networks with 8 nm
        input. With padding ``"same"`` voxels further in are influenced by the border too.
        """
        z, y, x = ((axis.smallest - axis.output / axis.factor) / 2 for axis in self.axes)
        return z, y, x

    def valid_input_shape(self, at_least: Sequence[int] = (1, 1, 1)) -> Voxels:
        """Give the smallest input that fits and is at least this large along each axis.

        Parameters
        ----------
        at_least : sequence of three int
            Voxels along z, y and x; the smallest input of all if it is left out.

        Raises
        ------
        ValueError
            If these are not three.
        """
        z, y, x = (axis.at_least(size) for axis, size in zip(self.axes, _three(at_least), strict=True))
        return z, y, x

    def output_shape(self, input_shape: Sequence[int]) -> Voxels:
        """Give the shape of the output of an input.

        Parameters
        ----------
        input_shape : sequence of three int
            Voxels along z, y and x.

        Raises
        ------
        ValueError
            If no input of this shape fits; it says which are the nearest that do.
        """
        sizes = tuple(zip(_AXES, self.axes, _three(input_shape), strict=True))
        wrong = [_near(name, axis, size) for name, axis, size in sizes if not axis.fits(size)]
        if wrong:
            given = " x ".join(map(str, input_shape))
            larger = " x ".join(map(str, self.valid_input_shape(input_shape)))
            raise ValueError(
                f"an input of {given} voxels (z y x) does not fit the network: {'; '.join(wrong)}. "
                f"The next larger input that fits has {larger}."
            )
        z, y, x = (axis.output_of(size) for _, axis, size in sizes)
        return z, y, x


def _three(sizes: Any) -> Voxels:
    try:
        z, y, x = sizes
    except (TypeError, ValueError) as error:
        raise ValueError(f"voxels along z, y and x are three numbers, not {sizes!r}") from error
    return z, y, x


def shapes_of(arguments: Mapping[str, Any] | CosemArguments) -> Shapes:
    """Work out the shapes of a COSEM U-Net.

    Parameters
    ----------
    arguments : mapping
        As in a manifest's ``architecture.arguments``; see `CosemUNet`.

    Raises
    ------
    ValueError
        If no network can be built from them.
    """
    read = arguments if isinstance(arguments, CosemArguments) else read_arguments(arguments)
    z, y, x = (_axis(read, axis) for axis in range(3))
    return Shapes((z, y, x))


def _near(name: str, axis: Axis, size: int) -> str:
    above = axis.at_least(size)
    if above == axis.smallest:
        return f"{name} has {size}, the smallest that fits is {above}"
    return f"{name} has {size}, the nearest that fit are {above - axis.step} and {above}"


def _axis(arguments: CosemArguments, axis: int) -> Axis:
    sizes = (_sizes(arguments, axis, bottom) for bottom in count(1))
    return next(found for found in sizes if found is not None)


def _sizes(arguments: CosemArguments, axis: int, bottom: int) -> Axis | None:
    """Follow the sizes from those of the pooled features at the bottom: back to the input, on to the output.

    None if nothing is left on the way to the output.
    """
    valid = arguments.padding == "valid"
    down = [_lost(kernels, axis) for kernels in arguments.kernel_sizes_down]
    up = [_lost(kernels, axis) for kernels in arguments.kernel_sizes_up]
    final = sum(_lost(kernels, axis) for kernels in arguments.kernel_sizes_final)
    levels, steps = len(up), arguments.steps(axis)
    left, size = [0] * levels, bottom
    for level in reversed(range(levels)):
        left[level] = size * arguments.factors[level][axis]
        size = left[level] + valid * down[level]
    smallest = size

    skipped, upsampled = [Crop(0, 0)] * levels, [Crop(0, 0)] * levels
    size = bottom - valid * down[-1]
    for level in reversed(range(levels)):
        before = size * arguments.factors[level][axis]
        # Upsampled features are cropped so that whole steps are left after the convolutions. Then an input
        # moved by a step gives the same output, moved; else it would depend on where a block was cut out.
        kept = (before - up[level]) // steps[level] * steps[level] + up[level]
        if size < 1 or (kept != before and kept <= up[level]):
            return None
        skipped[level], upsampled[level] = _crop(left[level], kept), _crop(before, kept)
        size = kept - valid * up[level]
    factor = 1 if arguments.final_upsample is None else arguments.final_upsample[axis]
    output = size * factor - valid * final
    if min(size, output) < 1:
        return None
    return Axis(smallest, steps[0], output, factor, tuple(skipped), tuple(upsampled))


def _lost(kernels: Kernels, axis: int) -> int:
    return sum(kernel[axis] - 1 for kernel in kernels)


def _crop(size: int, kept: int) -> Crop:
    return Crop((size - kept) // 2, size - kept)

"""What a COSEM U-Net is built from: read with suspicion, because it comes from files of other people.

The names are those of a manifest's ``architecture.arguments``, and of what `recognise` gives.
"""

from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from math import prod
from typing import Any, Final

from attrs import fields_dict, frozen

#: Voxels along z, y and x.
Voxels = tuple[int, int, int]
#: The kernel sizes of convolutions that follow one another.
Kernels = tuple[Voxels, ...]

#: The feature widths of the published networks, by level: before the bottom and the bottom; after it.
WIDTHS_DOWN: Final = (12, 72, 432, 2592)
WIDTHS_UP: Final = (72, 72, 432)
#: Their pooling, by level.
FACTORS: Final = (2, 3, 3)
#: Their last enlargement, from voxels of 8 nm to voxels of 4 nm.
FINAL_UPSAMPLE: Final = 2

#: Stands for an argument that nothing says, as `recognise` gives it: no network is built with a guess.
UNKNOWN: Final = "unknown"

_USUAL_PASS: Final = ((3, 3, 3), (3, 3, 3))
# Far beyond any network of this kind, and near enough that the size of no tensor leaves 64 bits.
_MOST_FEATURES: Final = 100_000
_MOST_VOXELS: Final = 32
_MOST_ENTRIES: Final = 16


@frozen(kw_only=True)
class CosemArguments:
    """The arguments of a `CosemUNet`, complete and consistent; it says what they mean.

    Attributes
    ----------
    final_width : int
        Feature maps before the head.
    kernel_sizes_final : tuple
        Of the one pass after the final upsampling; empty where there is none.
    """

    channels: int
    input_channels: int
    widths_down: tuple[int, ...]
    widths_up: tuple[int, ...]
    factors: tuple[Voxels, ...]
    upsampling: str
    final_upsample: Voxels | None
    final_width: int
    kernel_sizes_down: tuple[Kernels, ...]
    kernel_sizes_up: tuple[Kernels, ...]
    kernel_sizes_final: tuple[Kernels, ...]
    padding: str
    activation_on_upsample: bool

    def steps(self, axis: int) -> tuple[int, ...]:
        """Give how many voxels of each level, the finest first, are pooled into one at the bottom."""
        along = [factor[axis] for factor in self.factors]
        return tuple(prod(along[level:]) for level in range(len(along)))


def read_arguments(arguments: Mapping[str, Any]) -> CosemArguments:
    """Read the arguments of a COSEM U-Net.

    Parameters
    ----------
    arguments : mapping
        JSON values; see `CosemUNet`. What is left out, ``channels`` excepted, is as in the published networks
        with 8 nm input and 4 nm output.

    Raises
    ------
    ValueError
        If an argument has another name than there are, is `UNKNOWN`, missing, of another type, out of range
        or at odds with another. It lists all of them.

    Examples
    --------
    >>> read_arguments({"channels": 14}).widths_up
    (72, 72, 432)
    """
    reader = _Reader(arguments)
    read = reader.read()
    if reader.problems:
        lines = "".join(f"\n  - {problem}" for problem in reader.problems)
        raise ValueError(f"no cosem-unet can be built from these arguments:{lines}")
    return read


class _Reader:
    """Reads argument by argument and collects what is wrong; a placeholder stands for what is."""

    def __init__(self, arguments: Mapping[str, Any]) -> None:
        self.problems: list[str] = []
        texts = {name: value for name, value in arguments.items() if isinstance(value, str)}
        self._unknown = {name for name, value in texts.items() if value == UNKNOWN}
        self._arguments = {name: arguments[name] for name in arguments if name not in self._unknown}
        known = fields_dict(CosemArguments)
        for name in arguments:
            if name not in known:
                near = get_close_matches(str(name), known, n=1)
                hint = f"did you mean {near[0]!r}? " if near else ""
                self.problems.append(f"{name!r} is not known; {hint}known are: {', '.join(known)}")
        if self._unknown:
            names = ", ".join(name for name in arguments if name in self._unknown)
            self.problems.append(
                f"{names}: {UNKNOWN}, as no tensor says it; the card of the run has to, below "
                "cosemzoo.architecture.arguments"
            )

    def read(self) -> CosemArguments:
        widths_down = self._numbers("widths_down", WIDTHS_DOWN)
        widths_up = self._numbers("widths_up", WIDTHS_UP)
        levels = len(widths_up)
        if self._arguments.get("final_upsample", FINAL_UPSAMPLE) is None:
            final_upsample, final_width, final_passes = None, widths_up[0], 0
            self._refuse_final()
        else:
            final_upsample = self._voxels("final_upsample", self._given("final_upsample", FINAL_UPSAMPLE))
            final_width = self._number("final_width", self._given("final_width", widths_up[0]))
            final_passes = 1
        read = CosemArguments(
            channels=self._channels(),
            input_channels=self._number("input_channels", self._given("input_channels", 1)),
            widths_down=widths_down,
            widths_up=widths_up,
            factors=self._factors(levels),
            upsampling=self._choice("upsampling", ("constant", "transposed")),
            final_upsample=final_upsample,
            final_width=final_width,
            kernel_sizes_down=self._passes("kernel_sizes_down", len(widths_down)),
            kernel_sizes_up=self._passes("kernel_sizes_up", levels),
            kernel_sizes_final=self._passes("kernel_sizes_final", final_passes),
            padding=self._choice("padding", ("valid", "same")),
            activation_on_upsample=self._flag("activation_on_upsample"),
        )
        if len(widths_down) != levels + 1:
            self.problems.append(
                f"widths_down has {len(widths_down)} entries and widths_up has {levels}; "
                "the way down has one more, the bottom"
            )
        if read.padding == "same":
            self._refuse_even(read)
        return read

    def _given(self, name: str, default: Any) -> Any:
        value = self._arguments.get(name)
        return default if value is None else value

    def _wrong(self, path: str, value: Any, wanted: str) -> None:
        shown = repr(value)
        self.problems.append(
            f"{path} is {shown if len(shown) < 60 else shown[:57] + '…'}; it must be {wanted}"
        )

    def _number(self, path: str, value: Any, most: int = _MOST_FEATURES) -> int:
        # A bool is an int in Python, and in no other's JSON.
        if isinstance(value, int) and not isinstance(value, bool) and 1 <= value <= most:
            return value
        self._wrong(path, value, f"a whole number from 1 to {most:,}")
        return 1

    def _list(self, path: str, value: Any, wanted: str) -> Sequence[Any]:
        if isinstance(value, Sequence) and not isinstance(value, str) and 1 <= len(value) <= _MOST_ENTRIES:
            return value
        self._wrong(path, value, f"a list of 1 to {_MOST_ENTRIES} {wanted}")
        return ()

    def _numbers(self, name: str, default: Sequence[int]) -> tuple[int, ...]:
        given = self._list(name, self._given(name, default), "whole numbers, one for each level")
        return tuple(self._number(f"{name}[{i}]", value) for i, value in enumerate(given)) or (1,)

    def _voxels(self, path: str, value: Any) -> Voxels:
        if isinstance(value, Sequence) and not isinstance(value, str):
            if len(value) == 3:
                z, y, x = (self._number(f"{path}[{i}]", n, _MOST_VOXELS) for i, n in enumerate(value))
                return z, y, x
            self._wrong(path, value, "one number, or three for z, y and x")
            return 1, 1, 1
        number = self._number(path, value, _MOST_VOXELS)
        return number, number, number

    def _channels(self) -> int:
        if self._arguments.get("channels") is None:
            self.problems.append("channels is missing; say how many rows the head has")
            return 1
        return self._number("channels", self._arguments["channels"])

    def _factors(self, levels: int) -> tuple[Voxels, ...]:
        default = (1,) * levels if "factors" in self._unknown else FACTORS
        given = self._list("factors", self._given("factors", default), "factors, one for each pooling")
        factors = tuple(self._voxels(f"factors[{i}]", value) for i, value in enumerate(given))
        if given and len(factors) != levels:
            self.problems.append(f"factors has {len(factors)} entries; widths_up has {levels} levels")
        return factors

    def _passes(self, name: str, count: int) -> tuple[Kernels, ...]:
        given = self._arguments.get(name)
        if given is None or count == 0:
            return (_USUAL_PASS,) * count
        passes = []
        for i, each in enumerate(self._list(name, given, "lists of kernel sizes")):
            kernels = self._list(f"{name}[{i}]", each, "kernel sizes")
            passes.append(
                tuple(self._voxels(f"{name}[{i}][{j}]", kernel) for j, kernel in enumerate(kernels))
            )
        if passes and len(passes) != count:
            self.problems.append(f"{name} has {len(passes)} entries; there are {count} such levels")
        return tuple(passes)

    def _choice(self, name: str, known: tuple[str, ...]) -> str:
        value = self._given(name, known[0])
        if value not in known:
            self._wrong(name, value, " or ".join(map(repr, known)))
        return str(value)

    def _flag(self, name: str) -> bool:
        value = self._given(name, default=True)
        if not isinstance(value, bool):
            self._wrong(name, value, "true or false")
        return bool(value)

    def _refuse_final(self) -> None:
        for name in ("final_width", "kernel_sizes_final"):
            if self._arguments.get(name) is not None:
                self.problems.append(
                    f"{name} is given, but final_upsample is None: nothing follows the U-Net"
                )

    def _refuse_even(self, read: CosemArguments) -> None:
        for name in ("kernel_sizes_down", "kernel_sizes_up", "kernel_sizes_final"):
            sizes = [kernel for kernels in getattr(read, name) for kernel in kernels]
            if any(size % 2 == 0 for kernel in sizes for size in kernel):
                self.problems.append(f"{name} has an even size, which padding 'same' cannot centre")

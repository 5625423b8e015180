"""What a checkpoint was trained on beside what a model will be given: ranges of values, voxel sizes."""

from collections.abc import Sequence
from typing import Any

from attrs import frozen

from cosemzoo.errors import InvalidInput, InvalidOption
from cosemzoo.manifest import Manifest


@frozen
class Folding:
    """A change of the input's range: what the network was trained on is ``scale * given + shift``.

    Attributes
    ----------
    expected, given : (float, float)
        The smallest and the largest value that the checkpoint expects, and that the model will be given.
    """

    expected: tuple[float, float]
    given: tuple[float, float]

    @classmethod
    def of(cls, given: Any, manifest: Manifest | None) -> "Folding | None":
        """Give the change; None where there is none.

        Raises
        ------
        InvalidOption
            If `given` is no range.
        InvalidInput
            If the checkpoint does not say what it expects.
        """
        if given is None:
            return None
        expected = manifest.input_range if manifest else None
        if expected is None:
            raise InvalidInput(["the checkpoint does not say which range of values it expects"])
        numbers = _numbers(given)
        if len(numbers) != 2 or not 0 < numbers[1] - numbers[0] < float("inf"):
            raise InvalidOption("input_range", given, "(smallest, largest), such as (0, 1)")
        low, high = numbers
        return None if (low, high) == tuple(expected) else cls((expected[0], expected[1]), (low, high))

    @property
    def scale(self) -> float:
        """What is given is multiplied by this."""
        return (self.expected[1] - self.expected[0]) / (self.given[1] - self.given[0])

    @property
    def shift(self) -> float:
        """And this is added."""
        return self.expected[0] - self.scale * self.given[0]

    @property
    def difference(self) -> str:
        """Say both ranges, and what is done about it."""
        return (
            f"the checkpoint expects values in {_interval(self.expected)}, the model will be given "
            f"{_interval(self.given)}: its first layer is changed so that it computes the same, if nothing "
            "but this layer is given the input"
        )

    def __str__(self) -> str:
        """Give both ranges."""
        return f"input range {_interval(self.expected)} → {_interval(self.given)}"


def voxel_differences(voxel_size: Any, manifest: Manifest | None) -> list[str]:
    """Say how the voxels that the model will be given differ from those that the checkpoint expects.

    Raises
    ------
    InvalidOption
        If `voxel_size` is no length, or not three.
    """
    if voxel_size is None:
        return []
    given = _voxel_size(voxel_size)
    if manifest is None or manifest.input_voxel_size is None:
        unknown = "the checkpoint does not say which voxels it expects"
        return [f"{unknown}, the model will be given {_lengths(given)}"]
    expected = manifest.input_voxel_size
    if given == tuple(expected):
        return []
    sampling = f" ({manifest.input_sampling})" if manifest.input_sampling else ""
    return [
        f"the checkpoint expects voxels of {_lengths(expected)}{sampling}, the model will be given "
        f"{_lengths(given)}: resample the data, or expect to train longer"
    ]


def expected_input(manifest: Manifest | None) -> str:
    """Say what a checkpoint was trained on, as far as it says: voxel size, how it was sampled, range."""
    if manifest is None:
        return ""
    said = []
    if manifest.input_voxel_size is not None:
        sampling = f" ({manifest.input_sampling})" if manifest.input_sampling else ""
        said.append(f"voxels of {_lengths(manifest.input_voxel_size)}{sampling}")
    if manifest.input_range is not None:
        said.append(f"values in {_interval(manifest.input_range)}")
    if manifest.input_channels:
        said.append(f"channels {', '.join(manifest.input_channels)}")
    return ", ".join(said)


def _voxel_size(given: Any) -> tuple[float, ...]:
    values = _numbers(given)
    if len(values) == 1 and not isinstance(given, Sequence):
        values *= 3
    if len(values) != 3 or not all(0 < value < float("inf") for value in values):
        raise InvalidOption("voxel_size", given, "three lengths in nm, z y x, above 0, or one for all")
    return tuple(values)


def _numbers(given: Any) -> list[float]:
    """Give the numbers of a number, a sequence, an array or a tensor; none where they are no numbers."""
    members = _plain(given)
    members = members if isinstance(members, (list, tuple)) else [members]
    numbers = [_plain(member) for member in members]
    if not all(isinstance(number, (int, float)) and not isinstance(number, bool) for number in numbers):
        return []
    try:
        return [float(number) for number in numbers]
    except OverflowError:
        return []


def _plain(value: Any) -> Any:
    # numpy's and torch's numbers and arrays give Python's so.
    tolist = getattr(value, "tolist", None)
    return tolist() if callable(tolist) else value


def _interval(values: Sequence[float]) -> str:
    return f"[{values[0]:g}, {values[1]:g}]"


def _lengths(values: Sequence[float]) -> str:
    return f"{' x '.join(f'{value:g}' for value in values)} nm"

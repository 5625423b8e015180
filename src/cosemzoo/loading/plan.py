"""The plan of a load, as a value: every copy that it will make, everything that it will not, and why."""

from collections.abc import Mapping
from functools import lru_cache
from typing import Literal, NamedTuple, TypeAlias

from attrs import frozen

from cosemzoo.errors import CoverageTooLow, InvalidInput, StrictLoadFailed, listing
from cosemzoo.loading.account import Account
from cosemzoo.loading.inputs import DerivedTensor
from cosemzoo.loading.rendering import render_html, render_text

#: The (start, stop) of a copy along each axis.
Box: TypeAlias = tuple[tuple[int, int], ...]
Strict: TypeAlias = Literal["auto", "require", "never"]


class Copy(NamedTuple):
    """One copy from a box of a stored tensor to a box of the same shape of a model's tensor."""

    source: str
    source_box: Box
    target: str
    target_box: Box


@frozen(kw_only=True)
class LoadPlan(Account):
    """Everything that a load will do, before it does anything.

    Attributes
    ----------
    copies : tuple of Copy
        Every element of the model is in at most one of the target boxes.
    equal : tuple of (str, str)
        Pairs of stored tensors that are one tensor in the model: they must hold the same values.
    differences : tuple of str
        Why the load is not strict.
    derived : mapping of str to DerivedTensor
        Sources of copies that are computed from stored tensors, by what the copies call them.
    input_problem : str
        Why the first layer cannot be filled without the caller's word; empty where it can.
    strict : {"auto", "require", "never"}
    min_coverage : float
    """

    copies: tuple[Copy, ...]
    equal: tuple[tuple[str, str], ...]
    differences: tuple[str, ...]
    derived: Mapping[str, DerivedTensor]
    input_problem: str
    strict: Strict
    min_coverage: float

    def check(self) -> None:
        """Refuse the load if it is not what the caller allows.

        Raises
        ------
        StrictLoadFailed
            If `strict` is "require" and anything differs.
        InvalidInput
            If the first layer has another number of input channels, and nobody said what to do.
        CoverageTooLow
            If less than `min_coverage` of the backbone would be filled, or nothing at all of the model. Zero
            allows both.
        """
        if self.strict == "require" and self.differences:
            raise StrictLoadFailed(self.reference, self.differences)
        self._check_coverage()
        if self.input_problem:
            raise InvalidInput([self.input_problem])

    def _check_coverage(self) -> None:
        if self.min_coverage <= 0:
            return
        coverage, whole = self.coverage, self.model_coverage
        # A head that is filled in part has no tensor that is filled whole.
        fraction = coverage.fraction if coverage.all_tensors else whole.fraction_of_parameters
        if whole.parameters == 0 and self.differences:
            fraction = 0.0
        if fraction < self.min_coverage:
            details = self._comparison(str(coverage if coverage.all_tensors else whole))
            raise CoverageTooLow(self.reference, fraction, self.min_coverage, details)

    def __str__(self) -> str:
        """Give a table for a person."""
        return render_text(self, self._heading())

    def _repr_html_(self) -> str:
        return render_html(self, self._heading())

    def _heading(self) -> str:
        try:
            self.check()
        except (StrictLoadFailed, CoverageTooLow, InvalidInput) as error:
            return f"plan of a load of {self.title}, which would be refused: {error}"
        return f"plan of a {self.outcome} load of {self.title}: {len(self.copies)} copies"

    def _comparison(self, coverage: str) -> str:
        missing = listing((f"{t.name} {list(t.shape)}" for t in self.missing), shown=4)
        mismatched = listing((f"{t.name}: {t.reason}" for t in self.mismatched), shown=4)
        unused = listing((f"{t.name} {list(t.shape)}" for t in self.unused), shown=4)
        parts = [f"It would fill {coverage}."]
        parts += [f"In the model only:{missing}"] if missing else []
        parts += [f"In both, but different:{mismatched}"] if mismatched else []
        parts += [f"In the checkpoint only:{unused}"] if unused else []
        return "\n".join(parts)


@lru_cache(maxsize=1024)
def whole(shape: tuple[int, ...]) -> Box:
    """Give the box that is a whole tensor."""
    return tuple([(0, length) for length in shape])

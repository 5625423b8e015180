"""What a load did, as a value."""

import json
from typing import Any

import attrs
from attrs import frozen

from cosemzoo.loading.account import Account
from cosemzoo.loading.plan import LoadPlan
from cosemzoo.loading.rendering import render_html, render_text


@frozen(kw_only=True)
class LoadReport(Account):
    """What a load did, tensor by tensor and channel by channel.

    Attributes
    ----------
    bytes : int
        Bytes written into the model.
    seconds : float
        How long planning and loading took; fetching is not counted.
    """

    bytes: int
    seconds: float

    @classmethod
    def of(cls, plan: LoadPlan, *, bytes_written: int, seconds: float) -> "LoadReport":
        """Give the report of a plan that was carried out."""
        common = {field.name: getattr(plan, field.name) for field in attrs.fields(Account)}
        return cls(**common, bytes=bytes_written, seconds=seconds)

    def to_dict(self) -> dict[str, Any]:
        """Give the report as JSON values, derived numbers included."""
        members = attrs.asdict(self, filter=lambda attribute, _: attribute.name != "tensors")
        members["tensors"] = [row._asdict() for row in self.tensors]
        values: dict[str, Any] = json.loads(json.dumps(members))
        for name in ("coverage", "model_coverage"):
            values[name] = attrs.asdict(getattr(self, name))
        for name in ("missing", "mismatched", "converted"):
            values[name] = [row.name for row in getattr(self, name)]
        return values

    def to_json(self) -> str:
        """Give the report as a JSON text."""
        return json.dumps(self.to_dict(), indent=2, ensure_ascii=False) + "\n"

    def __str__(self) -> str:
        """Give a table for a person."""
        return render_text(self, self._heading())

    def _repr_html_(self) -> str:
        return render_html(self, self._heading())

    def _heading(self) -> str:
        return f"{self.outcome} load of {self.title}: {self.bytes:,} bytes in {self.seconds:.3f} s"

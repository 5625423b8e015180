"""What a load did, as a value."""

import json
from typing import TYPE_CHECKING, Any

import attrs
from attrs import frozen

from cosemzoo.loading.account import Account
from cosemzoo.loading.plan import LoadPlan
from cosemzoo.loading.rendering import render_html, render_text

if TYPE_CHECKING:
    from torch import nn

    from cosemzoo.loading.fine_tuning import GroupOptions, Part


@frozen(kw_only=True)
class LoadReport(Account):
    """What a load did, tensor by tensor and channel by channel.

    Attributes
    ----------
    bytes : int
        Bytes that the model was filled with; where it shares them with the file, these count, too.
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

    def parameter_groups(
        self, model: "nn.Module", *, backbone: "GroupOptions", head: "GroupOptions", new: "GroupOptions"
    ) -> list[dict[str, Any]]:
        """Give the model's parameters in groups for a torch optimizer, by what the load did to each.

        Every parameter that requires a gradient is in one group, once, whatever its names. Frozen ones are in
        none: freeze first. Buffers, such as the statistics of batch normalisation, are no parameters.

        Parameters
        ----------
        model : torch.nn.Module
            The model that was loaded; it may have been wrapped since, or given other modules.
        backbone : float or mapping
            For tensors of the backbone that came from the checkpoint: a learning rate, or an optimizer's
            options, such as ``{"lr": 1e-5, "weight_decay": 0.0}``.
        head : float or mapping
            The same for tensors of a head of which at least one row came from the checkpoint.
        new : float or mapping
            The same for all others: those that kept the model's own values, heads of which no row was
            loaded, and what was added to the model after the load.

        Returns
        -------
        list of dict
            With ``params``, ``name`` (``backbone``, ``head`` or ``new``) and the options; a group without
            parameters is left out.

        Raises
        ------
        InvalidOption
            If a group is given neither a learning rate nor an optimizer's options.
        DifferentModel
            If what was loaded is not in the model.

        Notes
        -----
        A tensor of the same name and shape that took another's place after the load is not told from it.
        """
        from cosemzoo.loading.fine_tuning import parameter_groups  # noqa: PLC0415 - torch is not needed before

        return parameter_groups(self, model, {"backbone": backbone, "head": head, "new": new})

    def freeze(self, model: "nn.Module", part: "Part" = "loaded") -> tuple[str, ...]:
        """Let a part of the model require no gradient, so that training does not change it.

        Parameters
        ----------
        model : torch.nn.Module
            The model that was loaded; it may have been wrapped since, or given other modules.
        part : {"loaded", "backbone", "head", "new"}
            "loaded": parameters that came from the checkpoint to the last element. A head that was loaded
            in part is not among them, because its new rows have to be trained, and a tensor is frozen whole
            or not at all. The others are the groups of `parameter_groups`.

        Returns
        -------
        tuple of str
            The names of the parameters of this part, in the model as it is now.

        Raises
        ------
        InvalidOption
            If there is no such part.
        DifferentModel
            If what was loaded is not in the model.

        Notes
        -----
        The running statistics of batch normalisation are buffers: they change in every forward pass in
        training mode, frozen or not. Put such modules into evaluation mode to keep them.
        """
        from cosemzoo.loading.fine_tuning import set_trainable  # noqa: PLC0415 - torch is not needed before

        return set_trainable(self, model, part, trainable=False)

    def unfreeze(self, model: "nn.Module", part: "Part" = "loaded") -> tuple[str, ...]:
        """Let a part of the model require gradients, whatever froze it; the reverse of `freeze`.

        Parameters, result and errors are those of `freeze`.
        """
        from cosemzoo.loading.fine_tuning import set_trainable  # noqa: PLC0415 - torch is not needed before

        return set_trainable(self, model, part, trainable=True)

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

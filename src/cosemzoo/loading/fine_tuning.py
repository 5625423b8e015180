"""Training a model that was loaded: groups for an optimizer, and freezing, by what came from where."""

import re
from collections.abc import Iterator, Mapping
from typing import Any, Final, Literal, TypeAlias

import torch
from attrs import frozen
from torch import nn

from cosemzoo.errors import DifferentModel, InvalidOption
from cosemzoo.loading.account import Account, TensorRow
from cosemzoo.loading.pairing import TargetTensor, pair_by_name
from cosemzoo.loading.parametrized import find_parametrized

#: A learning rate, or an optimizer's options, such as ``{"lr": 1e-5, "weight_decay": 0.0}``.
GroupOptions: TypeAlias = "float | Mapping[str, Any]"
#: What can be frozen: a group, or "loaded": what came wholly from the checkpoint.
Part: TypeAlias = Literal["loaded", "backbone", "head", "new"]

#: In the order of how much each has to learn.
_GROUPS: Final = ("backbone", "head", "new")
#: What PEFT puts into the names of a module that it trains whole: of the original, and of the copy beside it.
_BESIDE: Final = re.compile(r"(?<=\.)(?:original_module|modules_to_save\.\w+)\.")


@frozen(eq=False)
class _Parameter:
    name: str
    parameter: nn.Parameter
    group: str
    is_loaded: bool

    def is_of(self, part: str) -> bool:
        return self.is_loaded if part == "loaded" else self.group == part


def parameter_groups(
    account: Account, model: nn.Module, options: Mapping[str, GroupOptions]
) -> list[dict[str, Any]]:
    """Give the groups of an optimizer; see `LoadReport.parameter_groups`.

    Parameters
    ----------
    account : Account
    model : torch.nn.Module
    options : mapping of str to GroupOptions
        By group.

    Raises
    ------
    InvalidOption
        If a group is given neither a learning rate nor an optimizer's options.
    DifferentModel
        If what was loaded is not in the model.
    """
    given = {name: _options(name, value) for name, value in options.items()}
    trained = [one for one in _parameters(account, model) if one.parameter.requires_grad]
    groups = []
    for name in _GROUPS:
        parameters = [one.parameter for one in trained if one.group == name]
        if parameters:
            groups.append({"params": parameters, "name": name, **given[name]})
    return groups


def set_trainable(account: Account, model: nn.Module, part: str, *, trainable: bool) -> tuple[str, ...]:
    """Freeze a part of a model, or train it again; see `LoadReport.freeze`.

    Raises
    ------
    InvalidOption
        If there is no such part.
    DifferentModel
        If what was loaded is not in the model.
    """
    if part not in ("loaded", *_GROUPS):
        raise InvalidOption("part", part, '"loaded", "backbone", "head" or "new"')
    members = [one for one in _parameters(account, model) if one.is_of(part)]
    for one in members:
        # Integers can be parameters, and can never be trained.
        if one.parameter.is_floating_point() or one.parameter.is_complex():
            one.parameter.requires_grad_(trainable)
    return tuple(one.name for one in members)


def _options(group: str, given: Any) -> dict[str, Any]:
    if isinstance(given, Mapping) and not {"params", "name"} & given.keys():
        return dict(given)
    if isinstance(given, (int, float)) and not isinstance(given, bool) and 0 <= given < float("inf"):
        return {"lr": given}
    allowed = 'a learning rate, or a mapping of an optimizer\'s options without "params" and "name"'
    raise InvalidOption(group, given, allowed)


def _parameters(account: Account, model: nn.Module) -> Iterator[_Parameter]:
    """Give every parameter of the model once, by what the load did to it."""
    state = {
        name: value
        for name, value in model.state_dict(keep_vars=True).items()
        if isinstance(value, torch.Tensor)
    }
    rows: dict[int, list[TensorRow]] = {}
    for row, names in _found(account, state):
        for name in names:
            rows.setdefault(id(state[name]), []).append(row)
    for name, parameter in model.named_parameters():
        of = rows.get(id(parameter), [])
        groups = [_group(row) for row in of] or ["new"]
        # Tied after the load, one parameter may be several of the tensors that there were.
        group = max(groups, key=_GROUPS.index)
        loaded = [row.status != "kept" and row.filled == row.parameters for row in of]
        yield _Parameter(name, parameter, group, is_loaded=bool(loaded) and all(loaded))


def _group(row: TensorRow) -> str:
    if row.status == "kept":
        return "new"
    return "head" if row.is_head else "backbone"


def _found(
    account: Account, state: Mapping[str, torch.Tensor]
) -> Iterator[tuple[TensorRow, tuple[str, ...]]]:
    """Find the tensors of a load in the model as it is now: wrapped since, or with weights in parts since."""
    parts = {plain: [*made.parts.values()] for plain, made in find_parametrized(state).items()}
    for name in state:
        plain = _BESIDE.sub("", name)
        if plain != name:
            parts.setdefault(plain, []).append(name)
    targets = [TargetTensor(row.name, row.aliases, row.shape, row.dtype) for row in account.tensors]
    pairing = pair_by_name(targets, [*state, *parts], None)
    now = {pairing.source.key(name): name for name in state}
    whole = {
        part: now.get(pairing.model.key(plain))
        for plain, made in find_parametrized(target.name for target in targets).items()
        for part in made.parts.values()
    }
    missing = []
    for row in account.tensors:
        found = pairing.names[row.name]
        direct = [name for name in found if name in state]
        names = [part for name in found for part in parts.get(name, ())]
        names += [name for name in [whole.get(row.name)] if name]
        if not direct and not names and row.status != "kept":
            missing.append(row.name)
        # One of another shape took its place after the load.
        same = [name for name in direct if state[name].shape == row.shape]
        yield row, (*same, *names)
    if missing:
        raise DifferentModel(account.reference, missing)

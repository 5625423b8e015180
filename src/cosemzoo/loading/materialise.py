"""Giving memory to tensors on `meta`: new ones in their place, initialised by their modules where needed."""

import copy
from collections.abc import Iterator, Sequence

import torch
from attrs import frozen
from torch import nn

from cosemzoo.errors import MetaTensorsLeft, UnsupportedModel
from cosemzoo.loading.model_tensors import ModelTensor, Owner


@frozen(eq=False)
class Replacement:
    """A tensor that takes the place of one on `meta`, in every module that holds it."""

    held: ModelTensor
    tensor: torch.Tensor

    def put(self) -> None:
        """Put the new tensor into its modules."""
        for owner in self.held.owners:
            setattr(owner.module, owner.attribute, self.tensor)

    def take_back(self) -> None:
        """Put the old tensor back."""
        for owner in self.held.owners:
            setattr(owner.module, owner.attribute, self.held.tensor)


def materialise(held_tensors: Sequence[ModelTensor], filled: set[str]) -> list[Replacement]:
    """Make a tensor on the CPU for every one on `meta`.

    Parameters
    ----------
    held_tensors : sequence of ModelTensor
        Every tensor of the model.
    filled : set of str
        The (first) names of the tensors that a load fills to the last element: these stay uninitialised
        here. All others are initialised as their module's `reset_parameters` does it.

    Returns
    -------
    list of Replacement
        The model itself is unchanged.

    Raises
    ------
    MetaTensorsLeft
        With every tensor that neither the load nor a `reset_parameters` fills.
    UnsupportedModel
        If a parameter's class cannot be made anew.
    """
    replacements = []
    unfilled: list[Replacement] = []
    problems: list[tuple[str, str]] = []
    for held in held_tensors:
        if held.tensor.device.type != "meta":
            continue
        if type(held.tensor) not in (torch.Tensor, nn.Parameter, nn.Buffer):
            problems.append((held.owners[0].path, f"on meta, and a {type(held.tensor).__name__}"))
            continue
        replacement = Replacement(held, _like(held.tensor))
        replacements.append(replacement)
        if not held.names or held.names[0] not in filled:
            unfilled.append(replacement)
    if problems:
        raise UnsupportedModel(problems)
    random = torch.get_rng_state()
    try:
        _initialise(unfilled)
    except BaseException:
        torch.set_rng_state(random)
        raise
    return replacements


def _like(tensor: torch.Tensor) -> torch.Tensor:
    values = torch.empty_strided(tensor.shape, tensor.stride(), dtype=tensor.dtype, device="cpu")
    if isinstance(tensor, nn.Parameter):
        new: torch.Tensor = nn.Parameter(values, requires_grad=tensor.requires_grad)
    elif isinstance(tensor, nn.Buffer):
        new = nn.Buffer(values, persistent=tensor.persistent)
    else:
        new = values.requires_grad_(tensor.requires_grad)
    new.__dict__.update(tensor.__dict__)
    return new


def _initialise(unfilled: Sequence[Replacement]) -> None:
    by_module: dict[nn.Module, list[tuple[Owner, Replacement]]] = {}
    for replacement in unfilled:
        owners = replacement.held.owners
        owner = next((one for one in owners if hasattr(one.module, "reset_parameters")), owners[0])
        by_module.setdefault(owner.module, []).append((owner, replacement))
    left: list[tuple[str, str]] = []
    for module, members in by_module.items():
        reset, problem = _reset_copy(module)
        for owner, replacement in members:
            values = getattr(reset, owner.attribute, None)
            if values is None:
                why = f"its module, {type(module).__name__}, {problem}"
            elif _is_marked(values):
                why = f"the reset_parameters of its module, {type(module).__name__}, does not fill it"
            else:
                with torch.no_grad():
                    replacement.tensor.copy_(values)
                continue
            left.append((owner.path, f"on meta, not filled by the checkpoint, and {why}"))
    if left:
        raise MetaTensorsLeft(left)


def _reset_copy(module: nn.Module) -> tuple[nn.Module | None, str]:
    """Copy a module, give its `meta` tensors marked memory, and let it reset itself; or say why it cannot."""
    if not callable(getattr(module, "reset_parameters", None)):
        return None, "has no reset_parameters"
    # A copy, because `reset_parameters` may write to tensors that the load fills, or that are not on `meta`.
    try:
        twin = copy.deepcopy(module)
    except (RuntimeError, TypeError) as error:
        return None, f"cannot be copied to reset it ({error})"
    for part in twin.modules():
        for attribute, tensor in _meta_tensors(part):
            new = _like(tensor)
            _mark(new)
            setattr(part, attribute, new)
    try:
        twin.reset_parameters()  # type: ignore[operator]
    except Exception as error:  # noqa: BLE001 - somebody else's code may raise anything; the caller says it
        return None, f"has a reset_parameters that fails ({error!r})"
    return twin, ""


def _meta_tensors(module: nn.Module) -> Iterator[tuple[str, torch.Tensor]]:
    members = [*module.named_parameters(recurse=False), *module.named_buffers(recurse=False)]
    yield from ((name, tensor) for name, tensor in members if tensor.device.type == "meta")


def _mark(tensor: torch.Tensor) -> None:
    with torch.no_grad():
        tensor.fill_(_marker(tensor.dtype))


def _is_marked(tensor: torch.Tensor) -> bool:
    if tensor.dtype.is_floating_point or tensor.dtype.is_complex:
        return bool(torch.isnan(tensor).any())
    # False and True both are values that a reset may have written: it is not known.
    return tensor.dtype == torch.bool or bool((tensor == _marker(tensor.dtype)).any())


def _marker(dtype: torch.dtype) -> float | int | bool:
    if dtype.is_floating_point or dtype.is_complex:
        return float("nan")
    return False if dtype == torch.bool else torch.iinfo(dtype).min or torch.iinfo(dtype).max

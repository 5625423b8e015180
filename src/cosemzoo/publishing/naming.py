"""What the tensors of a checkpoint are called: the one name of each, and the others that it had."""

from collections.abc import Iterable, Mapping
from typing import Self

import torch
from attrs import frozen

from cosemzoo.checkpoints.writer import aligned_pieces, bits_of, find_shared
from cosemzoo.errors import AliasConflict
from cosemzoo.loading.layouts import AS_IS, Layout, detect_layout, wrapper_prefix


@frozen
class Naming:
    """How the names of a checkpoint become the canonical ones.

    Attributes
    ----------
    prefix : str
        What wrappers put before every name.
    layout : Layout
        The naming scheme of what follows; `AS_IS` for an unknown network.
    """

    prefix: str
    layout: Layout

    @classmethod
    def of(cls, names: Iterable[str]) -> Self:
        """Recognise the naming of a checkpoint."""
        names = list(names)
        prefix = wrapper_prefix(names)
        layout = detect_layout(name.removeprefix(prefix) for name in names)
        if layout is not AS_IS:
            return cls(prefix, layout)
        # A Lightning module keeps the network as an attribute, under whatever name its author chose.
        attributes = {name.removeprefix(prefix).partition(".")[0] + "." for name in names}
        if len(attributes) == 1:
            deeper = prefix + attributes.pop()
            deeper += wrapper_prefix(name.removeprefix(deeper) for name in names)
            found = detect_layout(name.removeprefix(deeper) for name in names)
            if found is not AS_IS:
                return cls(deeper, found)
        return cls(prefix, AS_IS)

    def collapse(
        self, tensors: Mapping[str, torch.Tensor], source: str
    ) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
        """Give every tensor under its one name, and the other names that it has, to that name.

        Parameters
        ----------
        tensors : mapping of str to torch.Tensor
            By the names of the checkpoint.
        source : str
            What the checkpoint is called in an error.

        Raises
        ------
        AliasConflict
            If names that become one hold different bits; with every such pair.
        """
        groups: dict[str, list[str]] = {}
        for name in sorted(tensors):
            groups.setdefault(self._canonical(name), []).append(name)
        conflicts = [
            (first, other, where)
            for first, *others in groups.values()
            for other in others
            if (where := difference(tensors[first], tensors[other]))
        ]
        if conflicts:
            raise AliasConflict(source, conflicts)
        named = {name: tensors[names[0]] for name, names in groups.items()}
        # Tensors of different names can be tied: one tensor that the network uses twice.
        tied = find_shared(named)
        aliases = dict(tied)
        for name, names in groups.items():
            others = {other.removeprefix(self.prefix) for other in names} - {name}
            aliases.update(dict.fromkeys(others, tied.get(name, name)))
        return {name: tensor for name, tensor in named.items() if name not in tied}, aliases

    def _canonical(self, name: str) -> str:
        return self.layout.canonical(name.removeprefix(self.prefix))


def difference(first: torch.Tensor, other: torch.Tensor) -> str:
    """Say where two tensors differ first, bit by bit; empty where they are the same."""
    if (first.dtype, first.shape) != (other.dtype, other.shape):
        return f"{first.dtype} {list(first.shape)} and {other.dtype} {list(other.shape)}"
    if find_shared({"first": first, "other": other}):
        return ""
    start = 0
    for one, two in aligned_pieces(first, other):
        bits, other_bits = bits_of(one), bits_of(two)
        if not torch.equal(bits, other_bits):
            place = int((bits != other_bits).nonzero()[0]) // first.element_size()
            index = [int(i) for i in torch.unravel_index(torch.tensor(start + place), first.shape)]
            return f"at {index}, {_both(one.reshape(-1)[place], two.reshape(-1)[place])}"
        start += one.numel()
    return ""


def _both(one: torch.Tensor, two: torch.Tensor) -> str:
    texts = [str(one.item()), str(two.item())]
    if texts[0] == texts[1]:
        texts = [f"{texts[0]} (bits {bytes(bits_of(value).tolist())[::-1].hex()})" for value in (one, two)]
    return " and ".join(texts)

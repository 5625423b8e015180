"""How code bases name the modules of the same network, and the translation between them.

A name is translated to the canonical one, that of cellmap-models 0.2.4 (``backbone.…``,
``prediction_head.…``), by its prefix; what follows the prefix is the same everywhere. The prefixes were read
off the networks that the code bases build.
"""

import re
from collections.abc import Iterable
from typing import Final

from attrs import frozen

#: What DistributedDataParallel and torch.compile put before every name.
_WRAPPERS: Final = ("module.", "_orig_mod.")
#: What torch.compile, FSDP, activation checkpointing and PEFT put between a module's name and its tensors'.
_INNER_WRAPPERS: Final = (
    "_orig_mod.",
    "_fsdp_wrapped_module.",
    "_checkpoint_wrapped_module.",
    "base_layer.",
)
_INNER_WRAPPER: Final = re.compile(rf"(?:^|(?<=\.))(?:{'|'.join(map(re.escape, _INNER_WRAPPERS))})")
_BACKBONE = "backbone."
#: What the canonical names of a head start with.
HEAD_PREFIX: Final = "prediction_head."


@frozen
class Layout:
    """One naming scheme.

    Attributes
    ----------
    name : str
    backbone : tuple of str
        The prefixes of the backbone's names; where there are several, a tensor has one name under each.
    head : tuple of str
        The same for the head.
    """

    name: str
    backbone: tuple[str, ...]
    head: tuple[str, ...]

    def canonical(self, name: str) -> str:
        """Give the canonical form of a name; a name under no prefix of this layout stays as it is."""
        prefix = self._prefix(name)
        if not prefix:
            return name
        return (_BACKBONE if prefix in self.backbone else HEAD_PREFIX) + name.removeprefix(prefix)

    def names(self, canonical: str) -> tuple[str, ...]:
        """Give every name that this layout has for a canonical one; itself where it is under no prefix."""
        for prefix, own in ((_BACKBONE, self.backbone), (HEAD_PREFIX, self.head)):
            if own and canonical.startswith(prefix):
                return tuple(mine + canonical.removeprefix(prefix) for mine in own)
        return (canonical,)

    def fit(self, names: Iterable[str]) -> tuple[int, int]:
        """How many names lie under its prefixes, and how long these are: the larger, the better the fit."""
        prefixes = [prefix for prefix in map(self._prefix, names) if prefix]
        return len(prefixes), sum(map(len, prefixes))

    def _prefix(self, name: str) -> str:
        return next((prefix for prefix in (*self.backbone, *self.head) if name.startswith(prefix)), "")


#: Names as they are.
AS_IS: Final = Layout("as is", (), ())

#: Every known naming scheme.
LAYOUTS: Final = (
    Layout("cellmap-models", (_BACKBONE,), (HEAD_PREFIX,)),
    Layout("cellmap-models before 2024-03", ("unet.",), (HEAD_PREFIX,)),
    Layout("dacapo 0.3", ("architecture.unet.", "chain.0.unet."), (HEAD_PREFIX, "chain.1.")),
    Layout("dacapo main", ("chain.0.",), (HEAD_PREFIX, "chain.1.")),
)


def detect_layout(names: Iterable[str]) -> Layout:
    """Give the layout whose prefixes fit most of the names, `AS_IS` where no backbone prefix does."""
    names = list(names)
    # Most models have none of these names, and up to 100,000 others: one look through all is fastest.
    text = "\n".join(["", *names])
    having = [
        layout
        for layout in LAYOUTS
        if any(f"\n{prefix}" in text for prefix in layout.backbone)
        and any(name.startswith(layout.backbone) for name in names)
    ]
    return max(having, key=lambda layout: layout.fit(names), default=AS_IS)


def find_layout(name: str | None) -> Layout | None:
    """Give the layout of this name, None where there is none."""
    return next((layout for layout in LAYOUTS if layout.name == name), None)


def wrapper_prefix(names: Iterable[str]) -> str:
    """Give what wrappers put before every one of the names, e.g. ``module._orig_mod.``; empty for nothing."""
    names = list(names)
    prefix = ""
    while names:
        wrapper = next((w for w in _WRAPPERS if all(name.startswith(prefix + w) for name in names)), None)
        if wrapper is None:
            break
        prefix += wrapper
    return prefix


def without_inner_wrappers(name: str) -> str:
    """Give a name without what wrappers of inner modules put into it."""
    return _INNER_WRAPPER.sub("", name)


def has_inner_wrappers(names: Iterable[str]) -> bool:
    """Whether names have parts that wrappers of inner modules put there, and are different without these."""
    names = list(names)
    # Most models have none, and up to 100,000 names.
    text = "\n".join(names)
    if not any(wrapper in text for wrapper in _INNER_WRAPPERS):
        return False
    names = set(names)
    plain = set(map(without_inner_wrappers, names))
    return plain != names and len(plain) == len(names)


def common_prefixes(names: Iterable[str]) -> list[str]:
    """Give what stands before every one of the names, up to each of its dots: ``net.``, ``net.model.``."""
    names = list(names)
    first, last = min(names, default=""), max(names, default="")
    length = next((i for i, (a, b) in enumerate(zip(first, last, strict=False)) if a != b), len(first))
    return [first[: dot.end()] for dot in re.finditer(r"\.", first[:length])]

"""The COSEM network: the module, the arithmetic of its shapes, and how both are recognised and described.

`CosemUNet` and `build_network` are loaded when they are first used, because they need torch; the rest does
not.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cosemzoo.nets.build import build_network
    from cosemzoo.nets.cosem import CosemUNet

_HOMES = {"CosemUNet": "cosem", "build_network": "build"}

__all__ = ["CosemUNet", "build_network"]


def __getattr__(name: str) -> Any:
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"{__name__}.{home}"), name)
    globals()[name] = value
    return value

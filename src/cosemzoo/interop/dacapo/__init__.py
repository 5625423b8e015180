"""DaCapo: start its runs from a checkpoint of the zoo, read its stores of weights, fit its networks.

What needs DaCapo itself is loaded when it is first used; reading a store of weights does not need it.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cosemzoo.interop.dacapo.architecture import architecture_config_for, task_labels_for
    from cosemzoo.interop.dacapo.start import CosemStartConfig, register
    from cosemzoo.interop.dacapo.store import DacapoStore

_HOMES = {
    "CosemStartConfig": "start",
    "DacapoStore": "store",
    "architecture_config_for": "architecture",
    "register": "start",
    "task_labels_for": "architecture",
}

__all__ = ["CosemStartConfig", "DacapoStore", "architecture_config_for", "register", "task_labels_for"]


def __getattr__(name: str) -> Any:
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"{__name__}.{home}"), name)
    globals()[name] = value
    return value

"""Start volume-electron-microscopy networks from pretrained COSEM runs: planned, verified, all or nothing.

Names are loaded when they are first used: importing the package imports neither torch nor huggingface_hub.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from cosemzoo._version import __version__

if TYPE_CHECKING:
    from cosemzoo.loading.plan import LoadPlan
    from cosemzoo.loading.report import LoadReport
    from cosemzoo.manifest import Channel, Index, Manifest
    from cosemzoo.models import fetch, load_into, plan_load, resolve, state_dict
    from cosemzoo.ready import load_model
    from cosemzoo.reference import Reference, parse_reference
    from cosemzoo.starts import CosemStart, CosemStartConfig, FolderStore, Start, StartConfig
    from cosemzoo.zoo import Checkpoint, Zoo

_HOMES = {
    "LoadPlan": "loading.plan",
    "LoadReport": "loading.report",
    "Channel": "manifest",
    "Index": "manifest",
    "Manifest": "manifest",
    "fetch": "models",
    "load_into": "models",
    "plan_load": "models",
    "resolve": "models",
    "state_dict": "models",
    "load_model": "ready",
    "Reference": "reference",
    "parse_reference": "reference",
    "CosemStart": "starts",
    "CosemStartConfig": "starts",
    "FolderStore": "starts",
    "Start": "starts",
    "StartConfig": "starts",
    "Checkpoint": "zoo",
    "Zoo": "zoo",
}

__all__ = [
    "Channel",
    "Checkpoint",
    "CosemStart",
    "CosemStartConfig",
    "FolderStore",
    "Index",
    "LoadPlan",
    "LoadReport",
    "Manifest",
    "Reference",
    "Start",
    "StartConfig",
    "Zoo",
    "__version__",
    "fetch",
    "load_into",
    "load_model",
    "parse_reference",
    "plan_load",
    "resolve",
    "state_dict",
]


def __getattr__(name: str) -> Any:
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"{__name__}.{home}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOMES})

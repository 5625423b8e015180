"""DaCapo itself, imported when it is needed: it is an extra, and takes seconds to import."""

from importlib import import_module
from typing import Any

from cosemzoo.errors import ExtraMissing


def dacapo_module(name: str) -> Any:
    """Import a module of DaCapo.

    Parameters
    ----------
    name : str
        Such as ``dacapo.experiments.starts``.

    Raises
    ------
    ExtraMissing
        If DaCapo, or a package that it imports, is not installed.
    """
    try:
        return import_module(name)
    except ModuleNotFoundError as error:
        missing = "dacapo-ml" if error.name in {None, "dacapo"} else str(error.name)
        raise ExtraMissing(f"To use {name}", missing, "dacapo") from error

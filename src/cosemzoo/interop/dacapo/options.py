"""Where DaCapo keeps its runs, as its own options say: the files that it looks at, in its order."""

import os
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Final

import yaml  # type: ignore[import-untyped]

from cosemzoo.errors import InvalidSetting
from cosemzoo.zoo.settings import expanded

_VARIABLE: Final = "DACAPO_OPTIONS_FILE"
_SETTING: Final = "runs_base_dir"
_DEFAULT: Final = "~/dacapo"


def runs_base_dir() -> Path:
    """Give the folder of DaCapo's runs.

    The file that ``DACAPO_OPTIONS_FILE`` names goes first, then ``dacapo.yaml`` in the present folder, in
    ``~/.config/dacapo`` and beside the installed package: `dacapo.options` of DaCapo 0.3.5. Without any,
    it is ``~/dacapo``. DaCapo itself is not imported.

    Raises
    ------
    InvalidSetting
        If the file that is named is not there, or one cannot be read; DaCapo would go on to the next.
    """
    named = os.environ.get(_VARIABLE)
    if named is not None and not Path(named).is_file():
        raise InvalidSetting(
            _VARIABLE, f"there is no file {named}", f"Set it to the file that has {_SETTING}."
        )
    path = Path(named) if named is not None else next(_existing(), None)
    return expanded(_DEFAULT if path is None else _read(path), _SETTING)


def _existing() -> Iterator[Path]:
    # The third that DaCapo looks for, "~/dacapo.yaml", is in a folder of the name "~": nobody's.
    candidates = [Path("dacapo.yaml"), expanded("~/.config/dacapo/dacapo.yaml", _VARIABLE)]
    package = find_spec("dacapo")
    candidates += [
        Path(place).parent / "dacapo.yaml" for place in (package and package.submodule_search_locations) or ()
    ]
    yield from (path for path in candidates if path.is_file())


def _read(path: Path) -> str:
    """Give what an options file says of the folder, or the default where it says nothing."""
    step = f"Correct it, or give the folder: DacapoStore({_SETTING}=…)."
    try:
        options = yaml.safe_load(path.read_bytes())
    except (OSError, ValueError, RecursionError, yaml.YAMLError) as error:
        reason = " ".join(str(error).split())
        raise InvalidSetting(_SETTING, f"{path} cannot be read as YAML ({reason})", step) from error
    value = options.get(_SETTING, _DEFAULT) if isinstance(options, dict) else _DEFAULT
    if not isinstance(value, str) or not value.strip():
        raise InvalidSetting(_SETTING, f"{path} says {value!r}, which is no folder", step)
    return value

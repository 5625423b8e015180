"""DaCapo's command line, which then knows the zoo's starts: ``python -m cosemzoo.interop.dacapo train …``."""

import sys

from cosemzoo.errors import ExtraMissing
from cosemzoo.interop import dacapo
from cosemzoo.interop.dacapo.peer import dacapo_module

if __name__ == "__main__":
    try:
        dacapo.register()
        command = dacapo_module("dacapo.cli").cli
    except ExtraMissing as error:
        sys.exit(f"Error: {error}")
    command(prog_name="python -m cosemzoo.interop.dacapo")

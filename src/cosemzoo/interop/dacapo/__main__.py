"""DaCapo's command line, which then knows the zoo's starts: ``python -m cosemzoo.interop.dacapo train …``."""

from cosemzoo.interop.dacapo.peer import dacapo_module
from cosemzoo.interop.dacapo.start import register

if __name__ == "__main__":
    register()
    dacapo_module("dacapo.cli").cli(prog_name="python -m cosemzoo.interop.dacapo")

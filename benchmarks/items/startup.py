"""6: what it takes to import the package, and to see the help of the command."""

import subprocess
import sys
import time
from functools import partial
from typing import Final

from benchmarks.rows import Row
from benchmarks.timing import interleave, say
from benchmarks.workspace import Workspace

_COMMANDS: Final = {
    "bare": ("-c", "pass"),
    "import": ("-c", "import cosemzoo"),
    "help": ("-c", "import sys; from cosemzoo.cli import main; sys.exit(main(['--help']))"),
    "torch": ("-c", "import torch"),
}
_CHECK: Final = "import sys, cosemzoo; print(len({'torch', 'huggingface_hub'} & set(sys.modules)))"
#: A start is short, and what disturbs it is not.
_MORE: Final = 3


def rows(work: Workspace, repeat: int) -> list[Row]:
    """Measure it."""
    say("6: imports and the command")
    # Compiled once before, as after an installation.
    for name in _COMMANDS:
        _seconds(work, name)
    found = interleave({name: partial(_seconds, work, name) for name in _COMMANDS}, _MORE * repeat)
    bare = found["bare"]
    imported = tuple(1000 * (one - other) for one, other in zip(found["import"], bare, strict=True))
    milliseconds = {name: tuple(1000 * value for value in values) for name, values in found.items()}
    count = subprocess.run(
        [sys.executable, "-c", _CHECK], env=work.environment, capture_output=True, text=True, check=True
    )
    what = "torch and huggingface_hub imported by import cosemzoo"
    return [
        Row(item=6, what="import cosemzoo, beyond bare Python", unit="ms", values=imported, at_most=20),
        Row(item=6, what=what, values=(float(count.stdout),), at_most=0),
        Row(item=6, what="cosemzoo --help", unit="ms", values=milliseconds["help"], at_most=200),
        Row(item=6, what="bare Python", unit="ms", values=milliseconds["bare"]),
        Row(item=6, what="Python with import torch", unit="ms", values=milliseconds["torch"]),
    ]


def _seconds(work: Workspace, name: str) -> float:
    start = time.perf_counter()
    subprocess.run(
        [sys.executable, *_COMMANDS[name]], env=work.environment, stdout=subprocess.DEVNULL, check=True
    )
    return time.perf_counter() - start

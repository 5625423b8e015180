"""Processes of their own: each contestant has one, is told when to work, and says how long it took.

What a process does is a function of `benchmarks.contestants`: it prepares (imports, builds a model) and gives
back the action to measure. The process does the action each time that it is told to, and keeps what the last
one gave until it is let go.
"""

import json
import os
import select
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Self

from benchmarks.memory import anonymous_bytes

_HERE = Path(__file__).parent.parent


class Child:
    """A process that has prepared an action; a context manager.

    Parameters
    ----------
    function : str
        ``module:function``.
    environment : mapping of str to str
    arguments : str, int or bool
        Given to the function by name.

    Raises
    ------
    RuntimeError
        If the process ends; the message is its exit status and what it wrote to stderr.
    """

    def __init__(self, function: str, environment: Mapping[str, str], **arguments: str | int | bool) -> None:
        self._function = function
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115 - closed by __exit__
        command = [sys.executable, "-m", "benchmarks.child", function, json.dumps(arguments)]
        self._process = subprocess.Popen(
            command,
            cwd=_HERE,
            env=dict(environment),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
        )
        self.pid = self._process.pid

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if kind is not None:
            self._process.kill()
        self._process.communicate()
        self._errors.close()

    def ready(self) -> None:
        """Wait until it has prepared."""
        self._answer()

    def start(self) -> None:
        """Tell it to work."""
        assert self._process.stdin is not None
        self._process.stdin.write(b"go\n")
        self._process.stdin.flush()

    def finish(self) -> float:
        """Wait until it has worked; give the seconds that it took."""
        return float(self._answer())

    def go(self) -> float:
        """Let it work; give the seconds that it took."""
        self.start()
        return self.finish()

    def go_watched(self) -> int:
        """Let it work; give the most anonymous memory at any moment beyond that before, in bytes."""
        assert self._process.stdout is not None
        before = peak = anonymous_bytes(self.pid)
        self.start()
        while not select.select([self._process.stdout], [], [], 0.0005)[0]:
            peak = max(peak, anonymous_bytes(self.pid))
        self.finish()
        return max(peak, anonymous_bytes(self.pid)) - before

    def _answer(self) -> bytes:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            self._errors.seek(0)
            said = self._errors.read().decode(errors="replace")
            raise RuntimeError(f"{self._function} ended ({self._process.wait()}): {said}")
        return line


def clean_environment(folder: Path, **own: str) -> dict[str, str]:
    """Give the environment of a process that has nothing of the user's: no token, no cache, no settings."""
    inherited = {
        name: value for name, value in os.environ.items() if not name.startswith(("HF_", "COSEMZOO_"))
    }
    places = {
        "HF_HOME": folder / "home",
        "XDG_STATE_HOME": folder / "state",
        "XDG_DATA_HOME": folder / "data",
    }
    return inherited | {name: str(place) for name, place in places.items()} | own

"""Publishers in processes of their own, which can be killed."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

import pytest

from cosemzoo.localhub import LocalHub

# Forks a process for every line that it reads, once everything is imported: a new interpreter for each would
# take seconds.
_SERVER: Final = """
import json, os, sys, warnings
from cosemzoo.publishing import publish
from cosemzoo.zoo import Zoo

warnings.simplefilter("ignore")
for line in sys.stdin:
    request = json.loads(line)
    child = os.fork()
    if child == 0:
        os.setpgid(0, 0)
        os.environ["XDG_STATE_HOME"] = request.pop("state")
        zoo = Zoo(endpoint=request.pop("endpoint"), cache_dir=request.pop("cache"), token=False)
        code = 1
        try:
            done = publish(request.pop("folder"), request.pop("reference"), zoo=zoo, **request)
            code = 0
        except BaseException as error:
            print(repr(error), file=sys.stderr)
        os._exit(code)
    print(child, flush=True)
    print(os.waitpid(child, 0)[1], flush=True)
"""


class Publishing:
    """One publication in a process of its own."""

    def __init__(self, server: subprocess.Popen[str], request: dict[str, Any]) -> None:
        assert server.stdin is not None
        assert server.stdout is not None
        self._server = server
        server.stdin.write(json.dumps(request) + "\n")
        server.stdin.flush()
        self._pid = int(server.stdout.readline())

    def kill(self) -> None:
        """Kill it, as the system does where memory runs out."""
        os.kill(self._pid, signal.SIGKILL)

    def wait(self) -> int:
        """Give the status that it ended with, 0 where it published."""
        assert self._server.stdout is not None
        return int(self._server.stdout.readline())


@pytest.fixture
def publish_apart(hub: LocalHub, tmp_path: Path) -> Iterator[Callable[..., Publishing]]:
    """Publish a folder in a process of its own; up to `lanes` of them run at once, one in each lane."""
    servers: dict[int, subprocess.Popen[str]] = {}

    def start(folder: Path, reference: str, *, lane: int = 0, **options: Any) -> Publishing:
        if lane not in servers:
            servers[lane] = subprocess.Popen(
                [sys.executable, "-c", _SERVER],
                env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "HF_HUB_DISABLE_XET": "1"},
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
            )
        request = {
            "endpoint": hub.endpoint,
            "cache": str(tmp_path / f"publisher-{lane}"),
            "state": str(tmp_path / f"state-{lane}"),
            "folder": str(folder),
            "reference": reference,
            **options,
        }
        return Publishing(servers[lane], request)

    yield start
    for server in servers.values():
        server.communicate()

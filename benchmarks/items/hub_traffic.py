"""7 and 8: what a start asks the Hub in a fresh process, and what a plan moves; counted at the Hub."""

import time
from typing import Final

from benchmarks.children import Child
from benchmarks.network import RUN
from benchmarks.rows import Row
from benchmarks.timing import say
from benchmarks.workspace import Workspace

_OFFLINE: Final = {"HF_HUB_OFFLINE": "1"}
#: The client asks some things in the background; seconds until they have arrived.
_BACKGROUND: Final = 0.3


def request_rows(work: Workspace, repeat: int) -> list[Row]:
    """Count the requests of starts, one after the other with one cache."""
    del repeat
    say("7: requests of starts")
    starting = "benchmarks.contestants.starting"
    ours = [
        ("cold, by name", f"{RUN}@best", {}, None),
        ("warm, by name", f"{RUN}@best", {}, 1),
        ("warm, by commit", work.pinned, {}, 0),
        ("offline, by name", f"{RUN}@best", _OFFLINE, 0),
        ("offline, by commit", work.pinned, _OFFLINE, 0),
    ]
    result = []
    for what, reference, own, target in ours:
        requests, _ = _counted(work, "requests", own, f"{starting}:load", reference=reference)
        result.append(_row(7, f"requests of load_model, {what}", requests, target))
    client = [
        ("cold, by name", "main", {}),
        ("warm, by name", "main", {}),
        ("warm, by commit", work.commit, {}),
        ("offline, by name", "main", _OFFLINE),
    ]
    for what, revision, own in client:
        arguments = {"repository": work.repository, "revision": revision}
        requests, _ = _counted(work, "client", own, f"{starting}:download", **arguments)
        result.append(_row(7, f"requests of hf_hub_download of the weights alone, {what}", requests, None))
    return result


def plan_rows(work: Workspace, repeat: int) -> list[Row]:
    """Count the requests and the bytes of a plan of a checkpoint of which nothing is cached."""
    del repeat
    say("8: a plan of a remote checkpoint")
    size = f"{work.safetensors.stat().st_size / 1e6:,.0f} MB"
    function = "benchmarks.contestants.starting:plan"
    requests, sent = _counted(work, "plan", {}, function, reference=f"{RUN}@best", size=work.size)
    what = f"plan_load of a remote checkpoint of {size}"
    moved = Row(
        item=8, what=f"{what}: bodies", unit="KiB", values=(sent / 1024,), at_most=256, note="without headers"
    )
    return [moved, _row(8, f"{what}: requests", requests, 8)]


def _counted(
    work: Workspace, cache: str, own: dict[str, str], function: str, **arguments: str
) -> tuple[int, int]:
    """Let a fresh process act; give its requests and the bytes of the answers' bodies."""
    assert work.commit
    environment = work.environment | {"HF_HUB_CACHE": str(work.folder / "caches" / cache)} | own
    work.hub.reset_counts()
    with Child(function, environment, **arguments) as child:
        child.ready()
        child.go()
        time.sleep(_BACKGROUND)
    requests = work.hub.requests
    for request in requests:
        say(f"  {request.method} {request.path} {request.status} {request.bytes_sent}")
    return len(requests), work.hub.bytes_sent


def _row(item: int, what: str, requests: int, target: float | None) -> Row:
    return Row(item=item, what=what, values=(float(requests),), at_most=target)

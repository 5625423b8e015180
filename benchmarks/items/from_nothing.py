"""2: from nothing to a network that is ready to predict, in fresh processes."""

from functools import partial
from typing import Final

import torch

from benchmarks import peers
from benchmarks.children import Child
from benchmarks.rows import Row, ratios, takes
from benchmarks.timing import interleave, say
from benchmarks.workspace import Workspace

_NAMES: Final = {
    "share=True": "load_model",
    "share=False": "load_model(share=False)",
    "torch": "build + torch.load + load_state_dict",
    "cellmap-models": "cellmap_models.cosem.load_model",
}


def rows(work: Workspace, repeat: int) -> list[Row]:
    """Measure it, on the CPU and on a GPU where there is one."""
    say("2: from nothing to a ready network")
    devices = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]
    return [row for device in devices for row in _rows(work, repeat, device)]


def building_child(work: Workspace, contestant: str, device: str = "cpu", *, read: bool = False) -> Child:
    """Start a process that builds."""
    match contestant:
        case "torch":
            path = str(work.state_dict)
        case "cellmap-models":
            path = str(work.peers)
        case _:
            path = work.pinned
    return work.child(
        "benchmarks.contestants.building:prepare",
        contestant=contestant,
        path=path,
        size=work.size,
        device=device,
        read=read,
    )


def can_run(contestant: str) -> bool:
    """Tell whether what the contestant needs is installed."""
    return contestant != "cellmap-models" or peers.installed("cellmap-models")


def _rows(work: Workspace, repeat: int, device: str) -> list[Row]:
    contestants = {name: partial(_once, work, name, device) for name in _NAMES if can_run(name)}
    found = interleave(contestants, repeat)
    where = "" if device == "cpu" else " on the GPU"
    ours, on_cpu = found["share=True"], device == "cpu"
    milliseconds = tuple(1000 * value for value in ours)
    result = [
        Row(
            item=2,
            what=f"load_model{where}, imports done, weights cached, verified and pinned",
            unit="ms",
            values=milliseconds,
            at_most=100 if on_cpu else None,
        )
    ]
    for name in [*_NAMES][1:]:
        what = f"{_NAMES[name]}{where} / load_model{where}"
        if name not in found:
            result.append(Row(item=2, what=what, note=peers.NOT_INSTALLED))
            continue
        target = 100 if on_cpu and name == "cellmap-models" else None
        note = takes(found[name])
        result.append(Row(item=2, what=what, values=ratios(found[name], ours), at_least=target, note=note))
    return result


def _once(work: Workspace, contestant: str, device: str) -> float:
    with building_child(work, contestant, device) as child:
        child.ready()
        return child.go()

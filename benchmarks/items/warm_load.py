"""1: a checkpoint that is on this machine, loaded into a network that exists."""

from contextlib import ExitStack
from typing import Final

import torch

from benchmarks import peers
from benchmarks.children import Child
from benchmarks.rows import Row, ratios, takes
from benchmarks.timing import interleave, say
from benchmarks.workspace import Workspace

_NAMES: Final = {
    "copy": "a bare copy in memory by torch's copy_",
    "memmove": "a bare copy in memory by the system's memmove",
    "torch": "torch.load + load_state_dict",
    "torch, mapped": "torch.load(mmap=True) + load_state_dict",
    "safetensors": "safetensors.torch.load_model",
    "huggingface_hub": "huggingface_hub.load_torch_model",
    "dacapo": "torch.load + DaCapo's _set_weights",
}
_TO_REACH: Final = {"copy": 1.15, "memmove": 1.15, "torch": 0.2}


def rows(work: Workspace, repeat: int) -> list[Row]:
    """Measure it, on the CPU and on a GPU where there is one."""
    say("1: a warm load into an existing network")
    devices = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]
    return [row for device in devices for row in _rows(work, repeat, device)]


def loading_child(work: Workspace, contestant: str, device: str = "cpu") -> Child:
    """Start a process that loads."""
    paths = {
        "cosemzoo": work.pinned,
        "copy": "",
        "memmove": "",
        "torch": str(work.state_dict),
        "torch, mapped": str(work.state_dict),
        "safetensors": str(work.safetensors),
        "huggingface_hub": str(work.safetensors),
        "dacapo": str(work.aliased),
    }
    return work.child(
        "benchmarks.contestants.loading:prepare",
        contestant=contestant,
        path=paths[contestant],
        size=work.size,
        device=device,
    )


def can_run(contestant: str, device: str = "cpu") -> bool:
    """Tell whether what the contestant needs is here."""
    if contestant == "memmove":
        return device == "cpu"
    return contestant != "dacapo" or peers.installed("dacapo-ml")


def _rows(work: Workspace, repeat: int, device: str) -> list[Row]:
    contestants = [name for name in ("cosemzoo", *_NAMES) if can_run(name, device)]
    with ExitStack() as stack:
        children = {name: stack.enter_context(loading_child(work, name, device)) for name in contestants}
        for child in children.values():
            child.ready()
            # The first load reads the files into the page cache, and imports what is imported late.
            child.go()
        found = interleave({name: child.go for name, child in children.items()}, repeat)
    where = "" if device == "cpu" else " on the GPU"
    ours = found["cosemzoo"]
    size = f"{work.safetensors.stat().st_size / 1e6:,.0f} MB"
    result = [Row(item=1, what=f"load_into{where}, {size}", unit="s", values=ours)]
    for name, text in _NAMES.items():
        what = f"load_into{where} / {text}"
        if name not in found:
            if name != "memmove":
                result.append(Row(item=1, what=what, note=peers.NOT_INSTALLED))
            continue
        target = _TO_REACH.get(name) if device == "cpu" else None
        note = takes(found[name])
        result.append(Row(item=1, what=what, values=ratios(ours, found[name]), at_most=target, note=note))
    return result

"""3: the most anonymous memory that a load, or the making of a network, adds at any moment."""

from collections.abc import Callable
from functools import partial
from typing import Final

from benchmarks import peers
from benchmarks.children import Child
from benchmarks.items import from_nothing, warm_load
from benchmarks.memory import MIB
from benchmarks.rows import Row
from benchmarks.timing import interleave, say
from benchmarks.workspace import Workspace

#: The memory hardly differs between repetitions, and the peers take long.
_REPEAT: Final = 3

_LOADS: Final = {
    "cosemzoo": "load_into an existing network",
    "torch": "torch.load + load_state_dict",
    "torch, mapped": "torch.load(mmap=True) + load_state_dict",
    "safetensors": "safetensors.torch.load_model",
    "huggingface_hub": "huggingface_hub.load_torch_model",
    "dacapo": "torch.load + DaCapo's _set_weights",
}
_BUILDS: Final = {
    "share=True": "load_model, the network itself included",
    "share=False": "load_model(share=False), the network itself included",
    "torch": "build + torch.load + load_state_dict, the network itself included",
    "cellmap-models": "cellmap_models.cosem.load_model, the network itself included",
}
_TO_REACH: Final = {_LOADS["cosemzoo"]: 64, _BUILDS["share=True"]: 16}


def rows(work: Workspace, repeat: int) -> list[Row]:
    """Measure it."""
    say("3: peak anonymous memory")
    contestants: dict[str, Callable[[], float] | None] = {}
    for name, what in _LOADS.items():
        start = partial(warm_load.loading_child, work, name)
        contestants[what] = partial(_added, start) if warm_load.can_run(name) else None
    for name, what in _BUILDS.items():
        start = partial(from_nothing.building_child, work, name)
        contestants[what] = partial(_added, start) if from_nothing.can_run(name) else None
    runnable = {what: measure for what, measure in contestants.items() if measure is not None}
    found = interleave(runnable, min(repeat, _REPEAT))
    return [
        Row(
            item=3,
            what=what,
            unit="MiB",
            values=found.get(what, ()),
            at_most=_TO_REACH.get(what),
            note="" if what in found else peers.NOT_INSTALLED,
        )
        for what in contestants
    ]


def _added(start: Callable[[], Child]) -> float:
    with start() as child:
        child.ready()
        return child.go_watched() / MIB

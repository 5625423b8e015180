"""10: a training's checkpoint converted, and pushed."""

import shutil
from functools import partial
from pathlib import Path
from typing import Final

from huggingface_hub import HfApi

from benchmarks.children import Child
from benchmarks.rows import Row, ratios, takes
from benchmarks.timing import interleave, say
from benchmarks.workspace import Workspace

_PAIRS: Final = {
    "converting": ("convert", "torch.load(mmap=True) + safetensors.save_file + one SHA-256 pass"),
    "pushing": ("push", "the same + upload_file, without description, index and tag"),
}
#: Each takes long.
_REPEAT: Final = 3


def rows(work: Workspace, repeat: int) -> list[Row]:
    """Measure it."""
    say("10: convert and push")
    repeat = min(repeat, _REPEAT)
    size = f"{work.training.stat().st_size / 1e6:,.0f} MB"
    result = []
    for name, (ours, theirs) in _PAIRS.items():
        found = _measured(work, name, repeat)
        note = takes(found[theirs])
        result += [
            Row(item=10, what=f"{ours} of a training's checkpoint of {size}", unit="s", values=found[ours]),
            Row(item=10, what=f"{ours} / ({theirs})", values=ratios(found[ours], found[theirs]), note=note),
        ]
    return result


def _measured(work: Workspace, name: str, repeat: int) -> dict[str, tuple[float, ...]]:
    folder = work.folder / "converted"
    folder.mkdir(exist_ok=True)
    function = f"benchmarks.contestants.publishing:{name}"
    arguments = {"training": str(work.training), "folder": str(folder)}
    with work.child(function, **arguments) as ours, work.child(f"{function}_by_hand", **arguments) as other:
        ours.ready()
        other.ready()
        contestants = dict(zip(_PAIRS[name], (ours, other), strict=True))
        return interleave(
            {text: partial(_once, child, work, folder) for text, child in contestants.items()}, repeat
        )


def _once(child: Child, work: Workspace, folder: Path) -> float:
    seconds = child.go()
    shutil.rmtree(folder)
    folder.mkdir()
    api = HfApi(endpoint=work.hub.endpoint, token=False)
    for repository in api.list_models(author="bench"):
        api.delete_repo(repository.id)
    return seconds

"""9: the weights downloaded into an empty cache and verified, against what the client alone takes for it."""

import shutil
from functools import partial
from pathlib import Path
from typing import Final

from benchmarks.children import Child
from benchmarks.rows import Row, ratios, takes
from benchmarks.timing import interleave, say
from benchmarks.workspace import Workspace

_RAW: Final = "hf_hub_download + one SHA-256 pass"


def rows(work: Workspace, repeat: int) -> list[Row]:
    """Measure it."""
    say("9: download and verify")
    assert work.commit
    folder = work.folder / "downloads"
    arguments = {"repository": work.repository, "folder": str(folder)}
    module = "benchmarks.contestants.downloading"
    with (
        work.child(f"{module}:cosemzoo", **arguments) as ours,
        work.child(f"{module}:raw", **arguments) as raw,
    ):
        ours.ready()
        raw.ready()
        found = interleave(
            {"cosemzoo": partial(_once, ours, folder), _RAW: partial(_once, raw, folder)}, repeat
        )
    note = f"on loopback, {takes(found[_RAW])}"
    return [
        Row(item=9, what="Zoo.fetch, nothing cached", unit="s", values=found["cosemzoo"]),
        Row(
            item=9,
            what=f"Zoo.fetch / ({_RAW})",
            values=ratios(found["cosemzoo"], found[_RAW]),
            at_most=1.1,
            note=note,
        ),
    ]


def _once(child: Child, folder: Path) -> float:
    seconds = child.go()
    shutil.rmtree(folder)
    return seconds

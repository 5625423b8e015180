"""The program: ``python -m benchmarks --help``."""

import argparse
import datetime
import json
import os
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Final

# The client reads its settings when it is imported, here and in every process of the run: none is the user's.
for _name in [name for name in os.environ if name.startswith(("HF_", "COSEMZOO_"))]:
    del os.environ[_name]
_HOME = tempfile.TemporaryDirectory(prefix="cosemzoo-bench-home-")
os.environ |= {
    "HF_HOME": _HOME.name,
    "XDG_STATE_HOME": _HOME.name,
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
}

from attrs import evolve  # noqa: E402

from benchmarks.items import (  # noqa: E402
    downloading,
    from_nothing,
    hub_traffic,
    peak_memory,
    planning,
    publishing,
    sharing,
    startup,
    warm_load,
)
from benchmarks.machine import describe_machine  # noqa: E402
from benchmarks.network import SIZES  # noqa: E402
from benchmarks.rows import Row, table  # noqa: E402
from benchmarks.workspace import Workspace, workspace  # noqa: E402

ITEMS: Final[Mapping[int, Callable[[Workspace, int], list[Row]]]] = {
    1: warm_load.rows,
    2: from_nothing.rows,
    3: peak_memory.rows,
    4: sharing.rows,
    5: planning.rows,
    6: startup.rows,
    7: hub_traffic.request_rows,
    8: hub_traffic.plan_rows,
    9: downloading.rows,
    10: publishing.rows,
}
GENERATED: Final = "The weights are generated numbers in the shapes of the network, not a trained network."


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, print the table, and write the JSON."""
    options = _parser().parse_args(arguments)
    items = sorted(options.only or ITEMS)
    with workspace(options.folder, options.size) as work:
        machine = describe_machine(work.folder)
        rows = [row for item in items for row in ITEMS[item](work, options.repeat)]
    if options.size != "full":
        # The figures to reach are those of the full size.
        rows = [evolve(row, at_most=None, at_least=None) for row in rows]
    date = datetime.datetime.now(datetime.UTC).date().isoformat()
    print(f"{date}, size {options.size}, measured in turn, n times each. {GENERATED}\n")
    print("\n".join(f"- {name}: {value}" for name, value in machine.items()), end="\n\n")
    print(table(rows))
    if options.json:
        document = {
            "date": date,
            "size": options.size,
            "generated_weights": True,
            "machine": machine,
            "rows": [row.to_dict() for row in rows],
        }
        options.json.write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks",
        description=f"Measure cosemzoo next to what else loads the same network. {GENERATED}",
    )
    parser.add_argument(
        "--only", type=int, action="append", choices=ITEMS, metavar="N", help="one part (1 to 10); repeatable"
    )
    parser.add_argument("--size", choices=SIZES, default="full", help="of the network (default: full)")
    parser.add_argument("--repeat", type=_positive, default=7, help="repetitions (default: 7)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every figure to a file as well")
    parser.add_argument("--folder", type=Path, help="where files are made; full size needs 20 GB there")
    return parser


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError("at least 1")
    return value


if __name__ == "__main__":
    main()

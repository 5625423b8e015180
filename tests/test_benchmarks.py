"""The program of the benchmarks runs and says all that it measured; how fast anything is, is not asserted."""

import json
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks.rows import Row, ratios, table
from benchmarks.timing import interleave

ROOT = Path(__file__).parent.parent


def run(target: Path, *items: int) -> list[dict[str, Any]]:
    only = [word for item in items for word in ("--only", str(item))]
    command = [sys.executable, "-m", "benchmarks", "--size", "small", "--repeat", "1", *only]
    done = subprocess.run(
        [*command, "--json", str(target)], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    document = json.loads(target.read_text())
    assert document["generated_weights"] is True
    assert "generated numbers" in done.stdout
    rows: list[dict[str, Any]] = document["rows"]
    assert all(f"| {row['item']} | {row['what']} |" in done.stdout for row in rows)
    return rows


def test_parts_of_the_program_run_alone(tmp_path: Path) -> None:
    rows = run(tmp_path / "found.json", 2, 8)
    assert Counter(row["item"] for row in rows) == {2: 4, 8: 2}
    assert all(row["values"] or "not installed" in row["note"] for row in rows)
    # What is to be reached is so at full size.
    assert {row["reached"] for row in rows} == {None}


@pytest.mark.full
@pytest.mark.timeout(1200)
def test_every_part_has_all_its_rows(tmp_path: Path) -> None:
    rows = run(tmp_path / "found.json")
    counts = {1: 8, 2: 4, 3: 10, 4: 4, 5: 6, 6: 5, 7: 9, 8: 2, 9: 2, 10: 4}
    if torch.cuda.is_available():
        # Parts 1 and 2 once more, without the system's memmove.
        counts |= {1: 15, 2: 8}
    assert Counter(row["item"] for row in rows) == counts
    assert [row["what"] for row in rows if not row["values"]] == []


def test_a_figure_is_reached_where_its_median_is() -> None:
    figures: dict[str, Any] = {"item": 1, "what": "a load", "values": (1.0, 9.0, 2.0)}
    assert Row(**figures, at_most=2).reached is True
    assert Row(**figures, at_most=1.9).reached is False
    assert Row(**figures, at_least=2).reached is True
    assert Row(**figures, at_least=2.1).reached is False
    assert Row(**figures).reached is None
    assert Row(item=1, what="a load", at_most=2).reached is None


def test_the_table_says_median_spread_count_and_figure() -> None:
    row = Row(item=3, what="a load", unit="ms", values=(1.0, 9.5, 2.25), at_most=2, note="on loopback")
    assert table([row]).splitlines()[-1] == (
        "| 3 | a load | 2.25 ms | 1 … 9.5 | 3 | ≤ 2 ms | **missed**; on loopback |"
    )
    missing = Row(item=3, what="another", note="not installed")
    assert table([missing]).splitlines()[-1] == "| 3 | another | not measured |  |  |  | not installed |"


def test_a_ratio_is_of_what_was_measured_in_the_same_turn() -> None:
    order: list[str] = []
    figures = {"ours": iter([1.0, 6.0]), "theirs": iter([2.0, 1.5])}

    def measure(name: str) -> float:
        order.append(name)
        return next(figures[name])

    found = interleave({name: lambda name=name: measure(name) for name in figures}, 2)  # type: ignore[misc]
    assert order == ["ours", "theirs", "theirs", "ours"]
    assert ratios(found["ours"], found["theirs"]) == (0.5, 4.0)

import builtins
import copy
import json
import pickle
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from cosemzoo.loading.report import LoadReport
from cosemzoo.models import load_into, plan_load
from cosemzoo.zoo import Zoo

Save = Callable[..., Path]
Load = Callable[..., LoadReport]


class Net(nn.Module):
    def __init__(self, rows: int, dtype: torch.dtype = torch.float32) -> None:
        super().__init__()
        self.same = nn.Linear(2, 4, dtype=dtype)
        self.head = nn.Linear(4, rows)


@pytest.fixture
def folder(save: Save) -> Path:
    state: dict[str, torch.Tensor] = dict(Net(3).state_dict())
    return save({**state, "extra": torch.zeros(2, 5)}, ["mito", "er", "nuc"], ["head.weight", "head.bias"])


@pytest.fixture
def report(folder: Path, load: Load) -> LoadReport:
    model = Net(4, torch.float16)
    model.more = nn.Linear(1, 1)
    return load(model, folder, new_head=["er", "ld", "mito", "vesicle"])


def test_a_report_counts_what_was_written(report: LoadReport) -> None:
    assert report.outcome == "partial"
    assert (report.coverage.tensors, report.coverage.all_tensors) == (2, 4)
    assert (report.coverage.parameters, report.coverage.all_parameters) == (12, 14)
    assert report.model_coverage.parameters == 12 + 10
    assert report.bytes == 12 * 2 + 10 * 4
    assert report.seconds > 0
    assert report.commit is not None
    assert len(report.commit) == 64


def test_a_report_says_what_is_left_on_either_side(report: LoadReport) -> None:
    assert [row.name for row in report.missing] == ["more.weight", "more.bias"]
    assert [(one.name, one.shape) for one in report.unused] == [("extra", (2, 5))]
    assert report.unused_channels == ("nuc (distance)",)
    assert [row.name for row in report.converted] == ["same.weight", "same.bias"]
    assert report.mismatched == ()


def test_a_report_is_a_table_that_a_person_reads(report: LoadReport) -> None:
    text = str(report)
    assert f"partial load of {report.reference} ({str(report.commit)[:8]}): 64 bytes in " in text
    assert "backbone: 2 of 4 tensors, 12 of 14 parameters" in text
    assert "whole model: 2 of 6 tensors, 22 of 34 parameters" in text
    assert "head   0     er (distance)     ←      er (distance), row 1" in text
    assert "the checkpoint has no ld." in text
    assert "F32 → F16" in text
    assert "unused: in the checkpoint only (1)" in text
    assert "channels of the checkpoint that are not used: nuc (distance)" in text
    assert all(line == line.rstrip() for line in text.splitlines())


def test_a_report_is_json_without_loss(report: LoadReport) -> None:
    values = report.to_dict()
    assert json.loads(report.to_json()) == values
    assert values["outcome"] == "partial"
    assert values["coverage"] == {"tensors": 2, "all_tensors": 4, "parameters": 12, "all_parameters": 14}
    assert [row["name"] for row in values["tensors"]] == [row.name for row in report.tensors]
    assert values["channels"][0]["source_row"] == 1
    assert values["missing"] == ["more.weight", "more.bias"]
    assert values["converted"] == ["same.weight", "same.bias"]


def test_a_report_is_a_value(report: LoadReport) -> None:
    assert pickle.loads(pickle.dumps(report)) == report
    assert copy.deepcopy(report) == report
    assert hash(report) == hash(copy.deepcopy(report))


def test_a_report_in_a_notebook_is_well_formed_html(report: LoadReport) -> None:
    class Balance(HTMLParser):
        def __init__(self) -> None:
            super().__init__()
            self.open: list[str] = []

        def handle_starttag(self, tag: str, attrs: Any) -> None:
            self.open.append(tag)

        def handle_endtag(self, tag: str) -> None:
            assert self.open.pop() == tag

    html = report._repr_html_()
    parser = Balance()
    parser.feed(html)
    assert parser.open == []
    assert "<td>er (distance)</td><td>←</td><td>er (distance), row 1</td>" in html


def test_a_text_is_a_text_in_a_notebook_too(report: LoadReport, monkeypatch: pytest.MonkeyPatch) -> None:
    class ZMQInteractiveShell:
        """What IPython calls the shell of a notebook."""

    plain = str(report)
    monkeypatch.setattr(builtins, "get_ipython", ZMQInteractiveShell, raising=False)
    assert str(report) == plain


def test_names_from_a_file_are_shown_whole_and_do_nothing(save: Save, load: Load) -> None:
    names = [
        "[bold]x[/bold]",
        ":smile:",
        "<script>alert(1)</script>",
        "\x1b[31mred",
        "new\nline",
        "long." * 40,
    ]
    state = {**Net(3).state_dict(), **{name: torch.zeros(1) for name in names}}
    report = load(Net(3), save(state))
    text, html = str(report), report._repr_html_()
    for shown in ("[bold]x[/bold]", ":smile:", "<script>", "\\x1b[31mred", "new\\nline"):
        assert shown in text
    assert text.count("lon") + text.count("ong.") >= 40
    assert "…" not in text
    assert "\x1b" not in text
    assert "<script>" not in html
    assert "&lt;script&gt;" in html


def test_a_long_table_is_cut_and_says_so(save: Save, load: Load) -> None:
    state = {**Net(3).state_dict(), **{f"extra.{i:03}": torch.zeros(1) for i in range(100)}}
    report = load(Net(3), save(state))
    for shown in (str(report), report._repr_html_()):
        assert "extra.029" in shown
        assert "extra.030" not in shown
        assert "… and 70 more" in shown
    assert len(report.to_dict()["unused"]) == 100


def test_assumed_rows_are_said_to_be(folder: Path, load: Load) -> None:
    report = load(Net(3), folder)
    assert len(report.assumed) == 3
    assert "ASSUMED: 3 head rows are copied by position" in str(report)
    assert "← assumed   mito (distance), row 0" in str(report)


def test_a_plan_says_what_it_would_do_or_why_it_is_refused(folder: Path) -> None:
    zoo = Zoo(offline=True)
    plan = plan_load(Net(3), folder, new_head=["mito", "er", "nuc"], zoo=zoo)
    assert str(plan).startswith(f"plan of a partial load of {plan.title}: 4 copies")
    assert "plan of a partial load" in plan._repr_html_()
    refused = plan_load(nn.Linear(7, 7), folder, zoo=zoo)
    assert "which would be refused: " in str(refused)
    assert "has nothing in common with the model" in str(refused)


def test_the_warning_of_a_partial_load_has_the_numbers(folder: Path) -> None:
    with pytest.warns(UserWarning, match="is loaded in part") as caught:
        load_into(Net(4), folder, new_head=["er", "ld", "mito", "vesicle"], zoo=Zoo(offline=True))
    (warning,) = caught
    assert "2 of 2 tensors, 12 of 12 parameters of the backbone, 2 of 4 head rows, 1 unused" in str(
        warning.message
    )
    assert warning.filename == __file__

"""Cards: what is read, what is refused, which manifest and which README are made from one."""

import json
import os
import re
import tomllib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
import yaml  # type: ignore[import-untyped]
from huggingface_hub import CommitOperationAdd, HfApi, ModelCard, ModelCardData, constants
from hypothesis import given
from hypothesis import strategies as st
from packaging.version import Version

from cosemzoo._version import __version__
from cosemzoo.errors import InvalidCard
from cosemzoo.localhub import LocalHub
from cosemzoo.manifest import Architecture, Channel, HeadTensor, Lineage, Manifest, Target, read_manifest
from cosemzoo.publishing.card import RunCard, check_card, plain_card, read_card
from cosemzoo.publishing.card_block import RunDescription
from cosemzoo.publishing.known_cards import card_folders, find_card, known_card
from cosemzoo.reference import known_runs

ROOT = Path(__file__).parents[2]

FRONT: dict[str, Any] = {
    "license": "cc-by-4.0",
    "library_name": "cosemzoo",
    "pipeline_tag": "image-segmentation",
    "tags": ["electron-microscopy"],
}
BLOCK: dict[str, Any] = {
    "run": "my_run",
    "iterations": [1000, 2000],
    "kind": "distance",
    "channels": ["mito", "er"],
    "input_voxel_size": [8, 8, 8],
    "output_voxel_size": [4, 4, 4],
    "input_range": [0, 1],
    "input_sampling": "averaged",
    "target": {"description": "tanh(signed distance / 50 nm)", "scale": 50, "threshold": 0},
    "architecture": {"name": "cosem-unet", "arguments": {"activation_on_upsample": True, "factors": [2, 3]}},
}
BODY = """
# My run

Iterations published for this run: 1000, 2000. Cite doi:10.1038/s41586-021-03977-3.

| row | label |
|---|---|
| 0 | `mito` |
| 1 | `er` |

```python
start = CosemStart("my_run@2000")
start.initialize_weights(model, new_head=["er", ("mito", "distance")])
```

```sh
cosemzoo fetch my_run@1000
```
"""
SHAPES = {
    "backbone.0.l_conv.0.conv_pass.0.weight": (12, 1, 3, 3, 3),
    "prediction_head.weight": (2, 72, 1, 1, 1),
    "prediction_head.bias": (2,),
}

Write = Callable[..., Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Write a card; a name of front matter or block that is given as None is left out."""

    def to_file(
        front: dict[str, Any] | None = None,
        block: dict[str, Any] | None = None,
        body: str = BODY,
        name: str = "card.md",
    ) -> Path:
        described = {key: value for key, value in {**BLOCK, **(block or {})}.items() if value is not None}
        matter = {**FRONT, "cosemzoo": described, **(front or {})}
        text = yaml.safe_dump({key: value for key, value in matter.items() if value is not None})
        path = tmp_path / name
        path.write_text(f"---\n{text}---\n{body}", encoding="utf-8")
        return path

    return to_file


def problems_of(read: Callable[[Path], RunCard], path: Path) -> list[tuple[str, str]]:
    with pytest.raises(InvalidCard) as raised:
        read(path)
    assert raised.value.source == str(path)
    return list(raised.value.problems)


def data_of(readme: str) -> Any:
    return ModelCard(readme).data


def line_of(path: Path, text: str) -> str:
    lines = path.read_text(encoding="utf-8").splitlines()
    (number,) = [number for number, line in enumerate(lines, start=1) if text in line]
    return f"line {number}"


# --- reading -----------------------------------------------------------------------------------------------


def test_a_card_is_its_front_matter_its_text_and_what_the_run_is(write: Write) -> None:
    path = write()
    card = check_card(path)
    assert card.source == str(path)
    assert card.data.to_dict() == FRONT  # type: ignore[no-untyped-call]
    assert card.body == BODY
    assert card.description == RunDescription(
        run="my_run",
        iterations=(1000, 2000),
        channels=(Channel("mito", "distance"), Channel("er", "distance")),
        input_voxel_size=(8.0, 8.0, 8.0),
        output_voxel_size=(4.0, 4.0, 4.0),
        input_range=(0.0, 1.0),
        input_sampling="averaged",
        target=Target("tanh(signed distance / 50 nm)", 50.0, 0.0),
        architecture=Architecture("cosem-unet", {"activation_on_upsample": True, "factors": [2, 3]}),
    )


def test_run_and_channels_are_enough_to_be_read(write: Write) -> None:
    optional = dict.fromkeys(set(BLOCK) - {"run", "channels", "kind"})
    card = read_card(write(dict.fromkeys(FRONT), optional, body=""))
    assert card.description == RunDescription(
        run="my_run", channels=(Channel("mito", "distance"), Channel("er", "distance"))
    )


def test_a_channel_can_have_a_kind_of_its_own(write: Write) -> None:
    channels = ["mito", {"label": "er"}, {"label": "mito", "kind": "one-hot"}]
    body = BODY.replace("| 1 | `er` |", "| 1 | `er` |\n| 2 | `mito` |")
    described = read_card(write(block={"channels": channels}, body=body)).description
    assert [str(channel) for channel in described.channels] == [
        "mito (distance)",
        "er (distance)",
        "mito (one-hot)",
    ]


def test_whose_labels_they_are_goes_from_the_card_into_the_manifest(write: Write) -> None:
    card = read_card(write(block={"vocabulary": "cellmap-challenge"}))
    assert card.manifest(SHAPES, iteration=1000).vocabulary == "cellmap-challenge"


def test_a_head_is_names_or_tensors(write: Write) -> None:
    head = ["head.weight", {"name": "up.weight", "channel_axis": 1, "first_channel": 1}]
    described = read_card(write(block={"head": head})).description
    assert described.head == (HeadTensor("head.weight"), HeadTensor("up.weight", 1, 1))


@pytest.mark.parametrize("change", [lambda text: "\ufeff" + text, lambda text: text.replace("\n", "\r\n")])
def test_a_mark_of_utf_8_and_other_line_ends_change_nothing(
    write: Write, change: Callable[[str], str]
) -> None:
    path = write()
    expected = read_card(path)
    path.write_bytes(change(path.read_text(encoding="utf-8")).encode())
    found = read_card(path)
    assert (found.body, found.description) == (expected.body, expected.description)


@pytest.mark.parametrize(
    ("block", "path", "problem"),
    [
        ({"chanels": ["a"]}, "chanels", "is not known here. Did you mean 'channels'?"),
        ({"layout": "dacapo main"}, "layout", "is not known here."),
        ({"iteration": 5}, "iteration", "is not known here. Did you mean 'iterations'?"),
        ({"channels": [{"lable": "a", "label": "b"}]}, "channels[0].lable", "Did you mean 'label'?"),
        ({"target": {"description": "d", "treshold": 0}}, "target.treshold", "Did you mean 'threshold'?"),
        ({"head": [{"name": "h", "axis": 0}]}, "head[0].axis", "is not known here."),
        ({"architecture": {"name": "n", "argument": {}}}, "architecture.argument", "'arguments'"),
        ({"run": None}, "run", "is missing"),
        ({"run": 26.1}, "run", "is 26.1, not a text"),
        ({"run": "my-lab/run"}, "run", "give the run's name alone"),
        ({"run": "run@best"}, "run", "give the run's name alone"),
        ({"run": "a run"}, "run", "cannot be the name of a run"),
        ({"channels": None}, "channels", "is missing"),
        ({"channels": []}, "channels", "is empty"),
        ({"channels": "mito"}, "channels", "not a list"),
        ({"channels": ["mito", "mito"]}, "channels[1]", "is also channel 0"),
        ({"channels": ["mito", False]}, "channels[1]", "put labels in quotes"),
        ({"kind": None}, "kind", "is missing, and 2 channels do not say theirs"),
        ({"iterations": 1000}, "iterations", "not a list"),
        ({"iterations": [1000, 1000]}, "iterations[1]", "repeats 1000"),
        ({"iterations": [-1]}, "iterations[0]", "not an integer from 0 on"),
        ({"iterations": [True]}, "iterations[0]", "not an integer from 0 on"),
        ({"iterations": ["1000"]}, "iterations[0]", "not an integer from 0 on"),
        ({"input_voxel_size": [8, 8]}, "input_voxel_size", "has 2 members, not 3"),
        ({"output_voxel_size": [4, 4, 0]}, "output_voxel_size", "not three lengths above 0"),
        ({"input_range": [1, 0]}, "input_range", "not a smaller and a larger number"),
        ({"target": {"scale": 50}}, "target.description", "is missing"),
        ({"target": {"description": "d", "scale": "5e1"}}, "target.scale", "not a number"),
        ({"head": ["a", "a"]}, "head[1].name", "is listed before"),
        ({"input_sampling": float("nan")}, "", "NaN"),
        ({"vocabulary": "cosm"}, "vocabulary", "is 'cosm', which is not known here. Did you mean 'cosem'?"),
        ({"vocabulary": "mine"}, "vocabulary", "There are: cosem, cellmap-challenge, cnnectome"),
        ({"vocabulary": 7}, "vocabulary", "is 7, not a text"),
    ],
)
def test_what_no_manifest_can_be_made_from_is_refused_with_its_path(
    write: Write, block: dict[str, Any], path: str, problem: str
) -> None:
    found = problems_of(read_card, write(block=block, body=""))
    assert [where for where, what in found if problem in what] == [f"$.cosemzoo.{path}".rstrip(".")]


def test_values_that_json_does_not_have_are_refused(write: Write) -> None:
    path = write(body="")
    text = path.read_text(encoding="utf-8")
    path.write_text(text.replace("input_sampling: averaged", "input_sampling: 2024-01-01"), encoding="utf-8")
    found = dict(problems_of(read_card, path))
    assert found["$.cosemzoo.input_sampling"] == "is a date (2024-01-01): put it in quotes"


@pytest.mark.parametrize("front", [{"cosemzoo": None}, {"cosemzoo": "run"}, {"cosemzoo": {1: 2}}])
def test_a_block_that_is_none_is_said(write: Write, front: dict[str, Any]) -> None:
    ((where, _),) = problems_of(read_card, write(front, body=""))
    assert where == "$.cosemzoo"


@pytest.mark.parametrize(
    ("front", "path", "problem"),
    [
        ({"licence": "mit"}, "licence", "Did you mean 'license'?"),
        ({"cosem-zoo": {}}, "cosem-zoo", "Did you mean 'cosemzoo'?"),
        ({"license": "bsd3-clause"}, "license", "Did you mean 'bsd-3-clause'?"),
        ({"license": 3}, "license", "is 3, not a text"),
        ({"license": "other"}, "license", "give license_name and license_link as well"),
        ({"pipeline_tag": "segmentation"}, "pipeline_tag", "Did you mean 'image-segmentation'?"),
        ({"library_name": "torch"}, "library_name", "the library that loads the run is cosemzoo"),
        ({"tags": "em"}, "tags", "not a list of texts"),
        ({"tags": ["em", 3]}, "tags", "not a list of texts"),
        ({"tags": ["em", "em"]}, "tags", "names a tag twice"),
        ({"language": False}, "language", "neither a text nor a list of texts"),
        ({"base_model": "a/b/c"}, "base_model", "an id is namespace/name"),
        ({"datasets": ["a b"]}, "datasets", "an id is namespace/name"),
        ({"base_model_relation": "finetuned", "base_model": "a/b"}, "base_model_relation", "'finetune'"),
        ({"base_model_relation": "finetune"}, "base_model", "is missing"),
        ({"model-index": [{"name": "x"}]}, "model-index", "cannot be parsed"),
        ({"model-index": "none"}, "model-index", "cannot be parsed"),
        ({5: "x"}, "", "put it in quotes"),
    ],
)
def test_front_matter_that_the_hub_would_not_understand_is_refused(
    write: Write, front: dict[str, Any], path: str, problem: str
) -> None:
    found = problems_of(read_card, write(front))
    assert [where for where, what in found if problem in what] == [f"$.{path}".rstrip(".")]


def test_other_licences_are_named_and_linked(write: Write) -> None:
    own = {"license": "other", "license_name": "ours", "license_link": "https://example.org/licence"}
    assert check_card(write(own)).data.license_name == "ours"


def test_numbers_are_read_where_they_belong(write: Write) -> None:
    results = [
        {
            "task": {"type": "image-segmentation"},
            "dataset": {"type": "jrc_hela-2", "name": "jrc_hela-2"},
            "metrics": [{"type": "f1", "value": 0.5}],
        }
    ]
    front = {"model-index": [{"name": "my_run", "results": results}]}
    card = check_card(write(front, body=BODY + "\nF1: 0.5 on jrc_hela-2.\n"))
    assert card.data.eval_results is not None
    assert card.data.eval_results[0].metric_value == 0.5
    again = data_of(card.render())
    assert again.eval_results == card.data.eval_results


def test_scores_of_two_models_are_refused(write: Write) -> None:
    both: list[dict[str, Any]] = [{"name": name, "results": []} for name in ("my_run", "another")]
    ((where, what),) = problems_of(read_card, write({"model-index": both}))
    assert (where, what.partition(",")[0]) == ("$.model-index", "has 2 entries")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("model-index", []),
        ("model-index", [{"name": "r", "results": [], "extra": "lost"}]),
        ("inference", None),
    ],
)
def test_what_the_client_would_lose_is_refused(write: Write, name: str, value: object) -> None:
    path = write()
    text = path.read_text(encoding="utf-8")
    path.write_text(text.replace("---\n", f"---\n{json.dumps({name: value})[1:-1]}\n", 1), encoding="utf-8")
    ((where, what),) = problems_of(read_card, path)
    assert where == f"$.{name}"
    assert "huggingface_hub would write" in what


@pytest.mark.parametrize(
    ("text", "where", "problem"),
    [
        ("# Only text\n", "line 1", "there is no front matter"),
        ("---\nlicense: mit\n", "line 1", "there is no front matter"),
        ("---\nlicense: mit\ntags: [a\n---\n", "line 3", "the front matter is not YAML"),
        ("---\na: 2024-13-45\n---\n", "line 2", "the front matter is not YAML"),
        ("---\n- a\n---\n", "line 2", "not names and values"),
        ("---\ntags: *nowhere\n---\n", "line 2", "has the alias *nowhere: write out what it stands for"),
        ("---\na: &a [x]\nb: {<<: *a}\n---\n", "line 3", "has the alias *a"),
        ("---\na: &a\n  b: *a\n---\n", "line 3", "has the alias *a"),
        (f"---\na: {'[' * 50}\n---\n", "line 2", "nested too deeply: more than 50 levels"),
        (f"---\nwidget: {'[' * 49}{']' * 49}\n---\n", "$.cosemzoo", "is missing"),
        ("---\na: !!python/object/apply:os.getcwd []\n---\n", "line 2", "the front matter is not YAML"),
    ],
)
def test_a_mistake_in_the_front_matter_is_said_with_its_line(
    tmp_path: Path, text: str, where: str, problem: str
) -> None:
    path = tmp_path / "card.md"
    path.write_text(text, encoding="utf-8")
    ((line, what),) = problems_of(read_card, path)
    assert line == where
    assert problem in what


def test_aliases_of_aliases_are_refused_before_anything_follows_them(tmp_path: Path) -> None:
    lines = [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]" for i in range(1, 30)]
    path = tmp_path / "card.md"
    path.write_text("---\na0: &a0 [x]\n" + "\n".join(lines) + "\ncosemzoo: *a29\n---\n", encoding="utf-8")
    found = problems_of(read_card, path)
    assert found[0] == ("line 3", "has the alias *a0: write out what it stands for")
    assert len(found) == 29 * 9 + 1


def test_a_name_that_is_repeated_is_said_with_its_line(write: Write) -> None:
    path = write()
    text = path.read_text(encoding="utf-8")
    path.write_text(text.replace("  run: my_run\n", "  run: my_run\n  run: another\n"), encoding="utf-8")
    found = problems_of(read_card, path)
    assert (line_of(path, "run: another"), "repeats the name 'run'") in found


def test_a_file_that_cannot_be_read_is_said(tmp_path: Path) -> None:
    assert problems_of(read_card, tmp_path / "none.md") == [
        ("$", "cannot be read: No such file or directory")
    ]
    assert "cannot be read" in problems_of(read_card, tmp_path)[0][1]
    (tmp_path / "latin.md").write_bytes("é".encode("latin-1"))
    assert problems_of(read_card, tmp_path / "latin.md") == [("$", "is not UTF-8 (byte 0)")]


# --- the text and the block --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("old", "new", "problem"),
    [
        ("| 1 | `er` |", "| 1 | `golgi` |", "calls channel 1 'golgi'; the block calls it 'er'"),
        ("| 1 | `er` |", "| 2 | `er` |", "is row 2 of the channels where row 1 is expected"),
        ("| 1 | `er` |", "", "is the last channel of the table; the block also has: er"),
        ("| 1 | `er` |", "| 1 | `er` |\n| 2 | `nuc` |", "is channel 2, 'nuc'; the block has 2 channels"),
        ("run: 1000, 2000.", "run: 1000, 3000.", "names other iterations than the block"),
        ("run: 1000, 2000.", "run: 1000,\n3000.", "names other iterations than the block"),
        ("run: 1000, 2000.", "run: 2000.", "names other iterations than the block"),
        ('"my_run@2000"', '"setup04@2000"', "which is not the run 'my_run'"),
        ('"my_run@2000"', '"local:setup04@2000"', "which is not the run 'my_run'"),
        ('"my_run@2000"', '"my_run@3000"', "loads iteration 3000, which is none of the block's: 1000, 2000"),
        ('"my_run@2000"', '"my_run/2000"', "did you mean my_run@2000?"),
        ('CosemStart("my_run@2000")', 'CosemStartConfig("my_run", "3000")', "loads iteration 3000"),
        ('CosemStart("my_run@2000")', 'StartConfig(criterion=3000, run="my_run")', "loads iteration 3000"),
        ('CosemStart("my_run@2000")', 'CosemStart(start_config="setup04")', "which is not the run"),
        ('CosemStart("my_run@2000")', 'zoo.resolve("setup04")', "which is not the run"),
        ('CosemStart("my_run@2000")', 'load_into(m, reference="setup04")', "which is not the run"),
        ('"er", (', '"eer", (', "'eer' is no label of the run. Did you mean 'er'?"),
        ('("mito", "distance")', '("nuc", "distance")', "'nuc' is no label of the run."),
        ('["er", ("mito", "distance")]', '{"mine": "golgi"}', "'golgi' is no label of the run."),
        ("start.initialize", "start initialize", "is not Python"),
        ("fetch my_run@1000", "fetch my_run@1500", "loads iteration 1500"),
        ("fetch my_run@1000", "show 'my_run@1500'", "loads iteration 1500"),
    ],
)
def test_a_text_that_says_otherwise_is_refused_with_its_line(
    write: Write, old: str, new: str, problem: str
) -> None:
    assert old in BODY
    path = write(body=BODY.replace(old, new))
    ((where, what),) = problems_of(read_card, path)
    assert problem in what
    said = path.read_text(encoding="utf-8").splitlines()[int(where.removeprefix("line ")) - 1]
    assert any(part in said for part in (new or "| 0 |").split("\n"))


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("run: 1000, 2000.", "run: 1000,\n2000. And 3000."),
        ('"my_run@2000"', '"my-lab/renamed@3000"'),
        ('"my_run@2000"', '"local:my_run@2000"'),
        ('"my_run@2000"', '"my_run@best"'),
        ('"my_run@2000"', '"./folder"'),
        ('"my_run@2000"', "reference"),
        ('CosemStart("my_run@2000")', 'CosemStartConfig(criterion="2000", run="my_run")'),
        ('CosemStart("my_run@2000")', 'CosemStartConfig("my_run", criterion="2000")'),
        ('CosemStart("my_run@2000")', 'CosemStartConfig(run, "2000")'),
        ('["er", ("mito", "distance")]', '{"mine": "er", "other": None}'),
        ('["er", ("mito", "distance")]', "labels"),
        ("# My run", "# My run\n\n```\n| 7 | `x` |\nCosemStart(\n```"),
        ("# My run", '# My run\n\n```json\n{"a": CosemStart("x y")}\n```'),
    ],
)
def test_a_text_that_says_nothing_else_is_read(write: Write, old: str, new: str) -> None:
    assert old in BODY
    assert read_card(write(body=BODY.replace(old, new))).body == BODY.replace(old, new)


@pytest.mark.parametrize(
    ("old", "new", "problem"),
    [
        ("# My run", "My run", "has no title"),
        ("run: 1000, 2000.", "run are some.", "does not name the iterations 1000"),
        ("| 0 | `mito` |\n| 1 | `er` |", "", "has no table of the channels"),
        ("```python", "```text", "does not say how to load the run"),
        ("doi:10.1038/s41586-021-03977-3", "us", "names no DOI"),
    ],
)
def test_what_a_reader_needs_is_missed_by_the_check_alone(
    write: Write, old: str, new: str, problem: str
) -> None:
    assert old in BODY
    path = write(body=BODY.replace(old, new).replace("cosemzoo fetch my_run@1000", "hf --help"))
    assert read_card(path).description.run == "my_run"
    ((where, what),) = problems_of(check_card, path)
    assert where == "text"
    assert problem in what


@pytest.mark.parametrize("name", FRONT)
def test_what_the_hub_finds_a_network_by_is_missed_by_the_check(write: Write, name: str) -> None:
    path = write({name: None})
    assert read_card(path).description.run == "my_run"
    ((where, what),) = problems_of(check_card, path)
    assert where == f"$.{name}"
    assert what.startswith("is missing")


@pytest.mark.parametrize(
    "line",
    [
        "F1: 0.83",
        "recall = 0.7",
        "Precision: 93 %",
        "| recall | .61 |",
        "average precision of 0.8",
        "The Dice score was 0.7.",
        "| IoU | 0.61 |",
        "Accuracy of 93 %",
        "| `mito` | F1 | .83 |",
    ],
)
def test_a_score_in_the_text_alone_is_found(write: Write, line: str) -> None:
    path = write(body=f"{BODY}\n{line}\n")
    ((where, what),) = problems_of(check_card, path)
    assert where == line_of(path, line)
    assert "model-index" in what


@pytest.mark.parametrize("measure", ["F1", "recall"])
def test_a_table_of_scores_is_found(write: Write, measure: str) -> None:
    path = write(body=f"{BODY}\n| label | {measure} | at |\n|---|---|---|\n| `nuc` | 0.8 | x |\n")
    assert [where for where, _ in problems_of(check_card, path)] == [line_of(path, "0.8")]


@pytest.mark.parametrize(
    "line",
    [
        "| label | voxel |\n|---|---|\n| `mito` | 5.24 |",
        "No F1 was measured. The threshold is 0.5.",
        "The criterion `jrc_hela-2/f1_score 0.5`.",
        "The recall is discussed in doi:10.1038/s41586-021-03977-3",
        "```text\nF1: 0.83\n```",
        "Differences up to 17 where outputs are about 4.",
        "Stored in half precision, 0.5 of the size.",
        "A precision of 4.5 nm.",
        "| in full precision or not | size |\n|---|---|\n| `x` | 0.5 |",
    ],
)
def test_a_number_that_is_no_score_is_none(write: Write, line: str) -> None:
    assert check_card(write(body=f"{BODY}\n{line}\n"))


def test_a_card_that_says_no_iterations_may_name_any(write: Write) -> None:
    body = BODY.replace("Iterations published for this run: 1000, 2000.", "Two so far.")
    assert check_card(write(block={"iterations": None}, body=body)).description.iterations == ()


def test_the_card_of_a_known_run_is_called_after_it(write: Write) -> None:
    body = BODY.replace("my_run", "setup04")
    as_other = write(block={"run": "setup04"}, body=body, name="setup28.md")
    assert read_card(as_other).description.run == "setup04"
    assert problems_of(check_card, as_other) == [
        ("$.cosemzoo.run", "is 'setup04', and the file is called 'setup28'")
    ]
    assert check_card(write(block={"run": "setup04"}, body=body, name="setup04.md"))


def test_all_problems_are_said_at_once(write: Write) -> None:
    path = write(
        {"licence": "mit", "license": None, "tags": "x"},
        {"chanels": [], "input_range": [1, 0], "iterations": ["x"]},
        body=BODY.replace("start.init", "start init"),
    )
    said = {where for where, _ in problems_of(check_card, path)}
    assert said >= {"$.licence", "$.license", "$.tags", line_of(path, "start init")}
    assert said >= {"$.cosemzoo.chanels", "$.cosemzoo.input_range", "$.cosemzoo.iterations[0]"}


# --- the manifest ------------------------------------------------------------------------------------------


def test_a_manifest_says_what_card_and_tensors_say(write: Write) -> None:
    lineage = Lineage(source_url="https://example.org/x")
    manifest = read_card(write()).manifest(
        SHAPES,
        iteration=2000,
        architecture={"channels": 2, "factors": (2, 3), "final_upsample": 2},
        lineage=lineage,
        generated=True,
    )
    assert manifest == Manifest(
        run="my_run",
        iteration=2000,
        channels=(Channel("mito", "distance"), Channel("er", "distance")),
        head=(HeadTensor("prediction_head.weight"), HeadTensor("prediction_head.bias")),
        input_voxel_size=(8.0, 8.0, 8.0),
        output_voxel_size=(4.0, 4.0, 4.0),
        input_range=(0.0, 1.0),
        input_sampling="averaged",
        target=Target("tanh(signed distance / 50 nm)", 50.0, 0.0),
        architecture=Architecture(
            "cosem-unet",
            {"channels": 2, "factors": [2, 3], "final_upsample": 2, "activation_on_upsample": True},
        ),
        layout="cellmap-models",
        lineage=lineage,
        generated=True,
        tool_version=__version__,
    )
    assert read_manifest(manifest.to_json().encode(), "config.json", SHAPES) == manifest


def test_a_manifest_without_tensors_says_what_the_card_says(write: Write) -> None:
    manifest = read_card(write()).manifest(None, iteration=None)
    assert (manifest.head, manifest.layout, manifest.iteration) == ((), None, None)
    assert manifest.architecture == Architecture("cosem-unet", BLOCK["architecture"]["arguments"])
    assert read_manifest(manifest.to_json().encode(), "config.json") == manifest


def test_a_head_without_bias_is_its_weight(write: Write) -> None:
    shapes = {name: shape for name, shape in SHAPES.items() if not name.endswith("bias")}
    manifest = read_card(write()).manifest(shapes, iteration=1000)
    assert manifest.head == (HeadTensor("prediction_head.weight"),)


def test_names_of_no_known_layout_give_none(write: Write) -> None:
    card = read_card(write(block={"head": ["out.weight"]}))
    assert card.manifest({"out.weight": (2, 3), "body": (3,)}, iteration=1000).layout is None


def test_the_network_of_a_card_that_names_none_is_the_one_in_the_tensors(write: Write) -> None:
    card = read_card(write(block={"architecture": None}))
    assert card.manifest(SHAPES, iteration=1000).architecture is None
    found = card.manifest(SHAPES, iteration=1000, architecture={"channels": 2}).architecture
    assert found == Architecture("cosem-unet", {"channels": 2})


def test_everything_that_card_and_tensors_do_not_agree_on_is_said_at_once(write: Write) -> None:
    card = read_card(write())
    shapes = {**SHAPES, "prediction_head.weight": (3, 72, 1, 1, 1)}
    found = {"factors": [2, 3, 3], "activation_on_upsample": True, "channels": 3}
    with pytest.raises(InvalidCard) as raised:
        card.manifest(shapes, iteration=3000, architecture=found)
    said = dict(raised.value.problems)
    assert set(said) == {
        "$.cosemzoo.iterations",
        "$.cosemzoo.head[0]",
        "$.cosemzoo.architecture.arguments.factors",
    }
    assert said["$.cosemzoo.iterations"] == "do not have 3000; there are: 1000, 2000"
    assert "has 3 slices along axis 0" in said["$.cosemzoo.head[0]"]
    assert said["$.cosemzoo.architecture.arguments.factors"] == "is [2, 3]; by the tensors it is [2, 3, 3]"


@pytest.mark.parametrize(
    ("stated", "found"),
    [
        ([2, [3, 3, 3], 3], [2, 3, 3]),
        ([[2, 2, 2], [2, 2, 2], [2, 2, 2]], [2, 2, 2]),
        ([[1, 2, 2], 2], "unknown"),
        ("unknown", [2, 3]),
    ],
)
def test_one_number_is_three_equal_ones_and_what_is_unknown_is_no_contradiction(
    write: Write, stated: object, found: object
) -> None:
    arguments = {"name": "cosem-unet", "arguments": {"factors": stated}}
    card = read_card(write(block={"architecture": arguments}))
    network = card.manifest(SHAPES, iteration=1000, architecture={"factors": found}).architecture
    assert network == Architecture("cosem-unet", {"factors": found if stated == "unknown" else stated})


@pytest.mark.parametrize(
    ("factor", "sizes"),
    [
        (None, ([8, 8, 8], [4, 4, 4])),
        (1, ([8, 8, 8], [4, 4, 4])),
        (2, ([4, 4, 4], [4, 4, 4])),
        (2, ([8, 8, 8], [4, 4, 8])),
        ((1, 2, 2), ([8, 8, 8], [4, 4, 4])),
    ],
)
def test_voxels_that_the_network_does_not_make_are_refused(
    write: Write, factor: object, sizes: tuple[list[int], list[int]]
) -> None:
    card = read_card(write(block={"input_voxel_size": sizes[0], "output_voxel_size": sizes[1]}))
    with pytest.raises(InvalidCard) as raised:
        card.manifest(SHAPES, iteration=1000, architecture={"final_upsample": factor})
    assert [where for where, _ in raised.value.problems] == ["$.cosemzoo.output_voxel_size"]


@pytest.mark.parametrize(
    ("found", "sizes"),
    [
        ({"final_upsample": None}, ([4, 4, 5.24], [4, 4, 5.24])),
        ({"final_upsample": 3}, ([0.3, 0.3, 0.3], [0.1, 0.1, 0.1])),
        ({"final_upsample": [1, 2, 2]}, ([8, 8, 8], [8, 4, 4])),
        ({"final_upsample": None}, ([8, 8, 8], None)),
        ({}, ([8, 8, 8], [4, 4, 4])),
    ],
)
def test_voxels_that_the_network_makes_or_that_nothing_is_known_of_are_taken(
    write: Write, found: dict[str, Any], sizes: tuple[list[float], list[float] | None]
) -> None:
    card = read_card(write(block={"input_voxel_size": sizes[0], "output_voxel_size": sizes[1]}))
    assert card.manifest(SHAPES, iteration=1000, architecture=found)


def test_of_another_network_than_the_cosem_u_net_nothing_is_known(write: Write) -> None:
    other = {"name": "net", "arguments": {"final_upsample": 1}}
    assert read_card(write(block={"architecture": other})).manifest(SHAPES, iteration=1000)


def test_tensors_of_the_head_that_are_not_there_are_said(write: Write) -> None:
    card = read_card(write(block={"head": ["head.weight", "prediction_head.bias"]}))
    with pytest.raises(InvalidCard, match=r"head\[0\].name: the weights hold no tensor 'head.weight'"):
        card.manifest(SHAPES, iteration=1000)


def test_a_head_without_its_usual_names_must_be_named(write: Write) -> None:
    with pytest.raises(InvalidCard, match=r"head: is missing.*name its tensors \(out\.weight\)"):
        read_card(write()).manifest({"out.weight": (2, 9), "body": (9,)}, iteration=1000)


@given(
    rows=st.integers(1, 6),
    labels=st.lists(st.from_regex(r"[a-z_]{1,8}", fullmatch=True), min_size=1, max_size=6, unique=True),
)
def test_a_manifest_is_made_exactly_where_the_rows_are_the_channels(rows: int, labels: list[str]) -> None:
    channels = tuple(Channel(label, "distance") for label in labels)
    card = RunCard("card", ModelCardData(), "", RunDescription(run="r", channels=channels))
    shapes = {"prediction_head.weight": (rows, 4), "prediction_head.bias": (rows,)}
    if rows == len(labels):
        manifest = card.manifest(shapes, iteration=None)
        assert read_manifest(manifest.to_json().encode(), "config.json", shapes) == manifest
    else:
        with pytest.raises(InvalidCard):
            card.manifest(shapes, iteration=None)


# --- the README --------------------------------------------------------------------------------------------


def made(card: RunCard, *, base: str | None = None, generated: bool = False) -> Manifest:
    lineage = None if base is None else Lineage(base_repository=base)
    return card.manifest(SHAPES, iteration=1000, lineage=lineage, generated=generated)


def test_a_readme_is_the_card_without_its_block(write: Write) -> None:
    card = read_card(write())
    text = card.render(made(card))
    assert text == card.render(made(card))
    assert text == card.render()
    assert text.endswith(f"---\n{BODY}")
    readme = ModelCard(text)
    assert data_of(text).to_dict() == FRONT
    assert str(readme) == text


def test_a_readme_names_the_library_where_the_card_does_not(write: Write) -> None:
    card = read_card(write({"library_name": None}))
    assert data_of(card.render()).library_name == "cosemzoo"


def test_a_fine_tuned_run_names_its_base(write: Write) -> None:
    card = read_card(write())
    data = data_of(card.render(made(card, base="cosemzoo/setup04")))
    assert (data.base_model, data["base_model_relation"]) == ("cosemzoo/setup04", "finetune")
    given = data_of(card.render(base_model="my-lab/other"))
    assert (given.base_model, given["base_model_relation"]) == ("my-lab/other", "finetune")
    assert data_of(card.render(made(card))).base_model is None


def test_a_card_that_names_another_base_is_refused(write: Write) -> None:
    card = read_card(write({"base_model": "a/b"}))
    with pytest.raises(InvalidCard, match="base_model: is a/b; it was fine-tuned from c/d"):
        card.render(base_model="c/d")
    assert data_of(card.render(base_model="a/b")).base_model == "a/b"
    assert data_of(card.render()).base_model == "a/b"


def test_further_bases_of_a_card_are_kept(write: Write) -> None:
    data = data_of(read_card(write({"base_model": ["a/b", "c/d"]})).render(base_model="c/d"))
    assert (data.base_model, data["base_model_relation"]) == (["a/b", "c/d"], "finetune")


def test_a_card_that_calls_fine_tuning_something_else_is_refused(write: Write) -> None:
    card = read_card(write({"base_model": "a/b", "base_model_relation": "merge"}))
    with pytest.raises(InvalidCard, match="base_model_relation: is merge; to a/b it is finetune"):
        card.render(base_model="a/b")
    assert data_of(card.render())["base_model_relation"] == "merge"


def test_a_manifest_of_another_run_is_refused(write: Write) -> None:
    card = read_card(write())
    other = Manifest(run="other", channels=(Channel("x", "y"),), head=())
    with pytest.raises(InvalidCard) as raised:
        card.render(other)
    assert [where for where, _ in raised.value.problems] == ["$.cosemzoo.run", "$.cosemzoo.channels"]


def test_generated_weights_are_said_right_below_the_title_and_as_a_tag(write: Write) -> None:
    card = read_card(write())
    text = card.render(made(card, generated=True))
    assert re.search(r"\n# My run\n\n\*\*The weights are made-up numbers\*\*[^\n]*\n\nIterations", text)
    assert data_of(text).tags == ["electron-microscopy", "generated-weights"]
    assert "generated-weights" not in card.render(made(card))


def test_the_warning_comes_first_where_there_is_no_title(write: Write) -> None:
    card = read_card(write({"tags": None}, body="```\n# no title\n```\n"))
    text = card.render(made(card, generated=True))
    readme = ModelCard(text)
    assert readme.text.lstrip().startswith("**The weights are made-up numbers**")
    assert readme.text.endswith("\n\n```\n# no title\n```\n")
    assert data_of(text).tags == ["generated-weights"]


def test_code_names_the_repository_that_it_is_pushed_to(write: Write) -> None:
    body = BODY + '\n`my_run@1000`\n\n```python\nresolve("local:my_run@1000", "x/my_run")\n```\n'
    text = read_card(write(body=body)).render(repository="my-lab/net")
    changed = body.replace('CosemStart("my_run@2000")', 'CosemStart("my-lab/net@2000")')
    assert ModelCard(text).text == changed.replace("fetch my_run@1000", "fetch my-lab/net@1000")


@pytest.mark.parametrize(
    ("code", "moved"),
    [
        ('load_into(self.model, "my_run@2000")', 'load_into(self.model, "x/net@2000")'),
        ("load_into(\n    model,\n    'my_run@2000',\n)", "load_into(\n    model,\n    'x/net@2000',\n)"),
        ('resolve(reference="my_run@2000")', 'resolve(reference="x/net@2000")'),
        ('CosemStart( "my_run@1000")', 'CosemStart( "x/net@1000")'),
        (
            'CosemStartConfig(criterion="1000", run="my_run")',
            'CosemStartConfig(criterion="1000", run="x/net")',
        ),
        ('s = ["my_run", "my_run@best"]', 's = ["x/net", "x/net@best"]'),
        ('s = ["my_run.md", "my_run2", "a my_run", "local:my_run@1000", my_run]', None),
        ('import cosemzoo\nx = "my_run"', 'import cosemzoo\nx = "x/net"'),
    ],
)
def test_python_names_the_repository_however_it_is_written(
    write: Write, code: str, moved: str | None
) -> None:
    inline = code.replace("\n", " ")
    body = f"{BODY}\n```python\n{code}\n```\n\nOr `{inline}`.\n"
    text = ModelCard(read_card(write(body=body)).render(repository="x/net")).text
    added = text.partition("```sh")[2].partition("```\n")[2]
    expected = moved or code
    assert added == f"\n```python\n{expected}\n```\n\nOr `{expected.replace(chr(10), ' ')}`.\n"


@pytest.mark.parametrize(
    ("code", "moved"),
    [
        ("cosemzoo show --json my_run@1000", "cosemzoo show --json x/net@1000"),
        ("$ cosemzoo show my_run --json", "$ cosemzoo show x/net --json"),
        ("cosemzoo fetch \\\n  my_run@1000 'my_run'", "cosemzoo fetch \\\n  x/net@1000 'x/net'"),
        ("cosemzoo push y/z@1 --weights w --base=my_run", "cosemzoo push y/z@1 --weights w --base=x/net"),
        ("cosemzoo import my_run && cosemzoo show my_run", "cosemzoo import my_run && cosemzoo show x/net"),
        ('cosemzoo import "my_run@1000"', None),
        ("cosemzoo show local:my_run@1000 ./my_run my_run.md", None),
        ("cosemzoo show x/y | grep my_run\ncd my_run", None),
        ("python -c 'CosemStart(\"my_run@1000\")'", "python -c 'CosemStart(\"x/net@1000\")'"),
    ],
)
def test_commands_name_the_repository_however_they_are_written(
    write: Write, code: str, moved: str | None
) -> None:
    body = f"{BODY}\n```sh\n{code}\n```\n"
    text = ModelCard(read_card(write(body=body)).render(repository="x/net")).text
    assert text.rpartition("```sh\n")[2] == f"{moved or code}\n```\n"


def test_a_text_outside_of_code_is_left_as_it_is(write: Write) -> None:
    body = BODY + '\nIt is "my_run" here, as cosemzoo show my_run says.\n'
    text = ModelCard(read_card(write(body=body)).render(repository="x/net")).text
    assert text.endswith('\nIt is "my_run" here, as cosemzoo show my_run says.\n')


def test_code_of_a_known_run_is_left_where_its_name_means_the_repository() -> None:
    card = known_card("setup04")
    assert card is not None
    assert card.render(repository="cosemzoo/setup04") == card.render()
    elsewhere = card.render(repository="my-lab/setup04")
    assert 'CosemStart("my-lab/setup04@1820500")' in elsewhere
    assert "cosemzoo import setup04@1820500" in elsewhere
    assert "`local:setup04@1820500`" in elsewhere


@pytest.mark.parametrize("run", known_runs())
def test_the_hub_takes_what_is_pushed(
    run: str, hub: LocalHub, api: HfApi, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    card = known_card(run)
    assert card is not None
    text = card.render(base_model="cosemzoo/setup04", repository="my-lab/run")
    (tmp_path / "README.md").write_text(text, encoding="utf-8")
    loaded = ModelCard.load(tmp_path / "README.md")
    assert str(loaded) == text
    expected = {**card.data.to_dict(), "base_model": "cosemzoo/setup04", "base_model_relation": "finetune"}  # type: ignore[no-untyped-call]
    assert loaded.data.to_dict() == expected
    if Version(huggingface_hub.__version__) >= Version("2"):
        # Older clients validate at huggingface.co alone.
        monkeypatch.setattr(constants, "ENDPOINT", hub.endpoint)
        loaded.validate()
    api.create_repo("my-lab/run")
    readme = CommitOperationAdd("README.md", text.encode())
    api.create_commit("my-lab/run", [readme], commit_message="Describe the run")
    assert any("/api/validate-yaml" in str(request) for request in hub.requests)
    (found,) = api.list_models(filter="base_model:cosemzoo/setup04")
    assert found.id == "my-lab/run"


# --- cards that nobody wrote -------------------------------------------------------------------------------


def test_a_plain_card_says_what_the_manifest_says_and_what_is_not_stated() -> None:
    manifest = Manifest(
        run="my_run",
        iteration=5,
        channels=(Channel("mito", "distance"), Channel("a|b", "one-hot")),
        head=(HeadTensor("prediction_head.weight"),),
        input_voxel_size=(8.0, 8.0, 5.24),
        target=Target("tanh", threshold=0.0),
        architecture=Architecture("net", {"width": 3}),
    )
    card = plain_card(manifest, "my-lab/my_run")
    text = card.render(manifest, repository="my-lab/my_run")
    assert data_of(text).to_dict() == {"library_name": "cosemzoo", "tags": ["safetensors"]}
    assert 'CosemStart("my-lab/my_run")' in text
    assert "| 0 | `mito` | distance |" in text
    assert "| 1 | `a\\|b` | one-hot |" in text
    assert "| input voxel (nm, z y x) | 8, 8, 5.24 |" in text
    assert "| output voxel (nm, z y x) | not stated |" in text
    assert "| target's scale (nm) | not stated |" in text
    assert "| threshold | 0 |" in text
    assert "| width | `3` |" in text
    assert "Training data, evaluation, limits, licence and citation." in text
    assert card.manifest(None, iteration=5).channels == manifest.channels


def test_a_plain_card_with_a_block_could_have_been_written(tmp_path: Path, write: Write) -> None:
    card = plain_card(made(read_card(write())), "my-lab/my_run")
    head = ["prediction_head.weight", "prediction_head.bias"]
    block = {name: value for name, value in {**BLOCK, "head": head}.items() if name != "iterations"}
    front = yaml.safe_dump({"cosemzoo": block, "library_name": "cosemzoo"})
    path = tmp_path / "plain.md"
    path.write_text(f"---\n{front}---\n{card.body}", encoding="utf-8")
    assert read_card(path).description == card.description


# --- the cards that come with the package ------------------------------------------------------------------


def test_every_known_run_has_its_card_and_no_other_run() -> None:
    for run in known_runs():
        card = known_card(run)
        assert card is not None
        assert card.description.run == run
    assert known_card("my_run") is None
    assert known_card("../model_cards/setup04") is None


@pytest.mark.parametrize("place", ["site/cosemzoo/model_cards", "model_cards"])
def test_cards_are_found_in_an_installed_package_and_in_a_checkout(
    write: Write, tmp_path: Path, place: str
) -> None:
    package = tmp_path / "site" / "cosemzoo"
    folders = card_folders(package)
    assert find_card("card", folders) is None
    (tmp_path / place).mkdir(parents=True)
    path = write(name=f"{place}/card.md")
    found = find_card("card", folders)
    assert found is not None
    assert os.path.samefile(found.source, path)


def test_the_wheel_has_the_cards_where_they_are_looked_for() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    wheel = project["tool"]["hatch"]["build"]["targets"]["wheel"]
    assert wheel["force-include"] == {"model_cards": "cosemzoo/model_cards"}
    assert card_folders(Path("site/cosemzoo"))[0] == Path("site/cosemzoo/model_cards")
    assert card_folders(ROOT / "src" / "cosemzoo")[1] == ROOT / "model_cards"


# --- how to write one --------------------------------------------------------------------------------------


def blocks(language: str) -> Sequence[str]:
    text = (ROOT / "docs" / "cards.md").read_text(encoding="utf-8")
    return re.findall(rf"^```{language}\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)


def test_the_card_of_the_documentation_is_one(tmp_path: Path) -> None:
    (text,) = blocks("markdown")
    path = tmp_path / "my_run.md"
    path.write_text(text, encoding="utf-8")
    assert check_card(path).manifest(SHAPES, iteration=2000).labels == ("mito", "er")


def test_the_documentation_names_everything_that_a_block_can_say() -> None:
    text = (ROOT / "docs" / "cards.md").read_text(encoding="utf-8")
    table = text.partition("## The `cosemzoo` block")[2].partition("## The text")[0]
    named = set(re.findall(r"`(\w+)`", "\n".join(re.findall(r"^\| (`[^|]*) \|", table, re.MULTILINE))))
    assert named == {"kind", *(field.name for field in RunDescription.__attrs_attrs__)}

"""`cosemzoo card check` and `cosemzoo card render`."""

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from huggingface_hub import ModelCard

from cosemzoo.checkpoints.writer import write_safetensors
from cosemzoo.cli.card import card
from cosemzoo.errors import InvalidCard, InvalidSafetensors
from cosemzoo.manifest import read_manifest
from cosemzoo.nets import CosemUNet
from cosemzoo.publishing.card import read_card

CARDS = Path(__file__).parents[2] / "model_cards"
SETUP04 = str(CARDS / "setup04.md")


def invoke(*arguments: str) -> Result:
    return CliRunner().invoke(card, arguments)


@pytest.fixture
def damaged(tmp_path: Path) -> str:
    text = Path(SETUP04).read_text(encoding="utf-8")
    path = tmp_path / "setup04.md"
    path.write_text(text.replace("license:", "licence:").replace("| 1 | `pm` |", "| 1 | `mp` |"), "utf-8")
    return str(path)


@pytest.mark.parametrize("name", ["check", "render"])
def test_the_help_has_examples(name: str) -> None:
    result = invoke(name, "--help")
    assert result.exit_code == 0
    assert f"  cosemzoo card {name} " in result.stdout


def test_every_card_that_is_right_is_ok() -> None:
    paths = sorted(map(str, CARDS.glob("*.md")))
    result = invoke("check", *paths)
    assert (result.exit_code, result.stdout) == (0, "".join(f"{path}: ok\n" for path in paths))


def test_all_problems_of_all_cards_are_listed(damaged: str, tmp_path: Path) -> None:
    absent = str(tmp_path / "none.md")
    result = invoke("check", damaged, SETUP04, absent)
    assert result.exit_code == 1
    lines = result.stdout.splitlines()
    assert lines[0] == f"{damaged}: 3 problems"
    assert lines[1].startswith("  - $.licence: is no name of the Hub's. Did you mean 'license'?")
    assert "calls channel 1 'mp'; the block calls it 'pm'" in lines[2]
    assert lines[3:] == [
        "  - $.license: is missing",
        f"{SETUP04}: ok",
        f"{absent}: 1 problem",
        "  - $: cannot be read: No such file or directory",
    ]


def test_all_problems_are_one_document(damaged: str) -> None:
    result = invoke("check", damaged, SETUP04, "--json")
    assert result.exit_code == 1
    first, second = json.loads(result.stdout)
    lines = Path(damaged).read_text(encoding="utf-8").splitlines()
    (wrong,) = [number for number, line in enumerate(lines, start=1) if "`mp`" in line]
    assert (first["card"], first["ok"]) == (damaged, False)
    assert [problem["path"] for problem in first["problems"]] == ["$.licence", f"line {wrong}", "$.license"]
    assert all(problem["problem"] for problem in first["problems"])
    assert second == {"card": SETUP04, "ok": True, "problems": []}


def test_more_problems_than_a_message_shows_are_all_listed(tmp_path: Path) -> None:
    path = tmp_path / "card.md"
    names = "".join(f"x{i:02}: 1\n" for i in range(40))
    path.write_text(f"---\n{names}cosemzoo: {{run: r, kind: k, channels: [a]}}\n---\n", encoding="utf-8")
    result = invoke("check", str(path))
    assert all(f"$.x{i:02}: " in result.stdout for i in range(40))


def test_names_from_a_card_do_not_move_the_cursor(tmp_path: Path) -> None:
    path = tmp_path / "card.md"
    path.write_text('---\n"a\\rb": 1\n---\n', encoding="utf-8")
    assert "$.a\\rb: " in invoke("check", str(path)).stdout


def test_what_is_printed_is_what_will_be_pushed() -> None:
    result = invoke("render", SETUP04)
    assert (result.exit_code, result.stdout) == (0, read_card(SETUP04).render())
    assert "cosemzoo" not in ModelCard(result.stdout).data


def test_the_manifest_without_weights_is_what_the_card_says() -> None:
    result = invoke("render", SETUP04, "--iteration", "975000", "--config")
    readme, _, config = result.stdout.partition("==> config.json <==\n")
    assert readme == f"==> README.md <==\n{read_card(SETUP04).render()}"
    manifest = read_manifest(config.encode(), "config.json")
    assert manifest == read_card(SETUP04).manifest(None, iteration=975000)
    assert manifest.head == ()


def test_the_manifest_with_weights_says_what_they_say(run_folder: Path) -> None:
    weights = str(run_folder / "model.safetensors")
    result = invoke("render", SETUP04, "--iteration", "1820500", "--weights", weights, "--config", "--json")
    answer = json.loads(result.stdout)
    assert set(answer) == {"README.md", "config.json"}
    manifest = read_manifest(json.dumps(answer["config.json"]).encode(), "config.json")
    published = read_manifest((run_folder / "config.json").read_bytes(), "config.json")
    assert (manifest.head, manifest.layout) == (published.head, published.layout)
    assert manifest.channels == published.channels
    assert manifest.architecture is not None
    assert published.architecture is not None
    assert manifest.architecture.arguments.items() >= published.architecture.arguments.items()
    assert manifest.architecture.arguments["final_upsample"] == 2


def test_other_names_of_its_tensors_do_not_make_it_another_layout(tmp_path: Path) -> None:
    network = CosemUNet(14, widths_down=(1, 2, 3, 4), widths_up=(2, 2, 3))
    # As what is converted from a training: another code base's names are recorded beside the canonical ones.
    others = {name.replace("backbone.", "architecture.unet."): name for name in network.state_dict()}
    others |= {name.replace("backbone.", "chain.0.unet."): name for name in network.state_dict()}
    aliases = {other: name for other, name in others.items() if other != name}
    write_safetensors(tmp_path / "model.safetensors", network.state_dict(), aliases)
    result = invoke("render", SETUP04, "--weights", str(tmp_path / "model.safetensors"), "--config", "--json")
    manifest = json.loads(result.stdout)["config.json"]
    assert (manifest["layout"], manifest["architecture"]["arguments"]["channels"]) == ("cellmap-models", 14)


@pytest.mark.parametrize("name", ["", "none.safetensors"])
def test_weights_that_are_no_file_are_refused_with_what_to_give(run_folder: Path, name: str) -> None:
    result = invoke("render", SETUP04, "--weights", str(run_folder / name))
    assert result.exit_code == 2
    assert "--weights" in result.output
    assert "give a file, such as model.safetensors" in result.output
    assert "Errno" not in result.output


def test_weights_of_another_run_are_refused(run_folder: Path) -> None:
    weights = str(run_folder / "model.safetensors")
    result = invoke("render", str(CARDS / "setup28.md"), "--weights", weights)
    assert isinstance(result.exception, InvalidCard)
    assert "has 14 slices along axis 0" in str(result.exception)


def test_an_iteration_that_there_is_not_is_refused() -> None:
    result = invoke("render", SETUP04, "--iteration", "5")
    assert isinstance(result.exception, InvalidCard)
    assert "do not have 5; there are: 625000, 975000, 1820500" in str(result.exception)


def test_weights_that_are_none_are_refused(tmp_path: Path) -> None:
    (tmp_path / "weights").write_bytes(b"no tensors at all")
    result = invoke("render", SETUP04, "--weights", str(tmp_path / "weights"))
    assert isinstance(result.exception, InvalidSafetensors)


def test_the_code_loads_the_run_from_where_it_will_be_pushed() -> None:
    result = invoke("render", SETUP04, "--repository", "my-lab/setup04")
    assert 'CosemStart("my-lab/setup04@1820500")' in result.stdout


@pytest.mark.parametrize("repository", ["setup04", "a/b/c", "a/b@best", "a b/c"])
def test_a_repository_that_can_be_none_is_refused(repository: str) -> None:
    result = invoke("render", SETUP04, "--repository", repository)
    assert result.exit_code == 2
    assert "--repository" in result.output

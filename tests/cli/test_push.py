"""`cosemzoo push`, `cosemzoo yank` and `scripts/push_run.py`."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner, Result
from huggingface_hub import HfApi

from cosemzoo.cli import main
from cosemzoo.localhub import LocalHub
from cosemzoo.zoo import Zoo

ROOT = Path(__file__).parents[2]
MINE = "my-lab/run_1"
Invoke = Callable[..., Result]


@pytest.fixture
def served(hub: LocalHub) -> LocalHub:
    """Let the command change the Hub: it is the test's own."""
    return hub


@pytest.fixture
def mine(write_training: Callable[..., Path]) -> Path:
    """Have a training of two channels."""
    return write_training("mine", channels=2)


def test_what_was_pushed_is_said_and_how_to_load_it(invoke: Invoke, zoo: Zoo, mine: Path) -> None:
    done = invoke("push", f"{MINE}@1", "--weights", mine, "--labels", "mito, er", "--alias", "best")
    assert done.exit_code == 0, done.output
    commit = zoo.resolve(MINE).commit
    said = [line.strip() for line in done.stdout.splitlines()]
    assert f"- committed 1 as {commit}, tagged 1" in said
    assert "- named it best" in said
    assert f'CosemStart("{MINE}@1").initialize_weights(model, new_head=[…])' in said
    assert any(line.startswith("dropped") and "optimizer" in line for line in said)
    again = invoke("push", f"{MINE}@1", "--weights", mine, "--labels", "mito,er", "--alias", "best")
    assert "Already there: nothing was changed." in again.stdout


def test_the_document_says_the_same(invoke: Invoke, zoo: Zoo, mine: Path) -> None:
    command = ["push", f"{MINE}@1", "--weights", mine, "--labels", "mito,er", "--kind", "distance", "--json"]
    told = json.loads(invoke(*command, "--dry-run", "--generated").stdout)
    assert (told["dry_run"], told["commit"], told["generated"]) == (True, None, True)
    done = json.loads(invoke(*command).stdout)
    checkpoint = zoo.resolve(f"{MINE}@1")
    assert (done["commit"], done["labels"]) == (checkpoint.commit, ["mito", "er"])
    assert done["weights"] == {"model.safetensors": checkpoint.files[0].sha256}
    assert (done["already_there"], done["conversion"]["names"]) == (False, 84)
    assert json.loads(invoke(*command).stdout)["already_there"]


def test_a_dry_run_publishes_nothing(invoke: Invoke, api: HfApi, mine: Path) -> None:
    done = invoke("push", f"{MINE}@1", "--weights", mine, "--labels", "mito,er", "--dry-run")
    assert "Dry run: nothing was published. It would:\n  - make the repository my-lab/run_1\n" in done.stdout
    assert not api.repo_exists(MINE)


def test_a_name_moves_only_with_the_option(
    invoke: Invoke, zoo: Zoo, mine: Path, write_training: Callable[..., Path]
) -> None:
    other = write_training("other", channels=2, seed=2)
    labels = ("--labels", "mito,er", "--alias", "best")
    invoke("push", f"{MINE}@1", "--weights", mine, *labels)
    commit = zoo.resolve(MINE).commit
    refused = invoke("push", f"{MINE}@2", "--weights", other, *labels)
    assert refused.exit_code == 1
    assert f"'best' means 1 now (commit {commit})" in refused.stderr
    moved = invoke("push", f"{MINE}@2", "--weights", other, *labels, "--move-alias")
    assert f"- moved best from 1 (commit {commit}) to 2" in moved.stdout
    back = invoke("push", f"{MINE}@1", "--alias", "best", "--move-alias")
    assert back.exit_code == 0, back.output
    assert zoo.resolve(MINE).commit == commit


def test_a_token_is_never_shown(tmp_path: Path, mine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with LocalHub(tmp_path / "guarded", tokens={"hf_secret": "my-lab", "hf_other": "other"}) as hub:
        command = ["push", f"{MINE}@1", "--weights", str(mine), "--labels", "mito,er"]
        options = ["--endpoint", hub.endpoint, "--cache-dir", str(tmp_path / "cache")]
        for token, code in (("hf_other", 1), ("hf_secret", 0)):
            monkeypatch.setenv("HF_TOKEN", token)
            done = CliRunner().invoke(main, [*command, *options])
            assert done.exit_code == code, done.output
            assert token not in done.output
        assert "may not be written" not in done.output
    files = [path for path in tmp_path.rglob("*") if path.is_file() and b"hf_secret" in path.read_bytes()]
    assert files == []


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "Give the weights: --weights"),
        (["--labels", "mito,er"], "--labels cannot be used without weights"),
        (["--weights", "nowhere.pt", "--labels", "mito,er"], "nowhere.pt"),
        (["--weights", "nowhere.pt", "--kind", "distance"], "--kind"),
    ],
)
def test_what_is_wrong_is_said_in_one_message(invoke: Invoke, arguments: list[str], said: str) -> None:
    done = invoke("push", f"{MINE}@1", *arguments)
    assert done.exit_code in {1, 2}
    assert said in done.stderr
    assert "Traceback" not in done.output


@pytest.mark.filterwarnings("always::cosemzoo.errors.YankedCheckpoint")
def test_a_checkpoint_is_withdrawn_and_restored(invoke: Invoke, zoo: Zoo, mine: Path) -> None:
    invoke("push", f"{MINE}@1", "--weights", mine, "--labels", "mito,er", "--alias", "best")
    done = invoke("yank", f"{MINE}@1", "--reason", "wrong labels")
    assert done.exit_code == 0, done.output
    assert "wrong labels" in done.stdout
    assert "best still means it" in done.stdout
    shown = invoke("show", f"{MINE}@1")
    assert "Warning: my-lab/run_1@1 was withdrawn by its maintainers: wrong labels" in shown.stderr
    document = json.loads(invoke("yank", f"{MINE}@1", "--undo", "--json").stdout)
    assert (document["state"], document["changed"]) == ("published", True)
    assert zoo.resolve(MINE).criterion == "1"


@pytest.mark.parametrize("arguments", [[], ["--undo", "--reason", "wrong"]])
def test_either_a_reason_or_undo(invoke: Invoke, arguments: list[str]) -> None:
    done = invoke("yank", f"{MINE}@1", *arguments)
    assert done.exit_code == 2
    assert "either --reason, or --undo" in done.stderr


def test_the_script_does_the_same(hub: LocalHub, zoo: Zoo, mine: Path, tmp_path: Path) -> None:
    script = [sys.executable, str(ROOT / "scripts" / "push_run.py")]
    options = ["--endpoint", hub.endpoint, "--cache-dir", str(tmp_path / "cache"), "--json"]
    command = [*script, f"{MINE}@1", "--weights", str(mine), "--labels", "mito,er", *options]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["commit"] == zoo.resolve(f"{MINE}@1").commit
    assert "Xet" not in done.stderr


def test_a_damaged_checkpoint_is_refused_in_words(invoke: Invoke, tmp_path: Path) -> None:
    path = tmp_path / "damaged"
    torch.save({"a": torch.zeros(1000)}, path)
    path.write_bytes(path.read_bytes()[:1000])
    done = invoke("push", f"{MINE}@1", "--weights", path, "--labels", "mito")
    assert done.exit_code == 1
    assert str(path) in done.stderr
    assert "Traceback" not in done.output

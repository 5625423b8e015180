"""The client's own commands work on a cache that the zoo has used."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from huggingface_hub import scan_cache_dir

from cosemzoo.localhub import LocalHub
from cosemzoo.publishing import publish
from cosemzoo.zoo import Zoo

RUN = "cosemzoo/setup04"


@pytest.fixture
def hf(hub: LocalHub, zoo: Zoo, tmp_path: Path) -> Callable[..., str]:
    """Run ``hf cache`` on the zoo's cache; give what it prints."""
    command = Path(sys.executable).with_name("hf")
    settings = {
        "HF_ENDPOINT": hub.endpoint,
        "HF_HOME": str(tmp_path / "home"),
        "HF_HUB_DISABLE_UPDATE_CHECK": "1",
    }

    def run(*arguments: str) -> str:
        line = [str(command), "cache", *arguments, "--cache-dir", str(zoo.cache_dir)]
        done = subprocess.run(
            line, env={**os.environ, **settings}, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr
        assert "corrupt" not in (done.stdout + done.stderr).lower()
        return done.stdout

    return run


@pytest.mark.parametrize("used", ["resolve", "fetch"])
def test_hf_cache_ls_lists_the_run(hf: Callable[..., str], zoo: Zoo, run: str, used: str) -> None:
    getattr(zoo, used)("setup04")
    assert RUN in hf("ls")


def test_hf_cache_ls_lists_an_ordinary_model(
    hf: Callable[..., str], zoo: Zoo, write_checkpoint: Callable[..., Path], commit_folder: Callable[..., str]
) -> None:
    commit_folder("lab/run_1", write_checkpoint(manifest=False))
    zoo.fetch("lab/run_1")
    assert "lab/run_1" in hf("ls")


def test_a_model_that_was_only_resolved_does_not_make_the_cache_corrupt(
    zoo: Zoo, run: str, write_checkpoint: Callable[..., Path], commit_folder: Callable[..., str]
) -> None:
    commit_folder("lab/run_1", write_checkpoint(manifest=False))
    zoo.resolve("lab/run_1")
    zoo.resolve("setup04")
    assert scan_cache_dir(zoo.cache_dir).warnings == []


def test_the_refs_of_the_cache_are_branches_and_tags_not_criteria(zoo: Zoo, run: str) -> None:
    zoo.fetch("setup04@1820500")
    assert [path.name for path in zoo.cache_dir.glob("*/refs/*")] == ["main"]


def test_hf_cache_ls_lists_a_run_of_which_a_damaged_file_was_removed(
    hf: Callable[..., str], zoo: Zoo, run: str
) -> None:
    (path,) = zoo.fetch("setup04").values()
    path.resolve().write_bytes(b"damaged")
    zoo.resolve("setup04")
    assert not path.exists()
    assert RUN in hf("ls")


def test_hf_cache_verify_finds_the_files_of_a_checkpoint_right(
    hf: Callable[..., str], zoo: Zoo, run: str
) -> None:
    zoo.fetch("setup04")
    assert "mismatch" not in hf("verify", RUN, "--revision", run).lower()


def test_hf_cache_rm_removes_a_run_with_all_that_was_remembered_of_it(
    hf: Callable[..., str], zoo: Zoo, run: str
) -> None:
    zoo.fetch("setup04")
    hf("rm", f"model/{RUN}", "--yes")
    assert list(zoo.cache_dir.glob("models--*")) == []


def test_a_revision_that_hf_cache_rm_removed_is_fetched_again(
    hf: Callable[..., str], zoo: Zoo, run: str, write_checkpoint: Callable[..., Path]
) -> None:
    publish(write_checkpoint(seed=3, iteration=2000000), "setup04@2000000", zoo=zoo, aliases=[])
    zoo.fetch("setup04@2000000")
    (path,) = zoo.fetch("setup04@1820500").values()
    hf("rm", run, "--yes")
    assert not path.exists()
    assert zoo.fetch("setup04@1820500") == {"model.safetensors": path}

"""The ``hf`` command, unmodified, against the Hub."""

import os
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from huggingface_hub import HfApi

from cosemzoo.localhub import LocalHub

Hf = Callable[..., str]


@pytest.fixture
def hf(hub: LocalHub, tmp_path: Path) -> Hf:
    """Run ``hf`` and return what it prints."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "HUGGING"))}
    environment = kept | {
        "HF_ENDPOINT": hub.endpoint,
        "HF_HOME": str(tmp_path / "home"),
        "HF_HUB_DISABLE_XET": "1",
        "HF_HUB_DISABLE_UPDATE_CHECK": "1",
        "HF_TOKEN": "any",
    }
    command = str(Path(sys.executable).with_name("hf"))

    def run(*arguments: str) -> str:
        result = subprocess.run(
            [command, *arguments], env=environment, cwd=tmp_path, capture_output=True, text=True, check=False
        )
        assert result.returncode == 0, result.stdout + result.stderr
        return result.stdout

    return run


def test_a_folder_goes_up_and_comes_down(hf: Hf, api: HfApi, tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run/model.safetensors").write_bytes(b"weights" * 1000)
    (tmp_path / "run/config.json").write_text("{}")
    hf("upload", "cosem/setup04", "run", ".")
    oid = api.model_info("cosem/setup04").sha
    hf("repos", "tag", "create", "cosem/setup04", "jrc_hela-2/f1_score")
    downloads = [("--local-dir", "down"), ("--revision", "jrc_hela-2/f1_score")]
    with ThreadPoolExecutor(2) as threads:
        list(threads.map(lambda options: hf("download", "cosem/setup04", *options), downloads))
    assert (tmp_path / "down/model.safetensors").read_bytes() == b"weights" * 1000
    snapshot = tmp_path / f"home/hub/models--cosem--setup04/snapshots/{oid}"
    assert (snapshot / "config.json").read_text() == "{}"


def test_repositories_are_managed(hf: Hf, api: HfApi, tmp_path: Path) -> None:
    hf("repos", "create", "cosem/setup04")
    (tmp_path / "a.txt").write_text("1")
    hf("upload", "cosem/setup04", "a.txt", "sub/a.txt")
    with ThreadPoolExecutor(2) as threads:
        tasks = [
            ("repos", "settings", "cosem/setup04", "--gated", "auto"),
            ("repos", "branch", "create", "cosem/setup04", "side"),
        ]
        list(threads.map(lambda task: hf(*task), tasks))
    assert api.model_info("cosem/setup04").gated == "auto"
    assert [ref.name for ref in api.list_repo_refs("cosem/setup04").branches] == ["main", "side"]
    assert "cosem/setup04" in hf("repos", "ls")
    hf("repos", "delete-files", "cosem/setup04", "sub/a.txt")
    assert api.list_repo_files("cosem/setup04") == [".gitattributes"]
    hf("repos", "delete", "cosem/setup04", "--yes")
    assert not api.repo_exists("cosem/setup04")


def test_models_are_listed_and_shown(hf: Hf, api: HfApi, repo: str) -> None:
    card = b"---\ntags: [em]\n---\n"
    api.upload_file(path_or_fileobj=card, path_in_repo="README.md", repo_id=repo)
    assert repo in hf("models", "ls", "--filter", "em", "--author", "cosem", "--json")
    assert repo in hf("models", "info", repo)
    assert "local" in hf("auth", "whoami")

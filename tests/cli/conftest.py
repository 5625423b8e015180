"""A Hub with a published run and an ordinary repository, and the command, in this process or in its own."""

import io
import os
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from huggingface_hub import CommitOperationAdd, HfApi

from cosemzoo.cli import main
from cosemzoo.cli.demo.run import Size, write_run
from cosemzoo.localhub import LocalHub
from cosemzoo.publishing import publish
from cosemzoo.zoo import Zoo

TINY = Size("tiny", (1, 2, 3, 4), (2, 2, 3))

Invoke = Callable[..., Result]
Command = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture(scope="session")
def run_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Have a checkpoint in a folder: setup04, as the demonstration makes it, but tiny."""
    folder = tmp_path_factory.mktemp("run") / "folder"
    write_run(folder, TINY)
    return folder


@pytest.fixture(scope="session")
def published(
    tmp_path_factory: pytest.TempPathFactory,
    run_folder: Path,
    write_folder: Callable[..., Path],
    allow_uploads: Callable[[], None],
) -> Iterator[LocalHub]:
    """Have a Hub with setup04, of which 500000 was published too, and my-lab/run_1, which has no index.

    It is for all tests: none changes it.
    """
    place = tmp_path_factory.mktemp("published")
    with (
        pytest.MonkeyPatch.context() as environment,
        warnings.catch_warnings(),
        LocalHub(place / "hub") as hub,
    ):
        allow_uploads()
        environment.setenv("XDG_STATE_HOME", str(place / "state"))
        zoo = Zoo(endpoint=hub.endpoint, cache_dir=place / "cache", token=False)
        early = write_folder(place / "early", iteration=500000)
        publish(
            early, "setup04@500000", zoo=zoo, aliases=["first", "early"], date="2026-01-02T03:04:05+00:00"
        )
        publish(run_folder, "setup04@1820500", zoo=zoo, aliases=["best"])
        api = HfApi(endpoint=hub.endpoint, token=False)
        api.create_repo("my-lab/run_1")
        ordinary = (write_folder(place / "ordinary", manifest=False) / "model.safetensors").read_bytes()
        operations = [CommitOperationAdd("model.safetensors", io.BytesIO(ordinary))]
        api.create_commit("my-lab/run_1", operations, commit_message="Add the weights")
        api.create_branch("my-lab/run_1", branch="best")
        yield hub


@pytest.fixture
def served(published: LocalHub) -> LocalHub:
    """Have the Hub that `invoke` talks to; tests that change it have another."""
    return published


@pytest.fixture
def invoke(served: LocalHub, tmp_path: Path) -> Invoke:
    """Run the command in this process, the Hub and a cache of the test's own given as options."""

    def run(*arguments: object) -> Result:
        options = ["--endpoint", served.endpoint, "--cache-dir", str(tmp_path / "cache")]
        return CliRunner().invoke(main, [*map(str, arguments), *options])

    return run


@pytest.fixture
def environment(published: LocalHub, tmp_path: Path) -> dict[str, str]:
    """Give an environment with the Hub and a home of the test's own."""
    inherited = {
        name: value for name, value in os.environ.items() if not name.startswith(("HF_", "COSEMZOO"))
    }
    return inherited | {
        "HF_ENDPOINT": published.endpoint,
        "HF_HOME": str(tmp_path / "home"),
        "HF_HUB_DISABLE_TELEMETRY": "1",
    }


@pytest.fixture(scope="session")
def program() -> str:
    return str(Path(sys.executable).with_name("cosemzoo"))


@pytest.fixture
def command(program: str, environment: dict[str, str], tmp_path: Path) -> Command:
    """Run the command as a person does, in a process of its own."""

    def run(*arguments: str, **variables: str) -> "subprocess.CompletedProcess[str]":
        return subprocess.run(
            [program, *arguments],
            env=environment | variables,
            cwd=tmp_path,
            capture_output=True,
            text=True,
            check=False,
        )

    return run

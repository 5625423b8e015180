"""`cosemzoo hub serve`."""

import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from huggingface_hub import HfApi

from cosemzoo.localhub import LocalHub

Command = Callable[..., "subprocess.CompletedProcess[str]"]


@contextmanager
def serving(program: str, root: Path, *options: str) -> Iterator[str]:
    """Serve a folder; give the line on stdout."""
    process = subprocess.Popen(
        [program, "hub", "serve", "--root", str(root), *options],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    try:
        yield process.stdout.readline()
    finally:
        process.send_signal(signal.SIGINT)
        rest, _ = process.communicate()
    assert rest == ""
    assert process.returncode == 0


def test_it_serves_a_folder_until_ctrl_c_and_then_again(program: str, tmp_path: Path) -> None:
    with serving(program, tmp_path / "hub") as line:
        assert line.startswith("export HF_ENDPOINT=http://127.0.0.1:")
        endpoint = line.strip().partition("=")[2]
        HfApi(endpoint=endpoint, token=False).create_repo("my-lab/run_1")
    port = endpoint.rpartition(":")[2]
    with serving(program, tmp_path / "hub", "--host", "localhost", "--port", port) as line:
        assert line == f"export HF_ENDPOINT={endpoint}\n"
        assert HfApi(endpoint=endpoint, token=False).repo_exists("my-lab/run_1")


def test_a_root_in_use_is_refused(command: Command, tmp_path: Path) -> None:
    with LocalHub(tmp_path / "hub"):
        done = command("hub", "serve", "--root", "hub")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == "Error: Another local Hub is running on hub: stop it, or use another root.\n"


def test_a_port_in_use_is_refused(command: Command, published: LocalHub) -> None:
    done = command("hub", "serve", "--root", "hub", "--port", published.endpoint.rpartition(":")[2])
    assert (done.returncode, done.stdout) == (1, "")
    assert "Address already in use" in done.stderr
    assert "Traceback" not in done.stderr


def test_an_address_that_others_could_reach_is_refused(command: Command, tmp_path: Path) -> None:
    done = command("hub", "serve", "--root", "hub", "--host", "0.0.0.0")
    assert done.returncode == 2
    assert "'0.0.0.0' is not one of" in done.stderr
    assert not (tmp_path / "hub").exists()


@pytest.mark.parametrize("arguments", [["demo"], ["hub", "serve", "--root", "hub"]])
def test_where_the_extra_is_missing_it_is_named(arguments: list[str], tmp_path: Path) -> None:
    script = f"import sys; sys.modules['dulwich'] = None; from cosemzoo.cli import main; main({arguments})"
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == (
        "Error: The local Hub needs dulwich, which is not installed. "
        'Install it with: pip install "cosemzoo[localhub]"\n'
    )

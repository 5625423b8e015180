"""The command as a whole: its help, and what a person sees of errors, warnings and Ctrl-C."""

import json
import os
import shlex
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import click
import pytest
from click.testing import CliRunner, Result

from cosemzoo._version import __version__
from cosemzoo.cli import main
from cosemzoo.errors import CosemZooError, PartialLoad

Invoke = Callable[..., Result]
Command = Callable[..., "subprocess.CompletedProcess[str]"]


def every_command(group: click.Group = main, path: str = "cosemzoo") -> Iterator[tuple[str, click.Command]]:
    for name, command in group.commands.items():
        if isinstance(command, click.Group):
            yield from every_command(command, f"{path} {name}")
        else:
            yield f"{path} {name}", command


def test_the_help_needs_neither_torch_nor_the_hub_client() -> None:
    check = (
        "import sys; from cosemzoo.cli import main; main(['--help'], standalone_mode=False); "
        "print({'torch', 'huggingface_hub', 'rich', 'numpy', 'attrs'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", check], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "set()"


def test_the_version_is_the_package_s() -> None:
    assert CliRunner().invoke(main, ["--version"]).stdout == f"cosemzoo {__version__}\n"


@pytest.mark.parametrize(("path", "command"), list(every_command()))
def test_every_help_has_an_example(path: str, command: click.Command) -> None:
    text = CliRunner().invoke(main, [*path.split()[1:], "--help"]).stdout
    assert command.help is not None
    assert f"\n    {path}" in text


def test_an_error_is_its_message_and_exit_code_1(command: Command) -> None:
    done = command("show", "setup04@bes")
    assert done.returncode == 1
    assert done.stdout == ""
    assert done.stderr == (
        "Error: setup04@bes: no criterion 'bes'; there are: first, early, best, 500000, 1820500. "
        "Did you mean 'best'?\n"
    )


@pytest.mark.parametrize("kind", [CosemZooError, PartialLoad, OSError])
def test_whatever_is_raised_on_purpose_has_no_traceback(
    kind: type[Exception], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise kind("what was found\n  - \x1b[2J")

    monkeypatch.setattr(main.commands["demo"], "invoke", fail)
    result = CliRunner().invoke(main, ["demo"])
    assert (result.exit_code, result.stdout, result.stderr) == (
        1,
        "",
        "Error: what was found\n  - \\x1b[2J\n",
    )


def test_a_mistake_of_ours_keeps_its_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(main.commands["demo"], "invoke", fail)
    assert isinstance(CliRunner().invoke(main, ["demo"]).exception, ZeroDivisionError)


def test_the_command_that_an_error_names_repairs_it(command: Command) -> None:
    refused = command("show", "setup04@1820500", "--offline")
    assert refused.returncode == 1
    named = refused.stderr.rpartition("run: cosemzoo ")[2]
    assert command(*shlex.split(named)).returncode == 0
    assert command("show", "setup04@1820500", "--offline").returncode == 0


def test_a_warning_is_one_line_said_once(command: Command) -> None:
    assert command("fetch", "setup04@best").returncode == 0
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        endpoint = f"http://127.0.0.1:{closed.getsockname()[1]}"
        done = command("show", "setup04@best", "--json", "--endpoint", endpoint)
    assert done.returncode == 0, done.stderr
    (line,) = done.stderr.splitlines()
    assert line.startswith(f"Warning: setup04@best: {endpoint} could not be asked")
    assert line.endswith("this is the cache's answer")
    assert json.loads(done.stdout)["criterion"] == "1820500"


def test_ctrl_c_is_exit_code_130(program: str, environment: dict[str, str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        endpoint = f"http://127.0.0.1:{silent.getsockname()[1]}"
        process = subprocess.Popen(
            [program, "show", "setup04@best", "--endpoint", endpoint],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        connection, _ = silent.accept()
        with connection:
            connection.recv(1)
            process.send_signal(signal.SIGINT)
            stdout, stderr = process.communicate()
    assert (process.returncode, stdout, stderr) == (130, "", "Interrupted.\n")


def test_a_reader_that_has_gone_is_no_error_to_speak_of(
    program: str, environment: dict[str, str], run_folder: Path
) -> None:
    ours, theirs = os.pipe()
    os.close(ours)
    done = subprocess.run(
        [program, "show", str(run_folder)],
        env=environment,
        stdout=theirs,
        stderr=subprocess.PIPE,
        text=True,
        check=False,
    )
    os.close(theirs)
    assert (done.returncode, done.stderr) == (1, "")

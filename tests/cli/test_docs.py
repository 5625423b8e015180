"""docs/cli.md and the examples of the help: complete, and runnable."""

import json
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from cosemzoo.cli import main

ROOT = Path(__file__).parents[2]
DOCS = (ROOT / "docs" / "cli.md").read_text(encoding="utf-8")
README = (ROOT / "README.md").read_text(encoding="utf-8")


def examples(text: str) -> list[list[str]]:
    """Give the arguments of every `cosemzoo` command in the shell blocks of a document."""
    blocks = re.findall(r"^```sh\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    lines = [line for block in blocks for line in block.splitlines() if line.startswith("cosemzoo ")]
    return [shlex.split(line, comments=True)[1:] for line in lines]


def named(text: str) -> list[list[str]]:
    """Give the arguments of every `cosemzoo` command between backticks."""
    return [shlex.split(line)[1:] for line in re.findall(r"`(cosemzoo [a-z][^`]*)`", text)]


def commands(group: click.Group = main, path: str = "") -> Iterator[tuple[str, click.Command]]:
    for name, command in group.commands.items():
        if isinstance(command, click.Group):
            yield from commands(command, f"{path}{name} ")
        else:
            yield f"{path}{name}", command


def epilogs() -> Iterator[list[str]]:
    for text in [main.epilog or "", *(command.epilog or "" for _, command in commands())]:
        for line in re.findall(r"^ *cosemzoo (.*?)(?:   .*)?$", text, re.MULTILINE):
            yield shlex.split(line)


@pytest.mark.parametrize(("name", "command"), list(commands()))
def test_every_command_and_option_is_described(name: str, command: click.Command) -> None:
    assert f"\n## cosemzoo {name}\n" in DOCS
    for parameter in command.params:
        if isinstance(parameter, click.Option):
            assert re.search(rf"{parameter.opts[0]}\b", DOCS), parameter.opts[0]


@pytest.mark.parametrize(("name", "command"), list(commands()))
def test_every_command_has_an_example(name: str, command: click.Command) -> None:
    assert any(" ".join(arguments).startswith(name) for arguments in examples(DOCS))


@pytest.mark.parametrize(
    "arguments", [*examples(DOCS), *examples(README), *named(README), *epilogs()], ids=" ".join
)
def test_every_example_is_a_command_that_there_is(
    arguments: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(click.Command, "invoke", lambda *_: None)
    result = CliRunner().invoke(main, arguments)
    assert result.exit_code == 0, result.output


def test_the_examples_of_show_and_fetch_run(
    environment: dict[str, str], run_folder: Path, tmp_path: Path
) -> None:
    shutil.copytree(run_folder, tmp_path / "folder")
    shutil.copytree(run_folder, tmp_path / "runs" / "run_1" / "1000")
    asked = [arguments for arguments in examples(DOCS) if arguments[0] in {"show", "fetch"}]
    assert len(asked) >= 10
    script = (
        "import json, sys; from cosemzoo.cli import main\n"
        "for arguments in json.load(sys.stdin): main(arguments, standalone_mode=False)"
    )
    done = subprocess.run(
        [sys.executable, "-c", script],
        env=environment,
        cwd=tmp_path,
        input=json.dumps(asked),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    answers = re.findall(r'^reference |^  "reference": ', done.stdout, re.MULTILINE)
    assert len(answers) == len(asked)

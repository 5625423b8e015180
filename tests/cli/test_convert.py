"""`cosemzoo convert`."""

import hashlib
import json
import math
import os
import pty
import subprocess
import termios
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner, Result
from safetensors.torch import load_file

from cosemzoo.cli import main
from cosemzoo.cli.convert import convert
from cosemzoo.publishing.conversion import DTYPES

WEIGHT, BIAS = torch.rand(3, 2), torch.rand(3)
STATE = {
    "architecture.unet.conv.weight": WEIGHT,
    "chain.0.unet.conv.weight": WEIGHT,
    "prediction_head.bias": BIAS,
}


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    path = tmp_path / "1820500"
    torch.save({"model": STATE, "optimizer": {"state": {0: torch.ones(4)}}}, path)
    return path


@pytest.fixture
def target(tmp_path: Path) -> Path:
    return tmp_path / "model.safetensors"


def run(*arguments: Any) -> Result:
    return CliRunner().invoke(main, ["convert", *map(str, arguments)])


def test_what_was_found_and_written_is_said(checkpoint: Path, target: Path) -> None:
    result = run(checkpoint, target)
    assert result.exit_code == 0, result.output
    assert result.stderr == ""
    said = dict(line.split("  ", 1) for line in result.stdout.splitlines())
    said = {name: value.strip() for name, value in said.items()}
    assert float(said.pop("seconds")) >= 0
    assert said == {
        "checkpoint": str(checkpoint),
        "kind": "COSEM or DaCapo checkpoint",
        "layout": "dacapo 0.3",
        "tensors": "2, of 3 names",
        "aliases": "2 other names, recorded in the file",
        "dropped": "optimizer: 1 tensor, 16 bytes",
        "parameters": "9",
        "file": str(target),
        "bytes": f"{target.stat().st_size:,}",
        "sha256": hashlib.sha256(target.read_bytes()).hexdigest(),
    }
    assert set(load_file(target)) == {"backbone.conv.weight", "prediction_head.bias"}


def test_what_is_unusual_is_said_too(tmp_path: Path, target: Path) -> None:
    state = {"module.a": torch.tensor([math.nan, 1.001])}
    source = tmp_path / "9.ckpt"
    torch.save({"state_dict": state, "global_step": 9}, source)
    result = run(source, target, "--dtype", "float16", "--allow-nonfinite")
    lines = [" ".join(line.split()) for line in result.stdout.splitlines()]
    assert "iteration 9" in lines
    assert "layout unknown: the names were kept" in lines
    assert "prefix module. removed from every name" in lines
    assert "not finite a: 1 NaN, 0 infinite" in lines
    assert "dtype float16" in lines
    (error,) = [line for line in lines if line.startswith("relative error")]
    assert error.endswith("at most, in a")


def test_json_is_everything_that_was_done(checkpoint: Path, target: Path) -> None:
    result = run(checkpoint, target, "--json")
    answer = json.loads(result.stdout)
    assert answer["target"] == str(target)
    assert answer["sha256"] == hashlib.sha256(target.read_bytes()).hexdigest()
    assert answer["source_sha256"] == hashlib.sha256(checkpoint.read_bytes()).hexdigest()
    assert answer["tensors"] == {"backbone.conv.weight": [3, 2], "prediction_head.bias": [3]}
    assert answer["names"] == 3
    assert answer["seconds"] >= 0


def test_a_file_that_is_there_is_replaced_only_if_it_is_asked(checkpoint: Path, target: Path) -> None:
    target.write_bytes(b"old")
    result = run(checkpoint, target)
    assert result.exit_code == 2
    assert "--overwrite" in result.stderr
    assert target.read_bytes() == b"old"
    assert run(checkpoint, target, "--overwrite").exit_code == 0
    assert len(load_file(target)) == 2


def test_a_refusal_is_an_error_in_words(tmp_path: Path, target: Path) -> None:
    torch.save({"w": torch.tensor([math.inf])}, tmp_path / "w.pt")
    result = run(tmp_path / "w.pt", target)
    assert result.exit_code == 1
    assert result.stderr.startswith(f"Error: {tmp_path / 'w.pt'} holds values that are not finite")
    assert "--allow-nonfinite" in result.stderr
    assert result.stdout == ""
    assert not target.exists()


def test_the_types_that_can_be_chosen_are_those_that_there_are() -> None:
    (choice,) = [parameter.type for parameter in convert.params if parameter.name == "dtype"]
    assert sorted(choice.choices) == sorted(DTYPES)  # type: ignore[attr-defined]


def test_progress_is_shown_on_a_terminal_alone(
    checkpoint: Path, target: Path, program: str, environment: dict[str, str]
) -> None:
    command = [program, "convert", str(checkpoint), str(target), "--overwrite"]
    plain = subprocess.run(command, env=environment, capture_output=True, check=True)
    assert plain.stderr == b""
    ours, theirs = pty.openpty()
    termios.tcsetwinsize(theirs, (24, 100))
    shown = subprocess.run(command, env=environment, stdout=subprocess.PIPE, stderr=theirs, check=True)
    os.close(theirs)
    assert b"100%" in os.read(ours, 10_000)
    os.close(ours)
    assert shown.stdout.splitlines()[:-1] == plain.stdout.splitlines()[:-1]

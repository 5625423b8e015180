"""`cosemzoo show`."""

import fcntl
import json
import os
import pty
import re
import struct
import subprocess
import termios
from collections.abc import Callable
from pathlib import Path

import pytest
from attrs import evolve
from click.testing import Result

from cosemzoo.cli.demo.run import LABELS
from cosemzoo.localhub import LocalHub
from cosemzoo.manifest import Channel, InheritedChannel, Lineage, read_manifest

Invoke = Callable[..., Result]
Command = Callable[..., "subprocess.CompletedProcess[str]"]

SHA = "b" * 64


def rewrite_manifest(folder: Path, **changes: object) -> None:
    path = folder / "config.json"
    path.write_text(evolve(read_manifest(path.read_bytes(), "it"), **changes).to_json())  # type: ignore[arg-type]


@pytest.fixture
def copied(run_folder: Path, tmp_path: Path) -> Path:
    folder = tmp_path / "copied"
    folder.mkdir()
    for file in run_folder.iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    return folder


def test_a_person_sees_what_the_checkpoint_is(invoke: Invoke, published: LocalHub) -> None:
    text = invoke("show", "setup04@best").stdout
    for line in [
        "reference       setup04@best",
        f"repository      cosemzoo/setup04 on {published.endpoint}",
        "criterion       1820500",
        "GENERATED       made-up numbers in the network's shapes, not a trained network",
        "iteration       1820500",
        "input voxel     8 x 8 x 8 nm (z, y, x)",
        "output voxel    4 x 4 x 4 nm (z, y, x)",
        "input range     -1 to 1",
        "input sampling  every second voxel of 4 nm data, at a random offset",
        "target          tanh(signed distance / 50 nm); scale 50 nm; threshold 0",
        "architecture    cosem-unet",
        "                widths_down = [1, 2, 3, 4]",
        "layout          cellmap-models",
        "head            prediction_head.weight, prediction_head.bias",
        "vocabulary      not stated",
        "lineage         not stated",
    ]:
        assert line in text.splitlines()
    assert re.search(r"^commit          [0-9a-f]{40}$", text, re.MULTILINE)
    assert re.search(
        r"^weights         42 tensors, [\d,]+ parameters, [\d,]+ bytes in 1 file$", text, re.MULTILINE
    )


def test_every_channel_has_its_row(invoke: Invoke) -> None:
    rows = re.findall(r"^(\d+) +(\w+) +distance$", invoke("show", "setup04").stdout, re.MULTILINE)
    assert rows == [(str(row), label) for row, label in enumerate(LABELS)]


def test_the_other_checkpoints_of_the_run_are_listed(invoke: Invoke) -> None:
    text = invoke("show", "setup04@best").stdout
    assert re.search(
        r"^500000 +first, early +published +2026-01-02T03:04:05\+00:00 +[0-9a-f]{8}$", text, re.MULTILINE
    )
    assert re.search(r"^1820500 +best +published ", text, re.MULTILINE)


def test_the_json_document_holds_the_manifest_the_index_and_the_weights(
    invoke: Invoke, run_folder: Path
) -> None:
    answer = json.loads(invoke("show", "setup04@best", "--json").stdout)
    assert answer["manifest"] == json.loads((run_folder / "config.json").read_bytes())
    assert answer["index"]["aliases"] == {"first": "500000", "early": "500000", "best": "1820500"}
    assert answer["index"]["criteria"]["1820500"]["commit"] == answer["commit"]
    (file,) = answer["weights"]["files"]
    assert file["bytes"] == answer["weights"]["bytes"] == (run_folder / "model.safetensors").stat().st_size
    assert answer["weights"]["tensors"] == 42


def test_no_weights_are_downloaded(invoke: Invoke, tmp_path: Path) -> None:
    assert invoke("show", "setup04@best").exit_code == 0
    cached = {path.name for path in (tmp_path / "cache").rglob("*") if path.is_symlink()}
    assert cached == {"config.json", "criteria.json"}


def test_an_ordinary_model_has_no_channels_to_show(invoke: Invoke) -> None:
    text = invoke("show", "my-lab/run_1@best").stdout
    assert "manifest    none: the checkpoint does not say what its channels are" in text.splitlines()
    assert "channels" not in text.splitlines()
    answer = json.loads(invoke("show", "my-lab/run_1@best", "--json").stdout)
    assert (answer["manifest"], answer["index"]) == (None, None)


def test_a_commit_is_shown_offline_where_no_index_is_cached(invoke: Invoke) -> None:
    fetched = json.loads(invoke("fetch", "my-lab/run_1@best", "--json").stdout)
    result = invoke("show", f"my-lab/run_1@{fetched['commit']}", "--offline", "--json")
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["index"] is None


def test_whose_labels_they_are_is_said(invoke: Invoke, copied: Path) -> None:
    rewrite_manifest(copied, vocabulary="cosem")
    assert "vocabulary      cosem" in invoke("show", str(copied)).stdout.splitlines()
    assert json.loads(invoke("show", str(copied), "--json").stdout)["manifest"]["vocabulary"] == "cosem"


def test_the_file_that_was_converted_is_said(invoke: Invoke, copied: Path) -> None:
    rewrite_manifest(copied, lineage=Lineage(source_url="s3://bucket/setup04/1820500", source_sha256=SHA))
    text = invoke("show", str(copied)).stdout
    assert f"lineage         converted from s3://bucket/setup04/1820500 (SHA-256 {SHA})" in text.splitlines()


def fine_tuned(invoke: Invoke, folder: Path, **changes: object) -> str:
    """Make the checkpoint of a folder one that was fine-tuned from setup04; give the commit of that."""
    commit: str = json.loads(invoke("show", "setup04@best", "--json").stdout)["commit"]
    lineage = Lineage(
        base_repository="cosemzoo/setup04",
        base_commit=commit,
        base_reference="setup04@1820500",
        source_sha256=SHA,
    )
    rewrite_manifest(folder, run="run_1", iteration=7, lineage=evolve(lineage, **changes))  # type: ignore[arg-type]
    return commit


def test_the_chain_of_a_fine_tuned_run_is_said(invoke: Invoke, copied: Path) -> None:
    commit = fine_tuned(invoke, copied)
    lines = invoke("show", str(copied)).stdout.splitlines()
    start = lines.index(f"lineage         this checkpoint, converted from a file (SHA-256 {SHA})")
    assert lines[start + 1] == (f"                ← setup04@1820500, cosemzoo/setup04 at commit {commit}")
    assert lines[start + 2].startswith("written by")


def test_the_json_document_holds_the_chain(invoke: Invoke, copied: Path) -> None:
    commit = fine_tuned(invoke, copied)
    own, base = json.loads(invoke("show", str(copied), "--json").stdout)["lineage"]
    assert (own["reference"], own["source_sha256"], own["commit"]) == ("run_1@7", SHA, None)
    assert base == {
        "reference": "setup04@1820500",
        "repository": "cosemzoo/setup04",
        "commit": commit,
        "content_hash": None,
        "source_url": None,
        "source_sha256": None,
        "problem": None,
    }


def test_a_base_that_cannot_be_had_is_one_line_and_no_error(invoke: Invoke, copied: Path) -> None:
    fine_tuned(invoke, copied, base_repository="my-lab/gone", base_reference="my-lab/gone@\x1b[2J")
    result = invoke("show", str(copied))
    assert result.exit_code == 0
    (line,) = [line for line in result.stdout.splitlines() if "←" in line]
    assert r"← my-lab/gone@\x1b[2J, my-lab/gone at commit" in line
    assert "; not followed: my-lab/gone@" in line
    assert "found no repository my-lab/gone" in line


def test_a_base_in_a_folder_is_said_by_its_content(invoke: Invoke, copied: Path) -> None:
    rewrite_manifest(copied, lineage=Lineage(base_reference="run_0@5", base_content_hash=SHA))
    lines = invoke("show", str(copied)).stdout.splitlines()
    assert "lineage         this checkpoint" in lines
    where = "not followed: it was in a folder, and where is not recorded"
    assert f"                ← run_0@5, content {SHA}; {where}" in lines


def test_what_each_channel_started_from_is_a_column(invoke: Invoke, copied: Path) -> None:
    sources = ["er", None, *LABELS[2:]]
    channels = [
        InheritedChannel(label, "distance", source, source and "distance")
        for label, source in zip(LABELS, sources, strict=True)
    ]
    fine_tuned(invoke, copied, channels=tuple(channels))
    text = invoke("show", str(copied)).stdout
    assert re.search(r"^row +label +kind +from$", text, re.MULTILINE)
    assert re.search(r"^0 +ecs +distance +er \(distance\)$", text, re.MULTILINE)
    assert re.search(r"^1 +pm +distance +new$", text, re.MULTILINE)


def test_trained_weights_are_not_called_generated(invoke: Invoke, copied: Path) -> None:
    rewrite_manifest(copied, generated=False)
    assert "GENERATED" not in invoke("show", str(copied)).stdout


def test_names_in_a_file_do_not_move_the_cursor(invoke: Invoke, copied: Path) -> None:
    channels = (Channel("\x1b[2Jecs", "distance"), *(Channel(label, "distance") for label in LABELS[1:]))
    rewrite_manifest(copied, channels=channels, run="\x1b[31mrun")
    result = invoke("show", str(copied))
    assert "\x1b" not in result.output
    assert r"\x1b[2Jecs" in result.stdout
    assert r"\x1b[31mrun" in result.stdout


def test_markup_in_a_file_is_shown_as_it_is(invoke: Invoke, copied: Path) -> None:
    channels = (Channel("[bold]ecs[/]", ":smile:"), *(Channel(label, "distance") for label in LABELS[1:]))
    rewrite_manifest(copied, channels=channels)
    assert re.search(r"\[bold\]ecs\[/\] +:smile:$", invoke("show", str(copied)).stdout, re.MULTILINE)


def test_lines_in_a_pipe_are_plain_and_whole(command: Command, copied: Path) -> None:
    rewrite_manifest(copied, input_sampling="word " * 60)
    done = command("show", str(copied), COLUMNS="80", FORCE_COLOR="1")
    assert f"input sampling  {'word ' * 60}".rstrip() in done.stdout.splitlines()
    assert "\x1b" not in done.stdout
    assert all(line == line.rstrip() for line in done.stdout.splitlines())


def test_a_terminal_of_80_columns_is_enough(program: str, environment: dict[str, str]) -> None:
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 80, 0, 0))
    process = subprocess.Popen(
        [program, "show", "setup04@best"], env=environment, stdin=theirs, stdout=theirs, stderr=theirs
    )
    os.close(theirs)
    text = b""
    # Reading from a terminal that nobody writes to any more is an error on Linux.
    try:
        while piece := os.read(ours, 4096):
            text += piece
    except OSError:
        pass
    finally:
        os.close(ours)
    assert process.wait() == 0
    lines = re.sub(r"\x1b\[[0-9;]*m", "", text.decode()).splitlines()
    assert "input voxel     8 x 8 x 8 nm (z, y, x)" in lines
    assert max(map(len, lines)) <= 80
    # The few KB that this downloads are not worth a progress bar.
    assert "%" not in "".join(lines)

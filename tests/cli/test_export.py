"""`cosemzoo export`: its commands, and what `cosemzoo export cellmap` writes and prints."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner, Result

from cosemzoo.checkpoints.writer import write_safetensors
from cosemzoo.cli import main
from cosemzoo.manifest import Architecture, Channel, HeadTensor, Manifest
from cosemzoo.nets import CosemUNet

ARGUMENTS = {
    "channels": 2,
    "widths_down": [1, 1],
    "widths_up": [1],
    "factors": [2],
    "kernel_sizes_down": [[3], [3]],
    "kernel_sizes_up": [[3]],
    "final_upsample": None,
}

Export = Callable[..., Result]


@pytest.fixture
def export(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Export:
    """Export a run in a folder, of a network that is quick to export."""
    monkeypatch.chdir(tmp_path)
    Path("run_1").mkdir()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        write_safetensors(Path("run_1/model.safetensors"), CosemUNet(**ARGUMENTS).state_dict())  # type: ignore[arg-type]
    manifest = Manifest(
        run="run_1",
        channels=(Channel("mito", "distance"), Channel("er", "distance")),
        head=(HeadTensor("prediction_head.weight"), HeadTensor("prediction_head.bias")),
        input_voxel_size=(5.24, 4, 4),
        architecture=Architecture("cosem-unet", ARGUMENTS),
        generated=True,
    )
    Path("run_1/config.json").write_text(manifest.to_json(), encoding="utf-8")

    def run(*arguments: str) -> Result:
        return CliRunner().invoke(main, ["export", "cellmap", "./run_1", "out", *arguments])

    return run


def test_there_is_a_command_for_each_format() -> None:
    text = CliRunner().invoke(main, ["export", "--help"]).stdout
    assert "\n  bioimageio " in text
    assert "\n  cellmap " in text


def test_the_help_says_what_becomes_of_other_shapes() -> None:
    text = " ".join(CliRunner().invoke(main, ["export", "cellmap", "--help"]).stdout.split())
    assert "locked to the shape it was traced with" in text
    assert "They take every input that fits the network" in text


def test_a_person_reads_what_was_written(export: Export) -> None:
    result = export("--voxel-size", "5", "4", "4", "--input-shape", "20", "20", "22")
    assert result.exit_code == 0, result.output
    lines = dict(line.split(maxsplit=1) for line in result.stdout.splitlines())
    assert lines["GENERATED"].startswith("made-up numbers")
    assert lines["written"] == str(Path("out").absolute())
    assert lines["channels"] == "mito, er"
    assert lines["block"] == "20 x 20 x 22 → 12 x 12 x 14 voxels (z y x)"
    assert lines["voxel"] == "5 x 4 x 4 → 5 x 4 x 4 nm (z y x)"
    assert {path.name for path in Path("out").iterdir()} == {
        "README.md",
        "metadata.json",
        "model.pt2",
        "model.ts",
    }


def test_a_program_reads_one_document(export: Export) -> None:
    result = export("--voxel-size", "5", "4", "4", "--json")
    assert result.exit_code == 0, result.output
    document = json.loads(result.stdout)
    assert document["target"] == str(Path("out").absolute())
    assert document["channels_names"] == ["mito", "er"]
    assert document["input_shape"] == [216, 216, 216]
    assert document["output_voxel_size"] == [5, 4, 4]
    assert {each["name"]: each["bytes"] for each in document["files"]} == {
        path.name: path.stat().st_size for path in Path("out").iterdir()
    }


def test_a_refusal_says_what_to_type_and_leaves_nothing(export: Export) -> None:
    result = export("--input-shape", "20", "20", "21")
    assert result.exit_code == 1
    assert "--voxel-size 5 4 4" in result.stderr
    assert "the nearest that fit are 20 and 22" in result.stderr
    assert {path.name for path in Path().iterdir()} & {"out", ".out"} == set()

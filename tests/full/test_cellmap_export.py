"""A folder that `cosemzoo export cellmap` writes, opened with the real cellmap-models."""

import json
import warnings
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from cosemzoo import load_model
from cosemzoo.cli.demo.run import LABELS, Size, write_run
from cosemzoo.interop.cellmap import export_cellmap

pytestmark = pytest.mark.full

#: All 42 tensors of setup04, with few feature maps.
NARROW = Size("narrow", (2, 4, 8, 16), (4, 4, 8))


@pytest.fixture(scope="module")
def network(tmp_path_factory: pytest.TempPathFactory) -> nn.Module:
    folder = tmp_path_factory.mktemp("run") / "setup04"
    write_run(folder, NARROW)
    return load_model(folder)


@pytest.fixture(scope="module")
def folder(network: nn.Module, tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = next(tmp_path_factory.getbasetemp().glob("run*/setup04"))
    return export_cellmap(run, tmp_path_factory.mktemp("cellmap") / "setup04").folder


@pytest.fixture
def model(folder: Path) -> Iterator[Any]:
    with warnings.catch_warnings():
        # torch says of itself that parts of it are deprecated, and cellmap-models uses them.
        warnings.simplefilter("ignore")
        yield import_module("cellmap_models.model_export.cellmap_model").CellmapModel(str(folder))


def test_its_metadata_are_those_of_the_manifest(model: Any, folder: Path) -> None:
    said = model.metadata.model_dump()
    assert said == json.loads((folder / "metadata.json").read_text(encoding="utf-8"))
    assert (said["model_name"], said["iteration"]) == ("setup04", 1820500)
    assert said["channels_names"] == list(LABELS)
    assert (said["input_voxel_size"], said["output_voxel_size"]) == ([8, 8, 8], [4, 4, 4])
    assert (said["input_shape"], said["output_shape"]) == ([216] * 3, [68] * 3)
    assert said["description"].startswith("GENERATED WEIGHTS")
    assert said["format_version"] == "1"
    assert model.readme.startswith("---\nlibrary_name: cellmap-models\n")


@pytest.mark.parametrize("shape", [(1, 1, 198, 198, 198), (2, 1, 198, 216, 234)])
def test_its_models_compute_what_the_network_does_in_every_shape(
    model: Any, network: nn.Module, shape: tuple[int, ...]
) -> None:
    raw = torch.rand(shape, generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        expected = network(raw)
        assert torch.equal(model.ts_model(raw), expected)
        assert torch.equal(model.exported_model.module()(raw), expected)


def test_what_it_gives_for_fine_tuning_has_the_42_tensors_and_trains(
    model: Any, network: nn.Module, capsys: pytest.CaptureFixture[str]
) -> None:
    trainable = model.train()
    # Not its fallback, TorchScript.
    assert "via torch.export + unflatten" in capsys.readouterr().out
    state = trainable.state_dict()
    assert len(state) == 42
    assert all(torch.equal(state[name], tensor) for name, tensor in network.state_dict().items())
    trainable(torch.rand(1, 1, 198, 198, 198)).square().mean().backward()
    assert all(parameter.grad is not None for parameter in trainable.parameters())


def test_what_cellmap_flow_computes_with_has_the_shape_of_its_metadata(
    model: Any, network: nn.Module
) -> None:
    # Its `CellMapModelConfig` sends `ts_model` blocks of `input_shape`, and expects `output_shape` of them.
    metadata = model.metadata
    with torch.no_grad():
        output = model.ts_model(torch.zeros(1, metadata.in_channels, *metadata.input_shape))
    assert output.shape == (1, metadata.out_channels, *metadata.output_shape)

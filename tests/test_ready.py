"""`load_model`: a run's own network, built from the manifest, filled from the file."""

import hashlib
import pickle
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import torch
from attrs import evolve
from safetensors.torch import load_file
from torch import nn

from cosemzoo import load_model
from cosemzoo.checkpoints.writer import write_safetensors
from cosemzoo.errors import InvalidHead, PartialLoad, UnknownNetwork, UnsafeConversion
from cosemzoo.manifest import MANIFEST_FILE, Architecture, Manifest, read_manifest
from cosemzoo.nets import CosemUNet
from cosemzoo.publishing.importing import import_checkpoint
from cosemzoo.zoo import Zoo

LABELS = ["ecs", "pm", "mito", "mito_mem", "ves", "ves_mem", "endo", "endo_mem"]
LABELS += ["er", "er_mem", "eres", "nuc", "mt", "mt_out"]


@pytest.fixture
def folder(write_training: Callable[..., Path], tmp_path: Path) -> Path:
    """Have setup04 in a folder, its numbers made up and its widths reduced."""
    zoo = Zoo(local_dir=tmp_path / "runs")
    imported = import_checkpoint("setup04@1820500", zoo=zoo, source=write_training(), generated=True)
    assert imported.checkpoint.folder is not None
    return imported.checkpoint.folder


def weights_of(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "model.safetensors")


def digest_of(folder: Path) -> str:
    return hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()


def describe(folder: Path, **changes: Any) -> None:
    path = folder / MANIFEST_FILE
    manifest: Manifest = evolve(read_manifest(path.read_bytes(), str(path)), **changes)
    path.write_text(manifest.to_json())


@pytest.mark.parametrize("share", [True, False])
def test_the_network_is_ready_and_has_the_values_of_the_file(folder: Path, share: bool) -> None:
    network = load_model(folder, share=share)
    assert not network.training
    state, stored = network.state_dict(), weights_of(folder)
    assert state.keys() == stored.keys()
    assert all(torch.equal(state[name], values) for name, values in stored.items())
    assert all(parameter.requires_grad for parameter in network.parameters())
    assert network.report.outcome == "strict"  # type: ignore[union-attr]
    assert [*network.manifest.labels] == LABELS  # type: ignore[union-attr, misc]


def test_it_predicts_what_the_network_of_these_weights_predicts(folder: Path) -> None:
    own = CosemUNet(14, widths_down=(1, 2, 3, 4), widths_up=(2, 2, 3))
    own.load_state_dict(weights_of(folder))
    raw = torch.rand(1, 1, 198, 198, 198, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        assert torch.equal(load_model(folder)(raw), own(raw))


@pytest.mark.parametrize("share", [True, False])
def test_training_it_changes_it_and_never_the_file(folder: Path, share: bool) -> None:
    before = digest_of(folder)
    network, other = load_model(folder, share=share), load_model(folder)
    optimizer = torch.optim.SGD(network.parameters(), lr=1.0)
    sum(parameter.square().sum() for parameter in network.parameters()).backward()  # type: ignore[union-attr]
    optimizer.step()
    assert digest_of(folder) == before
    stored = weights_of(folder)
    assert not any(torch.equal(p, stored[name]) for name, p in network.state_dict().items())
    assert all(torch.equal(p, stored[name]) for name, p in other.state_dict().items())


def test_shared_parameters_are_the_mapped_file(folder: Path) -> None:
    maps = Path("/proc/self/maps").read_text

    def is_mapped(tensor: torch.Tensor) -> bool:
        rows = [line.split() for line in maps().splitlines() if line.endswith("model.safetensors")]
        spans = [[int(end, 16) for end in row[0].split("-")] for row in rows]
        return any(start <= tensor.data_ptr() < end for start, end in spans)

    shared, copied = load_model(folder), load_model(folder, share=False)
    assert all(is_mapped(parameter) for parameter in shared.parameters())
    assert not any(is_mapped(parameter) for parameter in copied.parameters())


def test_a_new_head_takes_its_rows_by_label_and_draws_the_others(folder: Path) -> None:
    def draw(seed: int) -> nn.Module:
        generator = torch.Generator().manual_seed(seed)
        return load_model(folder, new_head=["mito", "ld", "er"], generator=generator)

    torch.manual_seed(0)
    expected = torch.rand(3)
    torch.manual_seed(0)
    one, same, other = draw(1), draw(1), draw(2)
    assert torch.equal(torch.rand(3), expected)
    stored = weights_of(folder)["prediction_head.weight"]
    weight = one.state_dict()["prediction_head.weight"]
    assert torch.equal(weight[0], stored[2])
    assert torch.equal(weight[2], stored[8])
    assert torch.equal(weight[1], same.state_dict()["prediction_head.weight"][1])
    assert not torch.equal(weight[1], other.state_dict()["prediction_head.weight"][1])
    # As torch draws those of a convolution with two features: uniform, within 1/√2.
    assert 0 < weight[1].abs().max() <= 2**-0.5
    rows = {row.label: row.status for row in one.report.channels}  # type: ignore[union-attr]
    assert rows == {"mito": "loaded", "ld": "kept", "er": "loaded"}


def test_another_dtype_is_a_copy_of_that_dtype(folder: Path) -> None:
    network = load_model(folder, dtype=torch.bfloat16)
    stored = weights_of(folder)
    for name, parameter in network.state_dict().items():
        assert torch.equal(parameter, stored[name].bfloat16())


def test_a_dtype_that_cannot_hold_the_values_is_refused(folder: Path) -> None:
    path = folder / "model.safetensors"
    state = weights_of(folder)
    state["backbone.0.l_conv.0.conv_pass.0.bias"][0] = 1e6
    write_safetensors(path, state)
    with pytest.raises(UnsafeConversion):
        load_model(folder, dtype=torch.float16)


def test_it_can_be_copied_and_pickled(folder: Path) -> None:
    network = load_model(folder)
    for other in (deepcopy(network), pickle.loads(pickle.dumps(network))):
        state = other.state_dict()
        assert all(torch.equal(state[name], values) for name, values in network.state_dict().items())
        assert other.manifest == network.manifest


@pytest.mark.parametrize(
    ("architecture", "said"),
    [
        (None, "does not say which network"),
        (Architecture("vit"), "no network 'vit'"),
        (Architecture("cosem-unet", {"channels": 14, "widths": [1]}), "widths"),
    ],
)
def test_a_network_that_cannot_be_built_is_said(
    folder: Path, architecture: Architecture | None, said: str
) -> None:
    describe(folder, architecture=architecture)
    with pytest.raises(UnknownNetwork, match=f"{said}.*load_into"):
        load_model(folder)


def test_a_head_that_does_not_fit_is_refused(folder: Path) -> None:
    with pytest.raises(InvalidHead):
        load_model(folder, new_head="mito")


def test_nothing_is_warned_of_where_a_new_head_was_asked_for(
    folder: Path, recwarn: pytest.WarningsRecorder
) -> None:
    load_model(folder, new_head=["ld"])
    assert not [warning for warning in recwarn if issubclass(warning.category, PartialLoad)]

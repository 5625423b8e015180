"""A run of setup04's full size, with generated weights, loaded into the network of cellmap-models."""

import warnings
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path

import pytest
import torch
from torch import nn

from cosemzoo import CosemStart, Zoo, load_into
from cosemzoo.checkpoints.writer import write_safetensors
from cosemzoo.localhub import LocalHub
from cosemzoo.manifest import Channel, HeadTensor, Manifest
from cosemzoo.publishing import publish

pytestmark = pytest.mark.full

Published = tuple[Zoo, dict[str, torch.Tensor]]
COSEM_LABELS = [
    "ecs",
    "pm",
    "mito",
    "mito_mem",
    "ves",
    "ves_mem",
    "endo",
    "endo_mem",
    "er",
    "er_mem",
    "eres",
    "nuc",
    "mt",
    "mt_out",
]


@pytest.fixture(scope="module")
def network() -> nn.Module:
    # Only `make test-full` installs it.
    cosem = import_module("cellmap_models.pytorch.cosem")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        network: nn.Module = cosem.load_model("setup04")
    return network


@pytest.fixture(scope="module")
def published(network: nn.Module, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Published]:
    folder = tmp_path_factory.mktemp("setup04")
    generator = torch.Generator().manual_seed(4)
    state = {name: torch.randn(t.shape, generator=generator) for name, t in network.state_dict().items()}
    write_safetensors(folder / "model.safetensors", state, None)
    manifest = Manifest(
        run="setup04",
        iteration=1820500,
        channels=tuple(Channel(label, "distance") for label in COSEM_LABELS),
        head=(HeadTensor("prediction_head.weight"), HeadTensor("prediction_head.bias")),
        layout="cellmap-models",
        generated=True,
    )
    (folder / "config.json").write_text(manifest.to_json())
    with LocalHub(tmp_path_factory.mktemp("hub")) as hub:
        zoo = Zoo(endpoint=hub.endpoint, cache_dir=tmp_path_factory.mktemp("cache"), token=False)
        with warnings.catch_warnings():
            # The client sends LFS content in a way that its HTTP library calls deprecated.
            warnings.simplefilter("ignore", DeprecationWarning)
            publish(folder, "setup04@1820500", zoo=zoo, aliases=["best"])
        yield zoo, state


def resident_anonymous_bytes() -> int:
    status = Path("/proc/self/status").read_text()
    return int(status.partition("RssAnon:")[2].split()[0]) * 1024


def test_the_full_size_run_loads_strictly(
    network: nn.Module, published: Published, capsys: pytest.CaptureFixture[str]
) -> None:
    zoo, state = published
    checkpoint = zoo.resolve("setup04@best")
    zoo.fetch(checkpoint)
    labels = list(network.classes_channels)  # type: ignore[arg-type]
    before = resident_anonymous_bytes()
    report = load_into(network, checkpoint, new_head=labels, strict="require", zoo=zoo)
    added = resident_anonymous_bytes() - before
    assert report.outcome == "strict"
    assert report.coverage.tensors == 40
    assert report.model_coverage.tensors == 42
    assert report.model_coverage.parameters == 234_967_826
    assert report.bytes == 939_871_304
    assert all(torch.equal(tensor, state[name]) for name, tensor in network.state_dict().items())
    assert added <= 64 << 20
    with capsys.disabled():
        print(f"\n{report.model_coverage}: {report.bytes:,} bytes in {report.seconds:.3f} s")
        print(f"anonymous memory added: {added / 2**20:.1f} MiB")


def test_a_head_of_other_labels_takes_its_rows_by_label(network: nn.Module, published: Published) -> None:
    zoo, state = published
    network.prediction_head = nn.Conv3d(72, 4, 1)
    own = network.prediction_head.weight.detach().clone()
    start = CosemStart("setup04@1820500", store=zoo)
    with pytest.warns(UserWarning, match="in part"):
        assert start.initialize_weights(network, new_head=["mito", "er", "nuc", "ld"]) is network
    rows = network.prediction_head.weight
    for row, label in enumerate(["mito", "er", "nuc"]):
        assert torch.equal(rows[row], state["prediction_head.weight"][COSEM_LABELS.index(label)])
    assert torch.equal(rows[3], own[3])
    assert start.report is not None
    assert start.report.coverage.tensors == 40

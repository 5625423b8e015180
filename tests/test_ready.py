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
from cosemzoo.errors import InvalidHead, InvalidOption, PartialLoad, UnknownNetwork, UnsafeConversion
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
@pytest.mark.parametrize("new_head", [None, ["er", "mito"]], ids=["own head", "new head"])
def test_from_another_input_range_it_predicts_the_same(
    new_head: list[str] | None, *, share: bool, folder: Path
) -> None:
    raw = torch.rand(1, 1, 198, 198, 198, generator=torch.Generator().manual_seed(1))
    trained = load_model(folder, new_head=new_head)
    network = load_model(folder, new_head=new_head, input_range=(0, 1), share=share)
    with torch.no_grad():
        torch.testing.assert_close(network(raw), trained(2 * raw - 1), rtol=1e-4, atol=1e-4)
    assert network.manifest.input_range == (0, 1)  # type: ignore[union-attr]
    assert [row.status for row in network.report.adapted] == ["adapted"] * 2  # type: ignore[union-attr]
    again = load_model(folder, input_range=(-1, 1))
    assert again.report.outcome == "strict"  # type: ignore[union-attr]


def test_an_input_range_that_cannot_be_meant_is_refused(folder: Path) -> None:
    with pytest.raises(InvalidOption, match="input_range"):
        load_model(folder, input_range=(1, 0))


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


@pytest.mark.parametrize("device", [None, "cpu", "cpu:0", torch.device("cpu", 0)])
def test_shared_parameters_are_the_mapped_file(folder: Path, device: Any) -> None:
    maps = Path("/proc/self/maps").read_text

    def is_mapped(tensor: torch.Tensor) -> bool:
        rows = [line.split() for line in maps().splitlines() if line.endswith("model.safetensors")]
        spans = [[int(end, 16) for end in row[0].split("-")] for row in rows]
        return any(start <= tensor.data_ptr() < end for start, end in spans)

    shared, copied = load_model(folder, device=device), load_model(folder, device=device, share=False)
    assert all(is_mapped(parameter) for parameter in shared.parameters())
    assert not any(is_mapped(parameter) for parameter in copied.parameters())


def test_a_new_head_that_draws_nothing_leaves_torchs_generator_alone(folder: Path) -> None:
    torch.manual_seed(0)
    expected = torch.rand(3)
    torch.manual_seed(0)
    load_model(folder, new_head={"a": "er", "b": "mito"})
    assert torch.equal(torch.rand(3), expected)


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
    with pytest.raises(UnknownNetwork, match=f"(?s){said}.*load_into"):
        load_model(folder)


def test_a_head_that_does_not_fit_is_refused(folder: Path) -> None:
    with pytest.raises(InvalidHead):
        load_model(folder, new_head="mito")


def test_nothing_is_warned_of_where_a_new_head_was_asked_for(
    folder: Path, recwarn: pytest.WarningsRecorder
) -> None:
    load_model(folder, new_head=["ld"])
    assert not [warning for warning in recwarn if issubclass(warning.category, PartialLoad)]


def test_a_new_head_may_be_in_other_words(folder: Path) -> None:
    new_head, label_map = ["er_mem", "er_mem_all", "mine"], {"mine": "nuc"}
    network = load_model(folder, new_head=new_head, label_map=label_map, vocabulary="cellmap-challenge")
    sources = [row.source_label for row in network.report.channels]  # type: ignore[union-attr]
    assert sources == [None, "er_mem", "nuc"]
    stored = weights_of(folder)["prediction_head.weight"]
    rows = [LABELS.index("er_mem"), LABELS.index("nuc")]
    assert torch.equal(network.state_dict()["prediction_head.weight"][1:], stored[rows])


def test_its_own_head_is_in_its_own_words_and_has_no_map(folder: Path) -> None:
    network = load_model(folder, vocabulary="cellmap-challenge")
    assert network.report.outcome == "strict"  # type: ignore[union-attr]
    with pytest.raises(InvalidHead, match="give new_head="):
        load_model(folder, label_map={"er": "er_mem"})


@pytest.mark.parametrize("head", [[], {}, ()])
def test_an_empty_head_is_refused_as_a_head(folder: Path, head: Any) -> None:
    with pytest.raises(InvalidHead, match="new_head is empty"):
        load_model(folder, new_head=head)


def test_a_head_may_come_from_a_generator(folder: Path) -> None:
    report = load_model(folder, new_head=(label for label in ("er", "ld"))).report
    assert [row.status for row in report.channels] == ["loaded", "kept"]  # type: ignore[union-attr]


class Unfetched(Zoo):
    """A zoo whose weights are not to be downloaded."""

    def fetch(self, *_: object) -> dict[str, Path]:
        pytest.fail("the weights were fetched first")


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"device": "meta"}, "device is 'meta'.*no values"),
        ({"device": "tpu"}, "device is 'tpu'"),
        ({"device": 2.5}, "device is 2.5"),
        ({"dtype": torch.int8}, "dtype is torch.int8; it is one of torch.float16, "),
        ({"dtype": torch.float8_e4m3fn}, "dtype is torch.float8_e4m3fn"),
        ({"dtype": torch.complex64}, "dtype is torch.complex64"),
        ({"dtype": "float16"}, "dtype is 'float16'"),
    ],
)
def test_what_cannot_be_is_refused_before_the_weights_are_fetched(
    folder: Path, options: dict[str, Any], said: str
) -> None:
    with pytest.raises(InvalidOption, match=said):
        load_model(folder, zoo=Unfetched(), **options)


@pytest.mark.skipif(torch.accelerator.is_available(), reason="there is a GPU")
@pytest.mark.parametrize("device", ["cuda", "cuda:1", "mps", 0])
def test_a_gpu_that_is_not_there_is_said_before_the_weights_are_fetched(folder: Path, device: Any) -> None:
    with pytest.raises(InvalidOption, match='it is "cpu", or one that torch finds here'):
        load_model(folder, device=device, zoo=Unfetched())


@pytest.mark.parametrize("new_head", [None, ["mito", "ld"]])
@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"widths_down": [1, 2, 3, 5]}, "l_conv.3"),
        ({"final_upsample": None}, "backbone.l_conv.0.conv_pass.0.weight: not in the checkpoint"),
        ({"channels": 3}, "lists 14 channels, and a network of 3"),
        # All tensors of this network are in the file, which has more.
        ({"kernel_sizes_down": [[3], [3, 3], [3, 3], [3, 3]]}, "in the checkpoint only"),
        ({"factors": "unknown"}, "factors: unknown"),
    ],
)
def test_weights_of_another_network_than_the_manifests_are_refused_before_they_are_fetched(
    folder: Path, new_head: list[str] | None, change: dict[str, Any], said: str
) -> None:
    architecture = read_manifest((folder / MANIFEST_FILE).read_bytes(), "it").architecture
    assert architecture is not None
    describe(folder, architecture=Architecture("cosem-unet", {**architecture.arguments, **change}))
    with pytest.raises(UnknownNetwork, match=f"(?s){said}.*load_into") as caught:
        load_model(folder, new_head=new_head, zoo=Unfetched())
    assert "strict=" not in str(caught.value)


def test_the_manifest_says_the_number_of_channels_where_the_architecture_does_not(folder: Path) -> None:
    architecture = read_manifest((folder / MANIFEST_FILE).read_bytes(), "it").architecture
    assert architecture is not None
    arguments = {name: value for name, value in architecture.arguments.items() if name != "channels"}
    describe(folder, architecture=Architecture("cosem-unet", arguments))
    assert load_model(folder).state_dict()["prediction_head.bias"].shape == (14,)


@pytest.mark.parametrize("options", [{}, {"share": False}, {"new_head": ["mito", "ld"]}])
def test_a_network_loaded_in_inference_mode_can_be_trained(folder: Path, options: dict[str, Any]) -> None:
    with torch.inference_mode():
        network = load_model(folder, **options)
    sum(parameter.square().sum() for parameter in network.parameters()).backward()  # type: ignore[union-attr]
    assert all(parameter.grad is not None for parameter in network.parameters())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_parameters_have_the_dtype_that_they_are_stored_with(folder: Path, dtype: torch.dtype) -> None:
    stored = {name: values.to(dtype) for name, values in weights_of(folder).items()}
    write_safetensors(folder / "model.safetensors", stored)
    state = load_model(folder).state_dict()
    assert all(torch.equal(state[name], values) for name, values in stored.items())


def test_parameters_of_a_dtype_that_nothing_is_computed_in_become_float32(folder: Path) -> None:
    stored = {name: values.to(torch.float8_e4m3fn) for name, values in weights_of(folder).items()}
    write_safetensors(folder / "model.safetensors", stored)
    state = load_model(folder).state_dict()
    assert all(torch.equal(state[name], values.float()) for name, values in stored.items())


def test_parameters_of_several_dtypes_become_float32(folder: Path) -> None:
    stored = weights_of(folder)
    stored["prediction_head.bias"] = stored["prediction_head.bias"].double()
    write_safetensors(folder / "model.safetensors", stored)
    assert {parameter.dtype for parameter in load_model(folder).parameters()} == {torch.float32}


def test_a_file_that_nobody_may_write_to_is_loaded_and_trained(folder: Path) -> None:
    path = folder / "model.safetensors"
    path.chmod(0o400)
    folder.chmod(0o500)
    try:
        network = load_model(folder)
        with torch.no_grad():
            for parameter in network.parameters():
                parameter.add_(1)
    finally:
        folder.chmod(0o700)
    assert not torch.equal(
        network.state_dict()["prediction_head.bias"], weights_of(folder)["prediction_head.bias"]
    )

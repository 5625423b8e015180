import json
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from attrs import evolve
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from cosemzoo.checkpoints.writer import write_safetensors
from cosemzoo.errors import InputDiffers, InvalidInput, InvalidOption, PartialLoad, StrictLoadFailed
from cosemzoo.loading.mixing import mix_channels
from cosemzoo.loading.report import LoadReport
from cosemzoo.manifest import Manifest, read_manifest
from cosemzoo.models import load_into, plan_load
from cosemzoo.zoo import Zoo

Load = Callable[..., LoadReport]
StateOf = Callable[[nn.Module], Any]

CONVOLUTIONS: dict[int, Any] = {0: nn.Linear, 1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}


class Net(nn.Module):
    def __init__(self, channels: int = 1, rank: int = 3, **first: Any) -> None:
        super().__init__()
        first = first if rank == 0 else {"kernel_size": 3, **first}
        self.stem = CONVOLUTIONS[rank](channels, 4, **first)
        self.body = CONVOLUTIONS[rank](4, 4, **({} if rank == 0 else {"kernel_size": 1}))
        self.head = CONVOLUTIONS[rank](4, 2, **({} if rank == 0 else {"kernel_size": 1}))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.head(torch.relu(self.body(torch.relu(self.stem(x)))))
        return out


def block(channels: int, rank: int, batch: int = 2) -> torch.Tensor:
    shape = (batch, channels, *(6,) * rank)
    return torch.rand(shape, generator=torch.Generator().manual_seed(1))


@pytest.fixture
def saved(tmp_path: Path) -> Callable[..., Path]:
    """Write a network with a manifest that says what it expects."""

    def saved(network: nn.Module, **says: Any) -> Path:
        folder = tmp_path / "saved"
        folder.mkdir()
        write_safetensors(folder / "model.safetensors", network.state_dict())
        about = {"run": "r", "channels": [{"label": x, "kind": "distance"} for x in "ab"], **says}
        about |= {"format_version": 1, "head": [{"name": "head.weight"}, {"name": "head.bias"}]}
        (folder / "config.json").write_text(json.dumps(about), encoding="utf-8")
        return folder

    return saved


@pytest.fixture
def load(load: Load) -> Load:
    def quietly(model: nn.Module, folder: Path, **options: Any) -> LoadReport:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", InputDiffers)
            return load(model, folder, **{"new_head": ["a", "b"], **options})

    return quietly


@pytest.mark.parametrize("rank", CONVOLUTIONS)
@pytest.mark.parametrize(
    ("expected", "given_range"), [((-1, 1), (0, 1)), ((0, 1), (-1, 1)), ((0, 255), (0, 1))]
)
def test_a_network_of_one_range_computes_the_same_from_another(
    rank: int, expected: tuple[float, float], given_range: tuple[float, float], saved: Any, load: Load
) -> None:
    source, model = Net(rank=rank).double(), Net(rank=rank).double()
    load(model, saved(source, input_range=list(expected)), input_range=given_range)
    unit = block(1, rank).double()
    low, high = given_range
    given_data = low + unit * (high - low)
    expected_data = expected[0] + unit * (expected[1] - expected[0])
    torch.testing.assert_close(model(given_data), source(expected_data), rtol=1e-12, atol=1e-10)


def test_the_first_layer_of_a_cosem_network_becomes_two_w_and_b_minus_the_sum(saved: Any, load: Load) -> None:
    source, model = Net(), Net()
    report = load(model, saved(source, input_range=[-1, 1]), input_range=(0, 1))
    assert torch.equal(model.stem.weight, 2 * source.stem.weight)
    shifted = source.stem.bias.double() - source.stem.weight.double().sum(dim=(1, 2, 3, 4))
    assert torch.equal(model.stem.bias, shifted.float())
    assert torch.equal(model.body.weight, source.body.weight)
    assert [row.name for row in report.adapted] == ["stem.weight", "stem.bias"]
    assert "input range [-1, 1] → [0, 1]" in report.adapted[0].reason
    assert report.coverage.fraction == 1
    assert "adapted to the model's input" in str(report)


def test_the_range_that_is_expected_changes_nothing(saved: Any, load: Load) -> None:
    source, model = Net(), Net()
    report = load(model, saved(source, input_range=[0, 1]), input_range=(0.0, 1))
    assert report.outcome == "strict"
    assert torch.equal(model.stem.weight, source.stem.weight)


@pytest.mark.parametrize("mode", ["reflect", "replicate", "circular"])
def test_padding_with_the_datas_own_values_is_exact(mode: str, saved: Any, load: Load) -> None:
    layers: dict[str, Any] = {"padding": 1, "padding_mode": mode, "rank": 2}
    source, model = Net(**layers).double(), Net(**layers).double()
    load(model, saved(source, input_range=[-1, 1]), input_range=(0, 1))
    data = block(1, 2).double()
    torch.testing.assert_close(model(data), source(2 * data - 1), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(
    ("model", "source", "why"),
    [
        (Net(padding=1), Net(), "pads its input with zeros"),
        (Net(padding="same"), Net(), "pads its input with zeros"),
        (Net(bias=False), Net(bias=False), "no bias in the model"),
        (Net(), Net(bias=False), "no bias in the checkpoint"),
    ],
    ids=["padding", "same", "no bias", "bias in the model only"],
)
def test_what_would_not_be_exact_is_refused_and_nothing_is_changed(
    model: Net, source: Net, why: str, *, saved: Any, load: Load, state_of: StateOf
) -> None:
    before = state_of(model)
    with pytest.raises(InvalidInput, match=why):
        load(model, saved(source, input_range=[-1, 1]), input_range=(0, 1))
    assert state_of(model) == before


def test_all_reasons_are_said_at_once(saved: Any, load: Load) -> None:
    with pytest.raises(InvalidInput) as caught:
        load(Net(padding=1, bias=False), saved(Net(), input_range=[-1, 1]), input_range=(0, 1))
    assert len(caught.value.problems) == 2


def test_an_unknown_expected_range_is_an_error(saved: Any, load: Load) -> None:
    with pytest.raises(InvalidInput, match="does not say which range"):
        load(Net(), saved(Net()), input_range=(0, 1))


def test_a_first_layer_that_is_not_loaded_cannot_take_the_range(saved: Any, load: Load) -> None:
    folder = saved(Net(), input_range=[-1, 1])
    for model in (Net(kernel_size=2), Net(channels=2)):
        with pytest.raises(InvalidInput, match="input range"):
            load(model, folder, input_range=(0, 1), in_channels="keep", min_coverage=0.1)


@pytest.mark.parametrize("rank", CONVOLUTIONS)
@pytest.mark.parametrize(
    ("there", "here", "how"),
    [(1, 3, "repeat"), (2, 5, "repeat"), (1, 2, "mean"), (3, 1, "mean"), (3, 2, "mean"), (1, 2, "first")],
)
def test_the_same_data_in_every_channel_gives_the_same_activation(
    rank: int, there: int, here: int, how: str, *, saved: Any, load: Load
) -> None:
    source, model = Net(there, rank).double(), Net(here, rank).double()
    report = load(model, saved(source), in_channels=how)
    data = block(1, rank).double()
    spread = [data.expand(-1, count, *(-1,) * rank) for count in (there, here)]
    if how == "first":
        spread[1] = torch.cat([spread[0], block(here - there, rank).double()], dim=1)
    torch.testing.assert_close(model(spread[1]), source(spread[0]), rtol=1e-10, atol=1e-10)
    (row,) = report.adapted
    assert f"{there} → {here} input channels" in row.reason
    assert report.outcome == "partial"


def test_fewer_channels_by_the_first_keep_the_size_of_the_weights_sum(saved: Any, load: Load) -> None:
    source, model = Net(4), Net(2)
    load(model, saved(source), in_channels="first")
    assert torch.equal(model.stem.weight, 2 * source.stem.weight[:, :2])


def test_another_number_of_channels_is_an_error_that_says_what_to_type(
    saved: Any, load: Load, state_of: StateOf
) -> None:
    folder, model = saved(Net()), Net(2)
    before = state_of(model)
    plan = plan_load(model, folder, new_head=["a", "b"], min_coverage=0.1, zoo=Zoo(offline=True))
    assert "would be refused" in str(plan)
    with pytest.raises(InvalidInput, match=r"stem\.weight.*1 input channels.*2 in the model.*'repeat'"):
        load(model, folder, min_coverage=0.1)
    with pytest.raises(StrictLoadFailed):
        load(model, folder, strict="require", in_channels="mean")
    assert state_of(model) == before
    load(model, folder, in_channels="keep", min_coverage=0.1)
    assert state_of(model)["stem.weight"][-1] == before["stem.weight"][-1]


def test_fewer_channels_cannot_be_repeated(saved: Any, load: Load) -> None:
    with pytest.raises(InvalidInput, match="cannot make 3 → 2 input channels"):
        load(Net(2), saved(Net(3)), in_channels="repeat")


def test_named_channels_go_by_name_and_others_stay_the_models_own(saved: Any, load: Load) -> None:
    source, model = Net(2), Net(3)
    own = model.stem.weight.clone()
    folder = saved(source, input_channels=["raw", "membrane"])
    report = load(model, folder, input_channels=["membrane", "nuclei", "raw"], min_coverage=0.1)
    assert torch.equal(model.stem.weight[:, 0], source.stem.weight[:, 1])
    assert torch.equal(model.stem.weight[:, 1], own[:, 1])
    assert torch.equal(model.stem.weight[:, 2], source.stem.weight[:, 0])
    (row,) = report.adapted
    assert (row.filled, row.parameters) == (own[:, :2].numel(), own.numel())
    assert "nuclei (the model's own)" in row.reason


def test_named_channels_in_another_order_are_reordered_though_their_number_agrees(
    saved: Any, load: Load
) -> None:
    source, model = Net(2), Net(2)
    load(model, saved(source, input_channels=["raw", "membrane"]), input_channels=["membrane", "raw"])
    assert torch.equal(model.stem.weight, source.stem.weight.flip(1))


@pytest.mark.parametrize(
    ("names", "why"),
    [
        (["x", "y"], "no input channel that is on both sides"),
        (["raw"], "names 1 channels"),
        (["raw", "raw"], "a name twice"),
        ("raw", "not a list"),
        ([1, 2], "not a list"),
        ({"raw"}, "not a list"),
        (3, "not a list"),
    ],
    ids=str,
)
def test_names_that_cannot_be_meant_are_refused(names: Any, why: str, saved: Any, load: Load) -> None:
    with pytest.raises(InvalidInput, match=why):
        load(Net(2), saved(Net(2), input_channels=["raw", "membrane"]), input_channels=names)


def test_channels_range_and_labels_are_adapted_in_one_load(saved: Any, load: Load) -> None:
    source, model = Net().double(), Net(2).double()
    folder = saved(source, input_range=[-1, 1])
    report = load(model, folder, in_channels="repeat", input_range=(0, 1), new_head=["b", "a"])
    data = block(1, 3).double()
    expected = source(2 * data - 1).flip(1)
    torch.testing.assert_close(model(data.expand(-1, 2, -1, -1, -1)), expected, rtol=1e-12, atol=1e-12)
    assert [row.source_row for row in report.channels] == [1, 0]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_element_types_are_computed_in_double_and_rounded_once(
    dtype: torch.dtype, saved: Any, load: Load
) -> None:
    source, model = Net().to(dtype), Net().to(dtype)
    load(model, saved(source, input_range=[-1, 1]), input_range=(0, 1))
    bias = source.stem.bias.double() - source.stem.weight.double().sum(dim=(1, 2, 3, 4))
    rounded = bias if dtype == torch.float64 else bias.float().to(dtype)
    assert torch.equal(model.stem.bias, rounded)


def test_a_model_on_meta_is_filled_and_adapted(saved: Any, load: Load) -> None:
    source = Net()
    with torch.device("meta"):
        model = Net(2)
    load(model, saved(source), in_channels="mean")
    assert torch.equal(model.stem.weight, source.stem.weight.expand(-1, 2, -1, -1, -1) / 2)


@pytest.mark.parametrize("size", [(4, 4, 4), 4, [4.0, 4, 8]], ids=str)
def test_another_voxel_size_is_warned_of_with_both(size: Any, saved: Any) -> None:
    folder = saved(Net(), input_voxel_size=[8, 8, 8], input_sampling="every second voxel")
    with pytest.warns(InputDiffers, match=r"8 x 8 x 8 nm \(every second voxel\).*4 x 4 x [48] nm"):
        load_into(Net(), folder, new_head=["a", "b"], voxel_size=size, zoo=Zoo(offline=True))


@pytest.mark.parametrize("size", [(8, 8, 8), 8, [8.0, 8.0, 8.0]], ids=str)
def test_the_same_voxel_size_is_not(size: Any, saved: Any) -> None:
    folder = saved(Net(), input_voxel_size=[8, 8, 8])
    report = load_into(Net(), folder, new_head=["a", "b"], voxel_size=size, zoo=Zoo(offline=True))
    assert report.outcome == "strict"
    assert report.input_differences == ()


def test_a_warning_that_is_an_error_leaves_the_model_as_it_was(saved: Any, state_of: StateOf) -> None:
    model, folder = Net(), saved(Net(), input_range=[-1, 1])
    before = state_of(model)
    with warnings.catch_warnings():
        warnings.simplefilter("error", InputDiffers)
        warnings.simplefilter("ignore", PartialLoad)
        with pytest.raises(InputDiffers, match=r"\[-1, 1\].*\[0, 1\]"):
            load_into(model, folder, input_range=(0, 1), zoo=Zoo(offline=True))
    assert state_of(model) == before


@pytest.mark.parametrize(
    "option",
    [
        {"in_channels": "median"},
        {"input_range": (1, 0)},
        {"input_range": (0, 0)},
        {"input_range": (0, float("inf"))},
        {"input_range": (0, float("nan"))},
        {"input_range": "01"},
        {"input_range": 1},
        {"voxel_size": (4, 4)},
        {"voxel_size": (4, 4, 0)},
        {"voxel_size": "444"},
        {"voxel_size": b"444"},
        {"voxel_size": True},
        {"voxel_size": {}},
        {"voxel_size": 1j},
        {"input_range": (0, 10**400)},
        {"in_channels": np.array(["mean"])},
    ],
    ids=lambda option: str(option)[:40],
)
def test_values_that_cannot_be_meant_are_refused(option: dict[str, Any], saved: Any, load: Load) -> None:
    with pytest.raises(InvalidOption, match=next(iter(option))):
        load(Net(), saved(Net(), input_range=[-1, 1]), **option)


def test_a_manifest_keeps_the_names_of_its_input_channels(saved: Any) -> None:
    text = (saved(Net(), input_channels=["raw"]) / "config.json").read_bytes()
    manifest = read_manifest(text, "config.json")
    assert manifest.input_channels == ("raw",)
    again = read_manifest(manifest.to_json().encode(), "config.json")
    assert again == manifest
    assert evolve(manifest, input_channels=None) == Manifest(
        run="r", channels=manifest.channels, head=manifest.head
    )


@given(st.integers(1, 6), st.integers(1, 6), st.sampled_from(["repeat", "mean", "first"]))
def test_no_activation_is_lost_or_added(there: int, here: int, how: Any) -> None:
    if how == "repeat" and here < there:
        return
    mixing: Sequence[Sequence[float]] = mix_channels(how, (None, None), (there, here)).mixing or ()
    assert sum(map(sum, mixing)) == pytest.approx(there)
    if how != "first" or here >= there:
        assert [sum(row[i] for row in mixing) for i in range(there)] == pytest.approx([1.0] * there)


class Wrapped(nn.Module):
    """A network, and what else it is given: before the stem, beside it, or of it."""

    def __init__(self, **others: nn.Module) -> None:
        super().__init__()
        for name, module in others.items():
            setattr(self, name, module)
        self.stem = nn.Conv2d(1, 4, 3)
        self.body = nn.Conv2d(4, 4, 1)
        self.head = nn.Conv2d(4, 2, 1)


class Standardised(nn.Conv2d):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        weight = self.weight - self.weight.mean()
        return nn.functional.conv2d(x, weight, self.bias)


def with_stem(stem: nn.Module) -> nn.Module:
    network = Wrapped()
    network.stem = stem  # type: ignore[assignment]
    return network


INEXACT: dict[str, tuple[Callable[[], nn.Module], str]] = {
    "weight_norm": (
        lambda: with_stem(torch.nn.utils.parametrizations.weight_norm(nn.Conv2d(1, 4, 3))),
        "cannot take it",
    ),
    "a norm before": (lambda: Wrapped(norm=nn.BatchNorm2d(1)), "norm, cannot take it"),
    "a recurrent layer before": (lambda: Wrapped(scan=nn.GRU(1, 4)), "scan, cannot take it"),
    "padding before": (lambda: Wrapped(pad=nn.ZeroPad2d(1)), "may pad the input with a constant"),
    "a second stem": (lambda: Wrapped(skip=nn.Conv2d(1, 4, 1)), "may be given the same input"),
    "a time embedding": (lambda: Wrapped(time=nn.Linear(1, 4)), "may be given the same input"),
    "an embedding": (lambda: Wrapped(table=nn.Embedding(4, 4)), "table, cannot take it"),
    "a transposed stem": (lambda: with_stem(nn.ConvTranspose2d(1, 4, 3)), "cannot take it"),
    "a stem of its own kind": (
        lambda: with_stem(Standardised(1, 4, 3)),
        "something of its own with its weight",
    ),
}


@pytest.mark.parametrize("case", INEXACT)
def test_where_a_range_could_not_be_folded_in_exactly_it_is_refused(
    case: str, saved: Any, load: Load, state_of: StateOf
) -> None:
    make, why = INEXACT[case]
    folder, model = saved(make(), input_range=[-1, 1]), make()
    before = state_of(model)
    with pytest.raises(InvalidInput, match=why):
        load(model, folder, input_range=(0, 1))
    assert state_of(model) == before
    load(model, folder)


def test_what_holds_the_first_layer_is_not_another_layer(saved: Any, load: Load) -> None:
    def network() -> nn.Module:
        holder = nn.Module()
        holder.in_channels = 1  # type: ignore[assignment]
        holder.convolution = nn.Conv2d(1, 4, 3)
        return with_stem(holder).double()

    source, model = network(), network()
    load(model, saved(source, input_range=[-1, 1]), input_range=(0, 1))
    weights = [one.get_parameter("stem.convolution.weight") for one in (model, source)]
    assert torch.equal(weights[0], 2 * weights[1])


def test_a_shared_first_weight_is_not_changed_for_one_of_its_layers(saved: Any, load: Load) -> None:
    source, model = Wrapped(), Wrapped()
    for network in (source, model):
        network.again = nn.Conv2d(1, 4, 3)
        network.again.weight = network.stem.weight
    with pytest.raises(InvalidInput, match="another layer has the same weight"):
        load(model, saved(source, input_range=[-1, 1]), input_range=(0, 1))


def test_layers_after_the_first_in_a_sequence_are_not_given_its_input(saved: Any, load: Load) -> None:
    def network() -> nn.Module:
        net = Net(rank=0)
        net.stem = nn.Sequential(nn.Linear(1, 1), nn.ReLU(), nn.Linear(1, 4))
        return net.double()

    source, model = network(), network()
    load(model, saved(source, input_range=[-1, 1]), input_range=(0, 1))
    data = block(1, 0).double()
    torch.testing.assert_close(model(data), source(2 * data - 1), rtol=1e-12, atol=1e-12)


def test_a_first_layer_that_is_the_head_takes_no_range(saved: Any, load: Load) -> None:
    def network() -> nn.Module:
        return nn.ModuleDict({"head": nn.Linear(1, 2), "after": nn.Linear(2, 3)})

    with pytest.raises(InvalidInput, match="head, is not loaded, or is the head"):
        load(network(), saved(network(), input_range=[-1, 1]), input_range=(0, 1))


def test_values_that_are_no_floating_point_numbers_are_kept_and_said_to_be(saved: Any, load: Load) -> None:
    source, model = Net(rank=2), Net(2, rank=2)
    state = {**source.state_dict(), "stem.weight": torch.ones(4, 1, 3, 3, dtype=torch.int8)}
    folder, own = saved(source), model.stem.weight.clone()
    write_safetensors(folder / "model.safetensors", state)
    with pytest.raises(InvalidInput, match="in_channels='mean' adapts the first layer only"):
        load(model, folder, in_channels="mean", min_coverage=0.1)
    report = load(model, folder, in_channels="keep", min_coverage=0.1)
    assert torch.equal(model.stem.weight, own)
    assert [row.filled for row in report.tensors if row.name == "stem.weight"] == [0]


@pytest.mark.parametrize(
    "stems",
    [(nn.ConvTranspose2d(8, 8, 1), nn.ConvTranspose2d(8, 6, 1)), (nn.Embedding(9, 8), nn.Embedding(9, 6))],
)
def test_axes_that_are_no_input_channels_are_not_taken_for_them(
    stems: tuple[nn.Module, nn.Module], saved: Any, load: Load
) -> None:
    source, model = with_stem(stems[0]), with_stem(stems[1])
    folder = saved(source)
    report = load(model, folder, min_coverage=0.1)
    assert report.adapted == ()
    assert report.mismatched[0].name == "stem.weight"
    with pytest.raises(InvalidInput, match="not a convolution or a linear layer"):
        load(model, folder, in_channels="mean", min_coverage=0.1)


def test_grouped_first_layers_are_copied_or_refused_and_never_mixed(saved: Any, load: Load) -> None:
    source = with_stem(nn.Conv2d(4, 4, 3, groups=2))
    folder = saved(source, input_channels=["a", "b", "c", "d"])
    model = with_stem(nn.Conv2d(4, 4, 3, groups=2))
    assert load(model, folder, input_channels=["a", "b", "c", "d"]).outcome == "strict"
    deep = with_stem(nn.Conv2d(4, 4, 3, groups=4))
    with pytest.raises(InvalidInput, match="in groups of them"):
        load(deep, folder, in_channels="mean", min_coverage=0.1)


def test_a_folded_load_is_strict_because_nothing_of_it_is_left_out(saved: Any, load: Load) -> None:
    report = load(Net(), saved(Net(), input_range=[-1, 1]), input_range=(0, 1), strict="require")
    assert report.outcome == "strict"


def test_a_report_says_what_the_checkpoint_was_trained_on(saved: Any, load: Load) -> None:
    about = {"input_voxel_size": [8, 8, 8], "input_sampling": "every second voxel", "input_range": [-1, 1]}
    report = load(Net(), saved(Net(), **about))
    expected = "voxels of 8 x 8 x 8 nm (every second voxel), values in [-1, 1]"
    assert report.input_expected == expected
    assert f"trained on {expected}" in str(report)


def test_a_voxel_size_that_the_checkpoint_does_not_state_is_warned_of(saved: Any) -> None:
    with pytest.warns(InputDiffers, match="does not say which voxels it expects.*4 x 4 x 4 nm"):
        load_into(Net(), saved(Net()), new_head=["a", "b"], voxel_size=4, zoo=Zoo(offline=True))


@pytest.mark.parametrize("given", [np.array([0, 1]), [np.int64(0), np.float32(1)], torch.tensor([0.0, 1.0])])
def test_ranges_may_be_numpys_and_torchs_numbers(given: Any, saved: Any, load: Load) -> None:
    source, model = Net(), Net()
    load(model, saved(source, input_range=[-1, 1]), input_range=given)
    assert torch.equal(model.stem.weight, 2 * source.stem.weight)


@pytest.mark.parametrize("size", [np.int64(8), np.array([8, 8, 8]), torch.tensor(8.0), np.float32(8)])
def test_voxel_sizes_may_be_numpys_and_torchs_numbers(size: Any, saved: Any) -> None:
    folder = saved(Net(), input_voxel_size=[8, 8, 8])
    report = load_into(Net(), folder, new_head=["a", "b"], voxel_size=size, zoo=Zoo(offline=True))
    assert report.input_differences == ()

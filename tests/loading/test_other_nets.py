"""Networks that are no U-Nets, and modules that others have changed: the right result or a clear refusal."""

import copy
import warnings
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn.utils import parametrizations, parametrize, prune

from cosemzoo.errors import (
    AliasConflict,
    CosemZooError,
    CoverageTooLow,
    InvalidHead,
    StrictLoadFailed,
    UnsupportedModel,
)
from cosemzoo.loading.report import LoadReport
from cosemzoo.manifest import HeadTensor

Save = Callable[..., Path]
Load = Callable[..., LoadReport]
StateOf = Callable[[nn.Module], Any]


class Block(nn.Module):
    """A residual block as torchvision's ResNet has them."""

    def __init__(self, inputs: int, planes: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, planes, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(planes)
        self.conv2 = nn.Conv2d(planes, planes, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(planes)
        self.downsample = (
            nn.Sequential(nn.Conv2d(inputs, planes, 1, stride, bias=False), nn.BatchNorm2d(planes))
            if stride > 1
            else None
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out = self.bn2(self.conv2(self.bn1(self.conv1(x)).relu()))
        return torch.as_tensor((out + (x if self.downsample is None else self.downsample(x))).relu())


class ResNet(nn.Module):
    def __init__(self, classes: int = 3, inputs: int = 3) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, 4, 7, 2, 3, bias=False)
        self.bn1 = nn.BatchNorm2d(4)
        self.layer1 = nn.Sequential(Block(4, 4, 1), Block(4, 4, 1))
        self.layer2 = nn.Sequential(Block(4, 8, 2), Block(8, 8, 1))
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc: nn.Module = nn.Linear(8, classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.layer2(self.layer1(self.bn1(self.conv1(x)).relu()))
        return torch.as_tensor(self.fc(self.avgpool(x).flatten(1)))


class EncoderBlock(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.ln_1 = nn.LayerNorm(width)
        self.self_attention = nn.MultiheadAttention(width, 2, batch_first=True)
        self.ln_2 = nn.LayerNorm(width)
        self.mlp = nn.Sequential(nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.ln_1(x)
        x = x + self.self_attention(y, y, y)[0]
        return torch.as_tensor(x + self.mlp(self.ln_2(x)))


class Encoder(nn.Module):
    def __init__(self, length: int, width: int) -> None:
        super().__init__()
        self.pos_embedding = nn.Parameter(torch.randn(1, length, width))
        self.layers = nn.Sequential(EncoderBlock(width), EncoderBlock(width))
        self.ln = nn.LayerNorm(width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.as_tensor(self.ln(self.layers(x + self.pos_embedding)))


class ViT(nn.Module):
    """A vision transformer, with the names that torchvision gives its parts."""

    def __init__(self, classes: int = 3, size: int = 8) -> None:
        super().__init__()
        self.conv_proj = nn.Conv2d(3, 4, 4, 4)
        self.class_token = nn.Parameter(torch.randn(1, 1, 4))
        self.encoder = Encoder((size // 4) ** 2 + 1, 4)
        self.heads = nn.Sequential()
        self.heads.add_module("head", nn.Linear(4, classes))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.conv_proj(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.class_token.expand(len(x), -1, -1), x], dim=1)
        return torch.as_tensor(self.heads(self.encoder(x)[:, 0]))


class Net(nn.Module):
    """A body of two layers, and a head."""

    body: Any
    head: Any

    def __init__(self, head: nn.Module, **others: nn.Module) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv1d(1, 4, 3), nn.ReLU(), nn.Conv1d(4, 4, 3))
        self.head = head
        for name, module in others.items():
            self.add_module(name, module)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.as_tensor(self.head(self.body(x)))


HEAD = ("head.weight", "head.bias")
LABELS = ["a", "b", "c"]
X = torch.randn(2, 1, 12)


def net(rows: int = 3) -> Net:
    return Net(nn.Conv1d(4, rows, 1))


def accounts_for_all(report: LoadReport, model: nn.Module) -> bool:
    return {name for row in report.tensors for name in (row.name, *row.aliases)} == set(model.state_dict())


def refused(
    load: Callable[[], object], model: nn.Module, state_of: StateOf, kind: type[CosemZooError]
) -> Any:
    """Give the error of a load that leaves the model as it was."""
    before = state_of(model)
    with pytest.raises(kind) as caught:
        load()
    assert state_of(model) == before
    return caught.value


def equal_states(model: nn.Module, source: nn.Module) -> bool:
    theirs = source.state_dict()
    return all(torch.equal(value, theirs[name]) for name, value in model.state_dict().items())


# --- classifiers and transformers --------------------------------------------------------------------------


def test_a_residual_classifier_loads_whole_with_its_statistics(save: Save, load: Load) -> None:
    source, model = ResNet(), ResNet()
    source(torch.randn(2, 3, 32, 32))
    head = ["fc.weight", "fc.bias"]
    report = load(model, save(source.state_dict(), LABELS, head), new_head=LABELS, strict="require")
    assert equal_states(model, source)
    assert int(model.bn1.num_batches_tracked or 0) == 1
    assert accounts_for_all(report, model)
    image = torch.randn(1, 3, 32, 32)
    assert torch.equal(model.eval()(image), source.eval()(image))


def test_a_residual_classifier_for_other_classes_and_inputs(save: Save, load: Load) -> None:
    source, model = ResNet(), ResNet(classes=4, inputs=1)
    own = copy.deepcopy(model.fc.state_dict())
    folder = save(source.state_dict(), LABELS, ["fc.weight", "fc.bias"])
    report = load(model, folder, new_head=["c", "new", "a", "b"], in_channels="mean")
    rows = source.fc.state_dict()
    assert torch.equal(model.fc.state_dict()["weight"][[0, 2, 3]], rows["weight"][[2, 0, 1]])
    assert torch.equal(model.fc.state_dict()["bias"][1], own["bias"][1])
    # The same value in all channels gives the same activation.
    image = torch.randn(1, 1, 16, 16)
    expected = source.conv1(image.expand(1, 3, 16, 16))
    assert torch.allclose(model.conv1(image), expected, atol=1e-5)
    assert [row.name for row in report.adapted] == ["conv1.weight"]


def test_a_vision_transformer_loads_whole(save: Save, load: Load) -> None:
    source, model = ViT(), ViT()
    names = ["heads.head.weight", "heads.head.bias"]
    report = load(model, save(source.state_dict(), LABELS, names), new_head=LABELS, strict="require")
    image = torch.randn(2, 3, 8, 8)
    assert torch.equal(model.eval()(image), source.eval()(image))
    assert "encoder.layers.0.self_attention.in_proj_weight" in {row.name for row in report.tensors}
    assert accounts_for_all(report, model)


def test_position_embeddings_of_another_image_size_are_kept_and_said(save: Save, load: Load) -> None:
    source, model = ViT(), ViT(size=16)
    own = model.encoder.pos_embedding.clone()
    report = load(model, save(source.state_dict()))
    assert torch.equal(model.encoder.pos_embedding, own)
    assert [row.name for row in report.mismatched] == ["encoder.pos_embedding"]
    assert torch.equal(model.class_token, source.class_token)


def test_a_recurrent_network_loads_and_computes_the_same(save: Save, load: Load) -> None:
    def make() -> Any:
        return nn.ModuleDict({"embed": nn.Embedding(5, 4), "rnn": nn.LSTM(4, 3, 2, bidirectional=True)})

    source, words = make(), torch.tensor([[0], [3], [4]])
    folder = save(source.state_dict())
    with torch.device("meta"):
        hollow = make()
    for model in (make(), hollow):
        report = load(model, folder, strict="require")
        assert accounts_for_all(report, model)
        computed = [one.rnn(one.embed(words))[0] for one in (model, source)]
        assert torch.equal(*computed)


def test_weights_that_lie_in_one_flat_memory_stay_there(save: Save, load: Load) -> None:
    source, model = nn.LSTM(2, 3), nn.LSTM(2, 3)
    flat = torch.cat([parameter.detach().flatten() for parameter in model.parameters()])
    start = 0
    for parameter in model.parameters():
        # As cuDNN has them.
        parameter.data = flat[start : start + parameter.numel()].view(parameter.shape)
        start += parameter.numel()
    load(model, save(source.state_dict()), strict="require")
    assert torch.equal(flat, torch.cat([parameter.flatten() for parameter in source.parameters()]))


# --- heads -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rank", [1, 2, 3])
def test_rows_of_a_transposed_convolution_go_by_label(rank: int, save: Save, load: Load) -> None:
    kind: Any = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)[rank - 1]
    source, model = Net(kind(4, 3, 2)), Net(kind(4, 4, 2))
    own = model.head.weight[:, 1].clone()
    folder = save(source.state_dict(), LABELS, [HeadTensor("head.weight", 1), "head.bias"])
    report = load(model, folder, new_head=["b", "new", "c", "a"])
    assert torch.equal(model.head.weight[:, [0, 2, 3]], source.head.weight[:, [1, 2, 0]])
    assert torch.equal(model.head.bias[[0, 2, 3]], source.head.bias[[1, 2, 0]])
    assert torch.equal(model.head.weight[:, 1], own)
    assert accounts_for_all(report, model)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=25)
@given(
    groups=st.sampled_from([1, 2, 4]),
    each=st.sampled_from([1, 2]),
    seed=st.randoms(use_true_random=False),
)
def test_a_row_of_a_grouped_head_is_taken_only_where_it_sees_the_same_inputs(
    groups: int, each: int, seed: Any, *, save: Save, load: Load
) -> None:
    rows = groups * each
    source, model = (Net(nn.Conv1d(4, rows, 1, groups=groups)) for _ in range(2))
    labels = [f"label-{row}" for row in range(rows)]
    asked = seed.sample(labels, rows)
    folder = save(source.state_dict(), labels, HEAD)
    own = copy.deepcopy(model)
    report = load(model, folder, new_head=asked)
    own.body.load_state_dict(source.body.state_dict())
    before, trained, now = (one(X) for one in (own, source, model))
    for row, label in enumerate(asked):
        there = labels.index(label)
        loaded = row // each == there // each
        assert torch.allclose(now[:, row], trained[:, there] if loaded else before[:, row], atol=1e-6)
        assert report.channels[row].status == ("loaded" if loaded else "kept")
        assert loaded or "is a grouped convolution: this row sees" in report.channels[row].reason


def test_a_depthwise_head_in_its_own_order_is_strict(save: Save, load: Load) -> None:
    source, model = (Net(nn.Conv1d(4, 4, 1, groups=4)) for _ in range(2))
    folder = save(source.state_dict(), list("abcd"), HEAD)
    assert load(model, folder, new_head=list("abcd"), strict="require").outcome == "strict"
    assert torch.equal(model(X), source(X))


def test_rows_of_a_grouped_transposed_convolution_are_not_taken_for_channels(
    save: Save, load: Load, state_of: StateOf
) -> None:
    source = Net(nn.ConvTranspose1d(4, 3, 2, bias=False))
    model = Net(nn.ConvTranspose1d(4, 6, 2, groups=2, bias=False))
    folder = save(source.state_dict(), LABELS, [HeadTensor("head.weight", 1)])
    error = refused(lambda: load(model, folder, new_head=LABELS), model, state_of, InvalidHead)
    assert "do not have one row per channel" in str(error)


class Tied(nn.Module):
    """A language model whose head is its embedding."""

    def __init__(self, words: int, *, tied: bool = True, head: str = "head") -> None:
        super().__init__()
        self.embed = nn.Embedding(words, 4)
        self.body = nn.Linear(4, 4)
        self.add_module(head, nn.Linear(4, words, bias=False))
        if tied:
            self.get_submodule(head).weight = self.embed.weight


@pytest.mark.parametrize("head", ["head", "out"])
def test_rows_of_a_head_that_is_the_embedding_move_in_both_and_this_is_said(
    head: str, save: Save, load: Load
) -> None:
    source, model = Tied(3), Tied(4, head=head)
    own = model.embed.weight.clone()
    folder = save(source.state_dict(), LABELS, ["head.weight"])
    report = load(model, folder, new_head=["c", "new", "a", "b"], head=head)
    assert torch.equal(model.embed.weight[[0, 2, 3]], source.embed.weight[[2, 0, 1]])
    assert torch.equal(model.embed.weight[1], own[1])
    assert model.get_parameter(f"{head}.weight") is model.embed.weight
    (row,) = [row for row in report.tensors if row.is_head]
    assert (
        row.reason
        == "1 of 4 channels are the model's own; embed.weight is the same tensor and changes with it"
    )


@pytest.mark.parametrize("head", [None, "head", "out"])
def test_a_tied_head_is_not_filled_from_two_tensors_that_differ(
    head: str | None, save: Save, load: Load, state_of: StateOf
) -> None:
    source, model = Tied(3, tied=False), Tied(3, head=head or "head")
    folder = save(source.state_dict(), LABELS, ["head.weight"])
    error = refused(lambda: load(model, folder, new_head=LABELS, head=head), model, state_of, AliasConflict)
    assert {"embed.weight", "head.weight"} == set(error.conflicts[0][:2])


# --- parametrizations --------------------------------------------------------------------------------------

NEW: Mapping[str, Callable[[nn.Module], nn.Module]] = {
    "weight_norm": parametrizations.weight_norm,
    "spectral_norm": parametrizations.spectral_norm,
    "orthogonal": parametrizations.orthogonal,
}
OLD: Mapping[str, Callable[[nn.Module], nn.Module]] = {
    "old weight_norm": nn.utils.weight_norm,
    "old spectral_norm": nn.utils.spectral_norm,
    "pruned": partial(prune.random_unstructured, name="weight", amount=0.5),
}
ALL = {**NEW, **OLD}


def made(how: str, where: str = "body") -> Net:
    model = net()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*weight_norm.*deprecated", category=FutureWarning)
        ALL[how](model.body[2] if where == "body" else model.head)
    return model


@pytest.mark.parametrize("how", ALL)
def test_weights_in_the_same_parts_on_both_sides_load(how: str, save: Save, load: Load) -> None:
    source, model = made(how), made(how)
    report = load(model, save(source.state_dict(), LABELS, HEAD), new_head=LABELS, strict="require")
    assert torch.equal(model.eval()(X), source.eval()(X))
    assert accounts_for_all(report, model)


@pytest.mark.parametrize(("where", "name"), [("body", "body.2.weight"), ("head", "head.weight")])
@pytest.mark.parametrize("how", ALL)
def test_a_whole_weight_does_not_go_into_parts(
    how: str, where: str, name: str, *, save: Save, load: Load, state_of: StateOf
) -> None:
    source, model = net(), made(how, where)
    folder = save(source.state_dict(), LABELS, HEAD)
    for options in ({}, {"min_coverage": 0, "strict": "never"}, {"new_head": ["c", "x", "a"]}):
        error = refused(partial(load, model, folder, **options), model, state_of, UnsupportedModel)
        ((weight, why),) = error.problems
        assert weight == name
        assert f"the checkpoint whole ({name}): take these away (torch.nn.utils." in why


def test_what_the_message_says_works(save: Save, load: Load) -> None:
    source, model = net(), made("weight_norm")
    parametrize.remove_parametrizations(model.body[2], "weight")
    load(model, save(source.state_dict(), LABELS, HEAD), new_head=LABELS, strict="require")
    parametrizations.weight_norm(model.body[2])
    assert torch.allclose(model(X), source(X), atol=1e-6)


@pytest.mark.parametrize("how", ALL)
def test_parts_do_not_go_into_a_whole_weight(how: str, save: Save, load: Load, state_of: StateOf) -> None:
    source, model = made(how), net()
    folder = save(source.state_dict(), LABELS, HEAD)
    error = refused(lambda: load(model, folder), model, state_of, UnsupportedModel)
    ((name, why),) = error.problems
    assert name == "body.2.weight"
    assert "the model whole: make these in the model, load, and take them away again" in why


@pytest.mark.parametrize("how", ["weight_norm", "spectral_norm"])
def test_old_parts_go_into_new_ones_as_the_message_says(
    how: str, save: Save, load: Load, state_of: StateOf
) -> None:
    source, model = made(f"old {how}"), made(how)
    folder = save(source.state_dict(), LABELS, HEAD)
    error = refused(lambda: load(model, folder), model, state_of, UnsupportedModel)
    ((_, why),) = error.problems
    rename = eval(why.partition("rename=")[2])
    load(model, folder, new_head=LABELS, rename=rename, strict="require")
    assert torch.allclose(model.eval()(X), source.eval()(X), atol=1e-6)


@pytest.mark.parametrize("how", ["weight_norm", "spectral_norm"])
def test_parts_of_other_kinds_are_refused(how: str, save: Save, load: Load, state_of: StateOf) -> None:
    source, model = made("pruned"), made(how)
    folder = save(source.state_dict(), LABELS, HEAD)
    error = refused(lambda: load(model, folder), model, state_of, UnsupportedModel)
    assert "do to the model what was done to the network it is from" in str(error)


@pytest.mark.parametrize("wrapper", ["module.", "net.", ""])
def test_parts_are_found_behind_a_wrapper(wrapper: str, save: Save, load: Load, state_of: StateOf) -> None:
    source, model = net(), made("weight_norm")
    folder = save({wrapper + name: value for name, value in source.state_dict().items()})
    refused(lambda: load(model, folder, min_coverage=0), model, state_of, UnsupportedModel)


def test_rows_of_a_head_with_weight_norm_go_by_label(save: Save, load: Load) -> None:
    source, model = made("weight_norm", "head"), made("weight_norm", "head")
    names = [name for name in source.state_dict() if name.startswith("head.")]
    report = load(model, save(source.state_dict(), LABELS, names), new_head=["c", "new", "a"])
    assert torch.allclose(model(X)[:, [0, 2]], source(X)[:, [2, 0]], atol=1e-6)
    assert [(row.head, row.status) for row in report.channels] == [
        ("head", "loaded"),
        ("head", "kept"),
        ("head", "loaded"),
    ]


def test_a_bias_goes_with_the_parts_of_its_weight(save: Save, load: Load) -> None:
    source, model = made("weight_norm", "head"), made("weight_norm", "head")
    names = [name for name in source.state_dict() if "original" in name]
    load(model, save(source.state_dict(), LABELS, names), new_head=["c", "b", "a"])
    assert torch.allclose(model(X), source(X).flip(1), atol=1e-6)


@pytest.mark.parametrize("how", ["spectral_norm", "orthogonal"])
def test_rows_that_depend_on_each_other_do_not_go_one_by_one(
    how: str, save: Save, load: Load, state_of: StateOf
) -> None:
    source, model = made(how, "head"), made(how, "head")
    names = ["head.bias", "head.parametrizations.weight.original"]
    folder = save(source.state_dict(), LABELS, names)
    error = refused(lambda: load(model, folder, new_head=["c", "b", "a"]), model, state_of, InvalidHead)
    assert "rows cannot be taken one by one" in str(error)
    load(model, folder, new_head=LABELS, strict="require")
    assert torch.equal(model.eval()(X), source.eval()(X))


@pytest.mark.parametrize("how", ALL)
@pytest.mark.parametrize("side", ["model", "checkpoint"])
def test_of_a_head_that_the_caller_names_no_bias_is_loaded_alone(
    side: str, how: str, *, save: Save, load: Load, state_of: StateOf
) -> None:
    source, model = net(), Net(nn.Identity(), out=nn.Conv1d(4, 3, 1))
    changed = source.head if side == "checkpoint" else model.get_submodule("out")
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*weight_norm.*deprecated", category=FutureWarning)
        ALL[how](changed)
    names = [
        name for name, value in source.state_dict().items() if name.startswith("head.") and len(value) == 3
    ]
    folder = save(source.state_dict(), LABELS, names)
    error = refused(
        lambda: load(model, folder, new_head=LABELS, head="out"), model, state_of, UnsupportedModel
    )
    assert [name for name, _ in error.problems] == ["out.weight"]


# --- quantised, complex, lazy, strided ---------------------------------------------------------------------


class Quantised(nn.Module):
    """Integer weights with their scale, as buffers."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("weight", torch.randint(-128, 128, (3, 4), dtype=torch.int8))
        self.register_buffer("scale", torch.rand(3))
        self.register_buffer("zero_point", torch.randint(0, 5, (3,), dtype=torch.int32))


def test_integer_buffers_load_bit_for_bit(save: Save, load: Load) -> None:
    source, model = Quantised(), Quantised()
    load(model, save(source.state_dict()), strict="require")
    assert equal_states(model, source)
    assert model.state_dict()["weight"].dtype == torch.int8


def test_float_weights_do_not_become_integers(save: Save, load: Load, state_of: StateOf) -> None:
    model = Quantised()
    folder = save({**model.state_dict(), "weight": torch.rand(3, 4)})
    error = refused(lambda: load(model, folder, strict="require"), model, state_of, StrictLoadFailed)
    assert "weight: F32 values do not convert to I8" in str(error)


def test_packed_modules_are_refused_with_what_to_do(save: Save, load: Load, state_of: StateOf) -> None:
    class Packed(nn.Linear):
        """What torch's dynamically quantised modules put into a state dict."""

        def __init__(self) -> None:
            super().__init__(4, 3, bias=False)
            self.packed = torch.zeros(3, 4, dtype=torch.int8), None

        def _save_to_state_dict(self, destination: Any, prefix: str, keep_vars: bool) -> None:
            destination[prefix + "dtype"] = torch.qint8
            destination[prefix + "_packed_params"] = self.packed

    model = nn.Sequential(nn.Linear(2, 4), Packed())
    folder = save(nn.Sequential(nn.Linear(2, 4), nn.Linear(4, 3)).state_dict())
    error = refused(lambda: load(model, folder), model, state_of, UnsupportedModel)
    assert [name for name, _ in error.problems] == ["1._packed_params"]
    assert "load first, quantise the model then" in str(error)


def test_real_quantised_modules_are_refused(save: Save, load: Load) -> None:
    float_model = nn.Sequential(nn.Linear(4, 4))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        quantize = getattr(torch.ao.quantization, "quantize_dynamic", None)
        if quantize is None or torch.backends.quantized.engine == "none":
            return
        model = quantize(float_model, {nn.Linear})
    with pytest.raises(UnsupportedModel, match="load first, quantise the model then"):
        load(model, save(float_model.state_dict()), min_coverage=0)


def test_complex_and_boolean_buffers_load(save: Save, load: Load) -> None:
    def make() -> nn.Module:
        model = nn.Module()
        model.register_buffer("waves", torch.randn(3, dtype=torch.complex64))
        model.register_buffer("mask", torch.rand(5) > 0.5)
        model.register_buffer("scalar", torch.rand(()))
        return model

    source, model = make(), make()
    load(model, save(source.state_dict()), strict="require")
    assert equal_states(model, source)


@pytest.mark.parametrize("make", [lambda: nn.LazyLinear(3), nn.LazyBatchNorm1d])
def test_lazy_modules_are_refused_and_load_after_one_pass(
    make: Callable[[], nn.Module], save: Save, load: Load
) -> None:
    model, source = nn.Sequential(make()), nn.Sequential(make())
    source(torch.rand(2, 4))
    folder = save(source.state_dict())
    with pytest.raises(UnsupportedModel, match="run one forward pass of the lazy module first"):
        load(model, folder)
    model(torch.rand(2, 4))
    load(model, folder, strict="require")
    assert equal_states(model, source)


def test_channels_last_weights_keep_their_strides(save: Save, load: Load) -> None:
    source, model = ResNet(), ResNet().to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    strides = {name: value.stride() for name, value in model.state_dict().items()}
    for folder in (save(source.state_dict()), save(copy.deepcopy(model).state_dict())):
        load(model, folder, strict="require")
        assert {name: value.stride() for name, value in model.state_dict().items()} == strides
    load(model, save(source.state_dict()), strict="require")
    assert equal_states(model, source)


def test_lists_and_dictionaries_of_parameters_load(save: Save, load: Load) -> None:
    def make() -> nn.Module:
        model = nn.Module()
        model.steps = nn.ParameterList([nn.Parameter(torch.rand(2)), nn.Parameter(torch.rand(3))])
        model.by_name = nn.ParameterDict({"left": nn.Parameter(torch.rand(1)), "right": torch.rand(4)})
        return model

    source, model = make(), make()
    assert accounts_for_all(load(model, save(source.state_dict()), strict="require"), model)
    assert equal_states(model, source)


# --- wrappers ----------------------------------------------------------------------------------------------


class LoraLinear(nn.Module):
    """A low-rank adapter around a layer, with the names that PEFT gives its parts."""

    def __init__(self, base_layer: nn.Linear) -> None:
        super().__init__()
        self.base_layer = base_layer
        self.lora_A = nn.ModuleDict({"default": nn.Linear(base_layer.in_features, 2, bias=False)})
        self.lora_B = nn.ModuleDict({"default": nn.Linear(2, base_layer.out_features, bias=False)})

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.as_tensor(self.base_layer(x) + self.lora_B["default"](self.lora_A["default"](x)))


class Mlp(nn.Module):
    def __init__(self, rows: int = 3) -> None:
        super().__init__()
        self.one: nn.Module = nn.Linear(3, 4)
        self.two: nn.Module = nn.Linear(4, 4)
        self.head: nn.Module = nn.Linear(4, rows)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.as_tensor(self.head(self.two(self.one(x).relu()).relu()))


def adapted(model: Mlp, *modules: str) -> nn.Module:
    """Wrap as PEFT does: adapters inside, and two modules around."""
    for name in modules:
        layer = LoraLinear(getattr(model, name))
        nn.init.zeros_(layer.lora_B["default"].get_parameter("weight"))
        setattr(model, name, layer)
    wrapped = nn.Module()
    wrapped.base_model = nn.Module()
    wrapped.base_model.model = model
    return wrapped


@pytest.mark.parametrize("modules", [("one",), ("one", "two"), ("one", "two", "head")], ids=str)
def test_a_checkpoint_loads_under_adapters(modules: tuple[str, ...], save: Save, load: Load) -> None:
    source, inner = Mlp(), Mlp()
    model = adapted(inner, *modules)
    adapters = {name: value.clone() for name, value in model.state_dict().items() if "lora" in name}
    folder = save(source.state_dict(), LABELS, HEAD)
    # Adapters of every layer are most of the backbone's tensors.
    report = load(model, folder, new_head=["c", "b", "a"], min_coverage=0.3)
    x = torch.rand(2, 3)
    assert torch.allclose(inner(x), source(x).flip(1), atol=1e-6)
    assert {row.name for row in report.missing} == adapters.keys()
    assert all(torch.equal(model.state_dict()[name], value) for name, value in adapters.items())
    assert accounts_for_all(report, model)


def test_a_checkpoint_of_an_adapted_network_loads_into_a_plain_one_and_says_what_is_left(
    save: Save, load: Load
) -> None:
    source, model = Mlp(), Mlp()
    wrapped = adapted(source, "one")
    report = load(model, save(wrapped.state_dict()))
    assert torch.equal(model.get_parameter("two.weight"), source.get_parameter("two.weight"))
    assert [one.name for one in report.unused] == [
        "base_model.model.one.lora_A.default.weight",
        "base_model.model.one.lora_B.default.weight",
    ]


def test_a_head_that_adapters_train_beside_the_original_must_be_named(
    save: Save, load: Load, state_of: StateOf
) -> None:
    source, inner = Mlp(), Mlp()
    kept = nn.Module()
    kept.original_module = inner.head
    kept.modules_to_save = nn.ModuleDict({"default": copy.deepcopy(inner.head)})
    inner.head = kept
    model = adapted(inner, "one")
    folder = save(source.state_dict(), LABELS, HEAD)
    error = refused(lambda: load(model, folder, new_head=LABELS), model, state_of, InvalidHead)
    name = "base_model.model.head.modules_to_save.default"
    assert f"perhaps head={name!r}" in str(error)
    load(model, folder, new_head=["c", "b", "a"], head=name)
    assert torch.equal(model.get_parameter(f"{name}.weight"), source.get_parameter("head.weight").flip(0))


def wrapped_as(name: str, *, inside: bool) -> Callable[[Net], nn.Module]:
    """Wrap as torch.compile, FSDP and others do: a module of that name around the model, or inside it."""

    def wrap(model: Net) -> nn.Module:
        around = nn.Module()
        around.add_module(name, model.body if inside else model)
        if not inside:
            return around
        model.body = around
        return model

    return wrap


WRAPPERS: Mapping[str, Callable[[Net], nn.Module]] = {
    "compiled": wrapped_as("_orig_mod", inside=False),
    "compiled inside": wrapped_as("_orig_mod", inside=True),
    "data parallel": nn.DataParallel,
    "compiled data parallel": lambda model: nn.DataParallel(wrapped_as("_orig_mod", inside=False)(model)),
    "fsdp": wrapped_as("_fsdp_wrapped_module", inside=False),
    "fsdp inside": wrapped_as("_fsdp_wrapped_module", inside=True),
    "checkpointed inside": wrapped_as("_checkpoint_wrapped_module", inside=True),
    "data parallel inside": wrapped_as("module", inside=True),
}


@pytest.mark.parametrize("stored", [*WRAPPERS, None])
@pytest.mark.parametrize("wrapper", [*WRAPPERS, None])
def test_wrapped_models_load(wrapper: str | None, stored: str | None, *, save: Save, load: Load) -> None:
    source, inner = net(), net()
    plain = copy.deepcopy(source)
    state = (WRAPPERS[stored](source) if stored else source).state_dict()
    head = [name for name in state if ".head." in f".{name}"]
    model = WRAPPERS[wrapper](inner) if wrapper else inner
    report = load(model, save(state, LABELS, head), new_head=["c", "b", "a"])
    assert report.model_coverage.fraction == 1
    assert report.unused == ()
    values = dict(zip(net().state_dict(), model.state_dict().values(), strict=True))
    expected = plain.state_dict()
    assert all(
        torch.equal(value, expected[name].flip(0) if name.startswith("head.") else expected[name])
        for name, value in values.items()
    )


@pytest.mark.parametrize("inside", [True, False])
def test_what_torch_compile_gives_loads(inside: bool, *, save: Save, load: Load) -> None:
    source, inner = net(), net()
    with warnings.catch_warnings():
        # Its import makes use of what it calls deprecated.
        warnings.simplefilter("ignore", DeprecationWarning)
        model = torch.compile(inner.body if inside else inner)
    if inside:
        inner.body = model
    folder = save(source.state_dict(), LABELS, HEAD)
    report = load(inner if inside else model, folder, new_head=["c", "b", "a"])
    assert report.model_coverage.fraction == 1
    assert torch.equal(inner.head.weight, source.head.weight.flip(0))
    expected = [*source.body.parameters()]
    assert all(map(torch.equal, inner.body.parameters(), expected))


def test_a_flat_parameter_has_nothing_in_common(save: Save, load: Load, state_of: StateOf) -> None:
    model = nn.Module()
    model.register_parameter("_flat_param", nn.Parameter(torch.rand(100)))
    folder = save(net().state_dict())
    error = refused(lambda: load(model, folder), model, state_of, CoverageTooLow)
    assert "_flat_param [100]" in str(error)


def test_a_functional_call_after_the_load_sees_what_was_loaded(save: Save, load: Load) -> None:
    source, model = net(), net()
    load(model, save(source.state_dict()), strict="require")
    assert torch.equal(torch.func.functional_call(net(), dict(model.named_parameters()), (X,)), source(X))


# --- modules with a state dict of their own ----------------------------------------------------------------


class Renaming(nn.Linear):
    """Its names in the state dict are not those of its attributes."""

    def _save_to_state_dict(self, destination: Any, prefix: str, keep_vars: bool) -> None:
        for name, parameter in self.named_parameters():
            destination[f"{prefix}my_{name}"] = parameter if keep_vars else parameter.detach()

    def _load_from_state_dict(self, state_dict: Any, prefix: str, *others: Any) -> None:
        raise AssertionError("a load does not ask modules to load")


def test_a_module_that_renames_its_tensors_loads_by_its_names(save: Save, load: Load) -> None:
    source, model = (nn.Sequential(Renaming(2, 3), nn.Linear(3, 3)) for _ in range(2))
    report = load(model, save(source.state_dict()), strict="require")
    assert [row.name for row in report.tensors][:2] == ["0.my_weight", "0.my_bias"]
    assert torch.equal(model.get_parameter("0.weight"), source.get_parameter("0.weight"))


def test_a_state_dict_hook_that_changes_values_is_refused(save: Save, load: Load, state_of: StateOf) -> None:
    def doubled(module: nn.Module, state: Any, prefix: str, _: Any) -> None:
        state[f"{prefix}weight"] = state[f"{prefix}weight"] * 2

    model: Any = nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 3))
    folder = save(model.state_dict())
    model[0].register_state_dict_post_hook(doubled)
    error = refused(lambda: load(model, folder), model, state_of, UnsupportedModel)
    assert [name for name, _ in error.problems] == ["0.weight"]


def test_a_state_dict_hook_that_adds_a_prefix_is_seen_through(save: Save, load: Load) -> None:
    def prefixed(module: nn.Module, state: Any, prefix: str, _: Any) -> None:
        for name in [*state]:
            state[f"saved.{name}"] = state.pop(name)

    source: Any = net()
    model: Any = net()
    folder = save(source.state_dict())
    model.register_state_dict_post_hook(prefixed)
    assert load(model, folder).model_coverage.fraction == 1
    assert torch.equal(model(X), source(X))


def test_a_module_that_computes_something_after_its_load_is_refused(
    save: Save, load: Load, state_of: StateOf
) -> None:
    model = net()
    folder = save(model.state_dict())
    hook = model.body[2].register_load_state_dict_post_hook(lambda *_: None)
    error = refused(lambda: load(model, folder), model, state_of, UnsupportedModel)
    assert [name for name, _ in error.problems] == ["body.2"]
    assert "remove the hook, load, and do it yourself" in str(error)
    hook.remove()
    assert load(model, folder).outcome == "strict"


def test_extra_state_that_is_no_tensor_stays_as_it_is(save: Save, load: Load) -> None:
    class Counting(nn.Linear):
        calls = 3

        def get_extra_state(self) -> Any:
            return self.calls, torch.zeros(2)

        def set_extra_state(self, state: Any) -> None:
            self.calls, _ = state

    source, model = nn.Linear(2, 3), Counting(2, 3)
    report = load(model, save(source.state_dict()), strict="require")
    assert [row.name for row in report.tensors] == ["weight", "bias"]
    assert model.calls == 3

import copy
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations

from cosemzoo.errors import UnsupportedModel
from cosemzoo.loading.model_tensors import ModelTensor, read_model


class Pair(nn.Module):
    def __init__(self, a: torch.Tensor, b: torch.Tensor) -> None:
        super().__init__()
        self.a = nn.Parameter(a)
        self.b = nn.Parameter(b)


def names(model: nn.Module) -> list[list[str]]:
    return [one.names for one in read_model(model)]


def problems(model: Any) -> dict[str, str]:
    with pytest.raises(UnsupportedModel) as caught:
        read_model(model)
    return dict(caught.value.problems)


def test_tensors_are_in_the_order_of_the_state_dict_and_others_after_them() -> None:
    model = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3))
    model.register_buffer("scratch", torch.zeros(2), persistent=False)
    held = read_model(model)
    assert [name for one in held for name in one.names] == list(model.state_dict())
    assert held[-1].names == []
    assert [owner.path for owner in held[-1].owners] == ["scratch"]


def test_a_tensor_is_described_by_name_shape_and_dtype() -> None:
    (held,) = read_model(nn.Linear(2, 3, bias=False, dtype=torch.bfloat16))
    target = held.target
    assert (target.name, target.aliases, target.shape, target.dtype) == ("weight", (), (3, 2), "BF16")


def test_a_dtype_that_safetensors_lacks_keeps_torchs_name() -> None:
    model = nn.Module()
    model.register_buffer("waves", torch.zeros(2, dtype=torch.complex128))
    assert read_model(model)[0].target.dtype == "complex128"


def test_a_module_registered_twice_is_one_module() -> None:
    inner = nn.Linear(2, 2)
    assert names(nn.ModuleDict({"a": inner, "b": inner})) == [
        ["a.weight", "b.weight"],
        ["a.bias", "b.bias"],
    ]


def test_tied_weights_are_one_tensor_with_both_its_modules() -> None:
    model = nn.ModuleDict({"a": nn.Linear(2, 2, bias=False), "b": nn.Linear(2, 2, bias=False)})
    model["b"].weight = model["a"].weight
    (held,) = read_model(model)
    assert held.names == ["a.weight", "b.weight"]
    assert [owner.path for owner in held.owners] == ["a.weight", "b.weight"]


@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_views_of_the_same_memory_are_one_tensor(device: str) -> None:
    memory = torch.zeros(2, 3, device=device)
    assert names(Pair(memory, memory.view(2, 3))) == [["a", "b"]]


def test_an_axis_of_length_one_may_have_any_stride() -> None:
    memory = torch.zeros(1, 3)
    assert names(Pair(memory, memory.as_strided((1, 3), (1, 1)))) == [["a", "b"]]


@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_parts_of_one_flat_buffer_are_separate_tensors(device: str) -> None:
    flat = torch.zeros(10, device=device)
    assert names(Pair(flat[:4].view(2, 2), flat[4:])) == [["a"], ["b"]]


@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_empty_tensors_are_never_the_same_unless_they_are(device: str) -> None:
    memory = torch.zeros(0, 3, device=device)
    assert names(Pair(memory, memory.view(0, 3))) == [["a"], ["b"]]
    model = Pair(memory, memory)
    model.b = model.a
    assert names(model) == [["a", "b"]]


@pytest.mark.parametrize("device", ["cpu", "meta"])
@pytest.mark.parametrize(
    "view",
    [
        lambda memory: (memory[:3], memory[1:]),
        lambda memory: (memory, memory[0]),
        lambda memory: (memory, memory.t()),
        lambda memory: (memory, memory.view(-1)),
        lambda memory: (memory.view(-1)[::5], memory[3, 3:]),
    ],
    ids=["shifted", "part", "transposed", "flattened", "strided"],
)
def test_tensors_that_share_some_memory_are_refused(
    view: Callable[[torch.Tensor], tuple[torch.Tensor, torch.Tensor]], device: str
) -> None:
    said = problems(Pair(*view(torch.zeros(4, 4, device=device))))
    assert list(said.values()) in (
        [f"it shares a part of its memory with {first}, as another view of it"] for first in "ab"
    )


def test_a_buffer_outside_the_state_dict_may_be_a_view_of_a_parameter() -> None:
    model = nn.Linear(2, 2, bias=False)
    model.register_buffer("flat", model.weight.detach().view(-1), persistent=False)
    assert names(model) == [["weight"], []]


@pytest.mark.parametrize(
    "tensor",
    [torch.zeros(1, 3).expand(2, 3), torch.zeros(6).as_strided((3, 3), (1, 1))],
    ids=["expanded", "strided"],
)
def test_a_tensor_whose_elements_share_a_place_is_refused(tensor: torch.Tensor) -> None:
    model = nn.Module()
    model.register_buffer("x", tensor)
    assert "share one place in memory" in problems(model)["x"]


@pytest.mark.parametrize("tensor", [torch.zeros(4, 6)[:, ::2], torch.zeros(2, 3).t(), torch.zeros(3)[1:]])
def test_strides_that_keep_elements_apart_are_fine(tensor: torch.Tensor) -> None:
    model = nn.Module()
    model.register_buffer("x", tensor)
    assert names(model) == [["x"]]


def test_lazy_modules_are_refused_with_what_to_do() -> None:
    said = problems(nn.LazyLinear(3))
    assert said["weight"] == "it has no shape yet; run one forward pass of the lazy module first"


def test_sparse_and_quantised_tensors_are_refused() -> None:
    model = nn.Module()
    model.register_buffer("sparse", torch.eye(2).to_sparse())
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*deprecated")
        packed = torch.quantize_per_tensor(torch.zeros(2), 0.1, 0, torch.qint8)
    model.register_buffer("packed", packed)
    said = problems(model)
    assert said == {
        "sparse": "it is torch.sparse_coo, not a plain tensor",
        "packed": "it is quantised, not a plain tensor",
    }


class Sharded(torch.Tensor):
    """A tensor that answers for itself: what it shows as its memory is not its values."""

    @staticmethod
    def __new__(cls) -> "Sharded":
        made = torch.Tensor._make_wrapper_subclass(cls, (2,))
        assert isinstance(made, Sharded)
        return made

    @classmethod
    def __torch_dispatch__(cls, *call: Any, **options: Any) -> Any:
        return NotImplemented


def test_a_sparse_buffer_outside_the_state_dict_is_not_looked_at() -> None:
    model = nn.Linear(2, 2, bias=False)
    model.register_buffer("sparse", torch.eye(2).to_sparse(), persistent=False)
    assert names(model) == [["weight"]]


def test_tensors_that_answer_for_themselves_are_refused() -> None:
    model = nn.Module()
    model._buffers["x"] = Sharded()
    assert problems(model) == {"x": "it is a Sharded, not a plain tensor"}


def test_a_state_dict_that_gives_copies_is_refused() -> None:
    class Copying(nn.Linear):
        def state_dict(self, **options: Any) -> Any:
            return {name: value.clone() for name, value in super().state_dict(**options).items()}

    assert list(problems(Copying(2, 2))) == ["weight", "bias"]
    assert "would not reach the model" in problems(Copying(2, 2))["weight"]


def test_what_is_no_tensor_in_the_state_dict_is_not_looked_at() -> None:
    class Counting(nn.Linear):
        def get_extra_state(self) -> dict[str, int]:
            return {"calls": 3}

    assert names(Counting(2, 2)) == [["weight"], ["bias"]]


def test_parametrized_weights_are_their_originals() -> None:
    model = parametrizations.weight_norm(nn.Conv1d(2, 3, 1, bias=False))
    assert names(model) == [["parametrizations.weight.original0"], ["parametrizations.weight.original1"]]


@pytest.mark.parametrize("model", [None, {}, nn.Linear, "model"], ids=str)
def test_what_is_no_module_is_refused(model: Any) -> None:
    assert "not a torch.nn.Module" in problems(model)["model"]


def test_reading_changes_nothing() -> None:
    model = nn.LSTM(2, 3)
    before = copy.deepcopy(model.state_dict())
    held: tuple[ModelTensor, ...] = read_model(model)
    assert all(one.tensor is getattr(model, one.names[0]) for one in held)
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())


def test_two_parameters_over_one_array_are_one_tensor() -> None:
    array = np.zeros(4, dtype=np.float32)
    model = nn.Module()
    model.one = nn.Parameter(torch.from_numpy(array))
    model.two = nn.Parameter(torch.from_numpy(array))
    (held,) = read_model(model)
    assert held.names == ["one", "two"]


def test_parameters_over_overlapping_parts_of_one_array_are_refused() -> None:
    array = np.zeros(6, dtype=np.float32)
    model = nn.Module()
    model.one = nn.Parameter(torch.from_numpy(array[:4]))
    model.two = nn.Parameter(torch.from_numpy(array[2:]))
    with pytest.raises(UnsupportedModel, match="shares a part of its memory"):
        read_model(model)

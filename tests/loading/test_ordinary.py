"""Models of which nothing is unusual, and everything that is."""

import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.nn.utils import parametrizations

from cosemzoo.errors import UnsupportedModel
from cosemzoo.loading import model_tensors
from cosemzoo.loading.model_tensors import read_model
from cosemzoo.loading.ordinary import ordinary_tensors

Summary = list[tuple[int, list[str], list[str]]]


def looked_at(model: nn.Module) -> Summary | str:
    try:
        tensors = read_model(model)
    except UnsupportedModel as error:
        return str(error)
    return [(id(one.tensor), one.names, [owner.path for owner in one.owners]) for one in tensors]


def carefully(model: nn.Module, monkeypatch: pytest.MonkeyPatch) -> Summary | str:
    with monkeypatch.context() as patched:
        patched.setattr(model_tensors, "ordinary_tensors", lambda _: None)
        return looked_at(model)


def net(*, device: str = "cpu") -> nn.Sequential:
    with torch.device(device):
        block = nn.Sequential(nn.Conv3d(1, 2, 3), nn.BatchNorm3d(2), nn.ReLU(), nn.GroupNorm(1, 2))
        return nn.Sequential(block, nn.ModuleDict({"head": nn.Conv3d(2, 3, 1, groups=1, bias=False)}))


ORDINARY: dict[str, Callable[[], nn.Module]] = {
    "a network": net,
    "a network on meta": lambda: net(device="meta"),
    "one layer": lambda: nn.Linear(2, 3),
    "nothing": nn.Module,
    "a recurrent layer": lambda: nn.LSTM(2, 3),
    "attention": lambda: nn.TransformerEncoderLayer(4, 2, 8),
    "half precision": lambda: net().half(),
    "weights in parts": lambda: parametrizations.weight_norm(nn.Linear(2, 2)),
    "a child that is none": lambda: nn.ModuleDict({"a": nn.Linear(1, 1), "b": None}),  # type: ignore[dict-item]
}


@pytest.mark.parametrize("make", ORDINARY.values(), ids=ORDINARY)
def test_what_is_ordinary_is_read_as_a_careful_look_reads_it(
    make: Callable[[], nn.Module], monkeypatch: pytest.MonkeyPatch
) -> None:
    model = make()
    assert ordinary_tensors(model) is not None
    assert looked_at(model) == carefully(model, monkeypatch)


def tied() -> nn.Module:
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    model[1].weight = model[0].weight
    return model


def twice() -> nn.Module:
    layer = nn.Linear(2, 2)
    return nn.ModuleList([layer, layer])


def holding(tensor: torch.Tensor, *more: torch.Tensor, persistent: bool = True) -> nn.Module:
    model = nn.Module()
    for number, one in enumerate([tensor, *more]):
        model.register_buffer(f"b{number}", one, persistent=persistent)
    return model


def overlapping() -> nn.Module:
    memory = torch.zeros(6)
    return holding(memory[:4], memory[3:])


def over_one_array() -> nn.Module:
    array = np.zeros(4, dtype=np.float32)
    return holding(torch.from_numpy(array), torch.from_numpy(array))


def views_on_meta() -> nn.Module:
    memory = torch.zeros(6, device="meta")
    return holding(memory[:3], memory[3:])


def quantised() -> nn.Module:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return holding(torch.quantize_per_tensor(torch.zeros(2), 1.0, 0, torch.qint8))


class Renaming(nn.Linear):
    def state_dict(self, *args: Any, **kwargs: Any) -> Any:
        return {f"my.{name}": values for name, values in super().state_dict(*args, **kwargs).items()}


class Copying(nn.Linear):
    def _save_to_state_dict(self, destination: Any, prefix: str, keep_vars: bool) -> None:
        super()._save_to_state_dict(destination, prefix, keep_vars)
        destination[f"{prefix}weight"] = self.weight.clone()


class Extra(nn.Linear):
    def get_extra_state(self) -> Any:
        return torch.zeros(2)


class Mine(torch.Tensor):
    pass


def in_its_own_words() -> nn.Module:
    model = nn.Linear(2, 2)
    model.state_dict = lambda **_: {"w": model.weight}  # type: ignore[method-assign, assignment]
    return model


def hooked(register: str) -> Callable[[], nn.Module]:
    def make() -> nn.Module:
        model = net()
        getattr(model, register)(lambda *_: None)
        return model

    return make


UNUSUAL: dict[str, Callable[[], nn.Module]] = {
    "a tensor twice": tied,
    "a module twice": twice,
    "overlapping memory": overlapping,
    "memory of one array": over_one_array,
    "views on meta": views_on_meta,
    "beside the state dict": lambda: holding(torch.zeros(2), persistent=False),
    "an empty tensor": lambda: holding(torch.zeros(0)),
    "an expanded tensor": lambda: holding(torch.zeros(1).expand(3)),
    "strides": lambda: holding(torch.zeros(2, 3).T),
    "several devices": lambda: holding(torch.zeros(2), torch.zeros(2, device="meta")),
    "sparse": lambda: holding(torch.zeros(2, 2).to_sparse()),
    "quantised": quantised,
    "a type of its own": lambda: holding(torch.zeros(2).as_subclass(Mine)),
    "not yet of a shape": lambda: nn.Sequential(nn.LazyLinear(2)),
    "a state dict of its own": lambda: nn.Sequential(Renaming(2, 2)),
    "copies in the state dict": lambda: nn.Sequential(Copying(2, 2)),
    "an extra state": lambda: nn.Sequential(Extra(2, 2)),
    "a state dict of one module": in_its_own_words,
    "a hook on the state dict": hooked("register_state_dict_post_hook"),
    "a hook before the state dict": hooked("register_state_dict_pre_hook"),
    "a hook after a load": hooked("register_load_state_dict_post_hook"),
    "spectral norm": lambda: torch.nn.utils.spectral_norm(nn.Linear(2, 2)),
}


@pytest.mark.parametrize("make", UNUSUAL.values(), ids=UNUSUAL)
def test_what_is_unusual_is_left_to_a_careful_look(
    make: Callable[[], nn.Module], monkeypatch: pytest.MonkeyPatch
) -> None:
    model = make()
    assert ordinary_tensors(model) is None
    assert looked_at(model) == carefully(model, monkeypatch)


def test_a_state_dict_that_somebody_changed_for_all_modules_is_unusual(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def mine(model: nn.Module) -> dict[str, Any]:
        return {"w": model}

    monkeypatch.setattr(nn.Module, "state_dict", mine)
    assert ordinary_tensors(net()) is None


pieces = st.recursive(
    st.sampled_from(["linear", "norm", "relu", "tied", "shared", "scratch", "view", "empty"]),
    lambda inner: st.lists(inner, max_size=3),
    max_leaves=8,
)


@given(pieces, st.sampled_from(["cpu", "meta"]))
def test_whatever_a_model_is_made_of_both_ways_agree(tree: Any, device: str) -> None:
    with torch.device(device):
        first = nn.Linear(2, 2)

        def build(piece: Any) -> nn.Module:
            if isinstance(piece, list):
                return nn.ModuleList([build(inner) for inner in piece])
            made: dict[str, Callable[[], nn.Module]] = {
                "linear": lambda: nn.Linear(2, 2),
                "norm": lambda: nn.BatchNorm1d(2),
                "relu": nn.ReLU,
                "shared": lambda: first,
                "scratch": lambda: holding(torch.zeros(2), persistent=False),
                "view": lambda: holding(first.weight.detach()[1:]),
                "empty": lambda: holding(torch.zeros(0, 2)),
            }
            if piece == "tied":
                layer = nn.Linear(2, 2)
                layer.weight = first.weight
                return layer
            return made[piece]()

        model = nn.ModuleList([first, build(tree)])
    with pytest.MonkeyPatch.context() as monkeypatch:
        expected = carefully(model, monkeypatch)
    assert looked_at(model) == expected

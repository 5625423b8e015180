"""A network on `meta` is given the mapped tensors themselves, or copies of them."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from cosemzoo.checkpoints.mapped import MappedWeights
from cosemzoo.errors import AliasConflict
from cosemzoo.loading.assign import assign_plan
from cosemzoo.loading.model_tensors import read_model
from cosemzoo.loading.planner import make_plan
from cosemzoo.zoo import Zoo

Save = Callable[..., Path]

CPU = torch.device("cpu")
HEAD = ["head.weight", "head.bias"]


def net(rows: int = 3) -> nn.ModuleDict:
    model = nn.ModuleDict({"conv": nn.Conv1d(2, 4, 3), "norm": nn.BatchNorm1d(4), "head": nn.Linear(4, rows)})
    model["again"] = model["conv"]
    return model


def assign(model: nn.Module, folder: Path, new_head: Any = None, **options: Any) -> None:
    zoo = Zoo(offline=True)
    checkpoint = zoo.resolve(folder)
    held = read_model(model)
    plan = make_plan([one.target for one in held], checkpoint.weights, checkpoint.manifest, new_head=new_head)
    weights = MappedWeights(checkpoint.weights, zoo.fetch(checkpoint))
    assign_plan(plan, held, weights, **{"device": CPU, "share": True, **options})


def on_meta(rows: int = 3, dtype: torch.dtype = torch.float32) -> nn.ModuleDict:
    with torch.device("meta"):
        return net(rows).to(dtype)


@pytest.fixture
def unread(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the file be one that cannot be read."""

    def fail(_: MappedWeights) -> None:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(MappedWeights, "read_ahead", fail)


@pytest.mark.parametrize("share", [True, False])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_every_tensor_has_its_values_and_ties_stay_ties(dtype: torch.dtype, share: bool, save: Save) -> None:
    source, model = net(), on_meta(dtype=dtype)
    source["norm"].num_batches_tracked.fill_(7)  # type: ignore[operator]
    assign(model, save(source.state_dict()), share=share)
    for name, value in source.state_dict().items():
        assert torch.equal(model.state_dict()[name], value.to(model.state_dict()[name].dtype)), name
    assert model["again"] is model["conv"]
    assert {name for name, _ in model.named_parameters()} == {name for name, _ in source.named_parameters()}


@pytest.mark.parametrize("share", [True, False])
@pytest.mark.parametrize("new_head", [None, ["c", "new"]])
def test_a_network_that_is_made_in_inference_mode_can_be_trained(
    new_head: Any, share: bool, save: Save
) -> None:
    folder = save(net().state_dict(), ["a", "b", "c"], HEAD)
    with torch.inference_mode():
        model = on_meta(2 if new_head else 3)
        assign(model, folder, new_head, share=share)
    assert not any(tensor.is_inference() for tensor in model.state_dict(keep_vars=True).values())
    model["head"](torch.ones(1, 4)).sum().backward()
    assert all(parameter.grad is not None for parameter in model["head"].parameters())


@pytest.mark.parametrize("share", [True, False])
def test_names_of_one_tensor_that_differ_in_the_file_are_refused(share: bool, save: Save) -> None:
    state = {name: value.clone() for name, value in net().state_dict().items()}
    state["again.bias"][2] = 42.0
    with pytest.raises(AliasConflict, match=r"again\.bias and conv\.bias differ: at \[2\]: 42\.0"):
        assign(on_meta(), save(state), share=share)


@pytest.mark.usefixtures("unread")
@pytest.mark.parametrize(
    ("dtype", "options"),
    [
        (torch.float32, {"share": False}),
        (torch.float64, {}),
        (torch.float32, {"device": torch.device("meta")}),
    ],
    ids=["copy", "dtype", "device"],
)
def test_what_is_copied_and_cannot_be_read_is_an_error(dtype: torch.dtype, options: Any, save: Save) -> None:
    model = on_meta(dtype=dtype)
    with pytest.raises(OSError, match="Input/output error"):
        assign(model, save(net().state_dict()), **options)
    assert all(tensor.is_meta for tensor in model.state_dict().values())


@pytest.mark.usefixtures("unread")
@pytest.mark.parametrize("new_head", [None, ["c", "new"]])
def test_what_is_shared_is_not_read(new_head: Any, save: Save) -> None:
    source, model = net(), on_meta(2 if new_head else 3)
    assign(model, save(source.state_dict(), ["a", "b", "c"], HEAD), new_head)
    assert torch.equal(model["head"].weight[0], source["head"].weight[2 if new_head else 0])  # type: ignore[index]


def test_a_generator_leaves_the_random_numbers_of_every_device(
    save: Save, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = save(net().state_dict(), ["a", "b", "c"], HEAD)
    monkeypatch.setattr(torch.cuda, "manual_seed_all", lambda _: pytest.fail("the GPUs were seeded"))
    before = torch.get_rng_state()
    drawn = []
    for _ in range(2):
        model = on_meta(2)
        assign(model, folder, ["c", "new"], generator=torch.Generator().manual_seed(1))
        drawn.append(model["head"].weight)
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(*drawn)  # type: ignore[arg-type]

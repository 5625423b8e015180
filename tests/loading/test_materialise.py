import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations

from cosemzoo.errors import MetaTensorsLeft, UnsupportedModel
from cosemzoo.loading.report import LoadReport

Save = Callable[..., Path]
Load = Callable[..., LoadReport]
StateOf = Callable[[nn.Module], Any]


def net() -> Any:
    return nn.Sequential(nn.Conv1d(2, 4, 3), nn.BatchNorm1d(4), nn.LSTM(4, 5), nn.Linear(5, 3))


def on_meta(make: Callable[[], Any]) -> Any:
    with torch.device("meta"):
        return make()


def equal(one: nn.Module, other: nn.Module) -> bool:
    ours, theirs = one.state_dict(), other.state_dict()
    return list(ours) == list(theirs) and all(torch.equal(ours[name], theirs[name]) for name in ours)


def without(model: nn.Module, *parts: str) -> dict[str, torch.Tensor]:
    return {
        name: value for name, value in model.state_dict().items() if not any(part in name for part in parts)
    }


def test_a_model_on_meta_is_filled_and_runs(save: Save, load: Load) -> None:
    source, model = net(), on_meta(net)
    source[1].num_batches_tracked.fill_(7)
    report = load(model, save(source.state_dict()), strict="require")
    assert report.outcome == "strict"
    assert equal(model, source)
    series = torch.rand(6, 4)
    assert torch.equal(model[2](series)[0], source[2](series)[0])
    assert torch.equal(model.eval()[:2](torch.ones(1, 2, 5)), source.eval()[:2](torch.ones(1, 2, 5)))


def test_it_is_filled_within_the_context_that_made_it_too(save: Save, load: Load) -> None:
    source = net()
    folder = save(source.state_dict())
    with torch.device("meta"):
        model = net()
        load(model, folder)
        real = net()
    load(real, folder)
    assert equal(model, source)
    assert equal(real, source)


def test_a_model_that_is_on_meta_in_part_keeps_the_rest_where_it_is(save: Save, load: Load) -> None:
    source, model = net(), net()
    model[0] = on_meta(lambda: nn.Conv1d(2, 4, 3))
    kept = model[3].weight
    load(model, save(source.state_dict()))
    assert equal(model, source)
    assert model[3].weight is kept


@pytest.mark.parametrize("context", [torch.inference_mode, torch.no_grad, torch.enable_grad])
def test_it_is_filled_whatever_the_mode(context: Callable[[], Any], save: Save, load: Load) -> None:
    source, model = net(), on_meta(net)
    folder = save(source.state_dict())
    with context():
        load(model, folder)
    assert equal(model, source)


def test_dtype_strides_requires_grad_and_attributes_stay(save: Save, load: Load) -> None:
    source = nn.Conv2d(4, 4, 3)
    model = on_meta(lambda: nn.Conv2d(4, 4, 3, dtype=torch.float16).to(memory_format=torch.channels_last))  # type: ignore[call-overload]
    model.bias.requires_grad_(False)
    model.weight.tensor_parallel = True
    strides = model.weight.stride()
    load(model, save(source.state_dict()))
    assert model.weight.stride() == strides != source.weight.stride()
    assert model.weight.tensor_parallel is True
    assert (model.weight.requires_grad, model.bias.requires_grad) == (True, False)
    assert isinstance(model.weight, nn.Parameter)
    assert torch.equal(model.weight, source.weight.half())


def test_ties_stay_ties(save: Save, load: Load) -> None:
    def tied() -> nn.ModuleDict:
        shared = nn.Linear(2, 2)
        model = nn.ModuleDict({"a": shared, "b": shared, "c": nn.Linear(2, 2)})
        model["c"].weight = shared.weight
        return model

    source, model = tied(), on_meta(tied)
    load(model, save(source.state_dict()))
    assert equal(model, source)
    assert model["a"].weight is model["b"].weight is model["c"].weight
    assert model["c"].bias is not model["a"].bias


def test_buffers_stay_buffers_and_persistent_or_not(save: Save, load: Load) -> None:
    class Buffers(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.new = nn.Buffer(torch.ones(2))
            self.register_buffer("old", torch.ones(3))

    source, model = Buffers(), on_meta(Buffers)
    load(model, save(source.state_dict()))
    assert equal(model, source)
    assert [name for name, _ in model.named_buffers()] == ["new", "old"]
    assert list(model.parameters()) == []


def test_tensors_without_a_source_are_initialised_by_their_module(save: Save, load: Load) -> None:
    source, model = net(), on_meta(net)
    report = load(model, save(without(source, "1.", "ih")), min_coverage=0.4)
    assert [row.name for row in report.missing] == [
        "1.weight", "1.bias", "1.running_mean", "1.running_var", "1.num_batches_tracked",
        "2.weight_ih_l0", "2.bias_ih_l0",
    ]  # fmt: skip
    assert equal(model[1], nn.BatchNorm1d(4))
    assert model[2].weight_ih_l0.isfinite().all()
    assert 0 < model[2].weight_ih_l0.abs().max() <= 5**-0.5
    assert torch.equal(model[2].weight_hh_l0, source[2].weight_hh_l0)
    assert torch.equal(model[0].weight, source[0].weight)


def test_initialising_draws_from_the_random_state_as_torch_does(save: Save, load: Load) -> None:
    folder = save(without(net(), "3."))
    models = [on_meta(net) for _ in range(2)]
    for model in models:
        torch.manual_seed(3)
        load(model, folder)
    assert equal(models[0], models[1])
    torch.manual_seed(3)
    assert torch.equal(models[0][3].weight, nn.Linear(5, 3).weight)


def test_head_rows_without_a_source_are_initialised_and_the_others_filled(save: Save, load: Load) -> None:
    source, model = nn.Linear(4, 3), on_meta(lambda: nn.Linear(4, 4))
    load(
        model,
        save(source.state_dict(), ["a", "b", "c"], ["weight", "bias"]),
        new_head=["c", "new", "a", "b"],
    )
    assert torch.equal(model.weight[[0, 2, 3]], source.weight[[2, 0, 1]])
    assert torch.equal(model.bias[[0, 2, 3]], source.bias[[2, 0, 1]])
    assert model.weight.isfinite().all()
    assert 0 < model.weight[1].abs().max() <= 0.5


def test_a_module_that_resets_its_children_does_not_touch_what_is_loaded(save: Save, load: Load) -> None:
    class Parent(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.child = nn.Linear(2, 2)
            self.scale = nn.Parameter(torch.empty(2))
            self.reset_parameters()

        def reset_parameters(self) -> None:
            nn.init.ones_(self.scale)
            nn.init.zeros_(self.child.weight)
            nn.init.zeros_(self.child.bias)

    source, model = Parent(), on_meta(Parent)
    nn.init.normal_(source.child.weight)
    model.child.bias = nn.Parameter(torch.full((2,), 5.0))
    load(model, save(without(source, "scale", "bias")), min_coverage=0.1)
    assert torch.equal(model.child.weight, source.child.weight)
    assert model.child.bias.tolist() == [5.0, 5.0]
    assert model.scale.tolist() == [1.0, 1.0]


class Silent(nn.Module):
    """A parameter that nothing initialises."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(2))
        self.linear = nn.Linear(2, 2)


class Forgetful(Silent):
    """One that its `reset_parameters` forgets."""

    def reset_parameters(self) -> None:
        self.linear.reset_parameters()


class Halfway(Silent):
    """One that its `reset_parameters` fills in part."""

    def reset_parameters(self) -> None:
        with torch.no_grad():
            self.scale[0] = 1.0


class Flagged(nn.Linear):
    """A flag: whether its values were set cannot be seen from them."""

    def __init__(self) -> None:
        super().__init__(2, 2)
        self.register_buffer("flag", torch.zeros(2, dtype=torch.bool))


class Passing(nn.Linear):
    """A buffer that is not in the state dict, so that no checkpoint fills it."""

    def __init__(self) -> None:
        super().__init__(2, 2)
        self.register_buffer("table", torch.ones(3), persistent=False)


@pytest.mark.parametrize(
    ("make", "missing", "said"),
    [
        (Silent, "scale", "has no reset_parameters"),
        (Forgetful, "scale", "does not fill it"),
        (Halfway, "scale", "does not fill it"),
        (Flagged, "flag", "does not fill it"),
        (Passing, "table", "does not fill it"),
        (lambda: parametrizations.weight_norm(nn.Linear(2, 2)), "original0", "has no reset_parameters"),
    ],
)
def test_what_nothing_fills_is_refused_and_the_model_stays_on_meta(
    make: Callable[[], nn.Module], missing: str, said: str, *, save: Save, load: Load, state_of: StateOf
) -> None:
    model = on_meta(lambda: nn.Sequential(nn.Linear(2, 2), make()))
    # Also the one that is initialised before the refusal.
    folder = save(without(nn.Sequential(nn.Linear(2, 2), make()), missing, "0.weight"))
    before = state_of(model)
    with pytest.raises(MetaTensorsLeft) as caught:
        load(model, folder, min_coverage=0.1)
    ((name, why),) = caught.value.problems
    assert name.endswith(missing)
    assert said in why
    assert state_of(model) == before


def test_every_tensor_that_nothing_fills_is_named(save: Save, load: Load) -> None:
    model = on_meta(lambda: nn.Sequential(Silent(), Passing(), Silent()))
    with pytest.raises(MetaTensorsLeft) as caught:
        load(model, save(without(nn.Sequential(Silent(), Passing(), Silent()), "scale")))
    assert [name for name, _ in caught.value.problems] == ["0.scale", "2.scale", "1.table"]


def test_a_buffer_outside_the_state_dict_is_filled_by_its_module(save: Save, load: Load) -> None:
    class Positions(Passing):
        def reset_parameters(self) -> None:
            super().reset_parameters()
            if hasattr(self, "table"):
                self.get_buffer("table").fill_(4.0)

    model = on_meta(Positions)
    load(model, save(Positions().state_dict()))
    assert model.table.tolist() == [4.0, 4.0, 4.0]


def test_a_module_that_cannot_be_copied_is_refused_like_others(save: Save, load: Load) -> None:
    class Locked(nn.Linear):
        def __init__(self) -> None:
            super().__init__(2, 2)
            self.generator = (number for number in range(3))

    model = on_meta(Locked)
    with pytest.raises(MetaTensorsLeft, match="cannot be copied to reset it"):
        load(model, save(without(Locked(), "bias")))


def test_parameters_of_a_class_of_their_own_cannot_be_made_anew(
    save: Save, load: Load, state_of: StateOf
) -> None:
    class Special(nn.Parameter):
        pass

    model = on_meta(lambda: nn.Linear(2, 2))
    model.weight = Special(torch.empty(2, 2, device="meta"))
    folder = save(nn.Linear(2, 2).state_dict())
    before = state_of(model)
    with pytest.raises(UnsupportedModel, match="weight: on meta, and a Special"):
        load(model, folder)
    assert state_of(model) == before


def test_a_module_that_refuses_a_tensor_keeps_all_it_had(save: Save, load: Load, state_of: StateOf) -> None:
    class Guarded(nn.Linear):
        refuses = False

        def __setattr__(self, name: str, value: Any) -> None:
            if self.refuses and name == "bias" and not value.is_meta:
                raise RuntimeError("not mine")
            super().__setattr__(name, value)

    source, model = (
        nn.Sequential(nn.LSTM(2, 2), Guarded(2, 2)),
        on_meta(lambda: nn.Sequential(nn.LSTM(2, 2), Guarded(2, 2))),
    )
    model[1].refuses = True
    before, flat = state_of(model), list(model[0]._flat_weights)
    with pytest.raises(RuntimeError, match="not mine"):
        load(model, save(source.state_dict()))
    assert state_of(model) == before
    assert all(now is then for now, then in zip(model[0]._flat_weights, flat, strict=True))


def test_the_source_is_not_kept_by_the_model(save: Save, load: Load) -> None:
    source, model = net(), on_meta(net)
    folder = save(source.state_dict())
    load(model, folder)
    with torch.no_grad():
        model[0].weight.zero_()
    again = on_meta(net)
    load(again, folder)
    assert equal(again, source)
    assert copy.deepcopy(again[0].weight).untyped_storage().nbytes() == source[0].weight.nbytes


def test_a_model_on_meta_is_trainable_though_it_was_filled_in_inference_mode(save: Save, load: Load) -> None:
    source = nn.Sequential(nn.Linear(2, 3))
    folder = save(source.state_dict())
    with torch.device("meta"):
        model = nn.Sequential(nn.Linear(2, 3))
    with torch.inference_mode():
        load(model, folder)
    model(torch.ones(1, 2)).sum().backward()
    assert model[0].weight.grad is not None


def test_a_reset_that_fails_is_said_and_the_model_stays(save: Save, load: Load) -> None:
    class Failing(nn.Linear):
        def reset_parameters(self) -> None:
            raise KeyError("mode")

    source = nn.Sequential(nn.Linear(2, 3))
    with torch.device("meta"):
        model = nn.Sequential(nn.Linear(2, 3))
        model.append(Failing.__new__(Failing))
        nn.Module.__init__(model[1])
        model[1].weight = nn.Parameter(torch.empty(1))
    with pytest.raises(MetaTensorsLeft, match=r"reset_parameters that fails \(KeyError\('mode'\)\)"):
        load(model, save(source.state_dict()))
    assert model[0].weight.is_meta


def test_a_tied_tensor_is_initialised_by_whichever_of_its_modules_can(save: Save, load: Load) -> None:
    with torch.device("meta"):
        model = nn.Module()
        model.extra = nn.Module()
        model.line = nn.Linear(2, 3)
        model.body = nn.Linear(4, 4)
        model.extra.weight = model.line.weight
    source = nn.Module()
    source.body = nn.Linear(4, 4)
    load(model, save(source.state_dict()), min_coverage=0)
    assert model.extra.weight is model.line.weight
    assert torch.isfinite(model.line.weight).all()

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pytest

from cosemzoo.checkpoints.shards import WeightsTable
from cosemzoo.errors import AliasConflict, StrictLoadFailed
from cosemzoo.loading.pairing import TargetTensor
from cosemzoo.loading.plan import LoadPlan
from cosemzoo.loading.planner import make_plan
from cosemzoo.loading.prefixes import pair_tensors
from cosemzoo.manifest import Channel, HeadTensor, Manifest

Table = Callable[..., WeightsTable]
#: Every tensor's names, and its shape.
Named = Mapping[Any, Sequence[int]]

LABELS = ("a", "b", "c")
SHAPES = {"0.weight": (4, 2), "0.bias": (4,), "1.weight": (4, 4)}
HEAD = {"weight": (3, 4), "bias": (3,)}

#: (prefixes of the backbone, prefixes of the head)
SCHEMES: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "cellmap-models": (("backbone.",), ("prediction_head.",)),
    "cellmap-models before 2024-03": (("unet.",), ("prediction_head.",)),
    "dacapo 0.3": (("architecture.unet.", "chain.0.unet."), ("prediction_head.", "chain.1.")),
    "dacapo main": (("chain.0.",), ("prediction_head.", "chain.1.")),
}


def groups(scheme: str, wrapper: str = "") -> dict[tuple[str, ...], tuple[int, ...]]:
    """Give every tensor's names in a scheme, and its shape."""
    backbone, head = SCHEMES[scheme]
    return {
        tuple(wrapper + prefix + name for prefix in prefixes): shape
        for prefixes, shapes in ((backbone, SHAPES), (head, HEAD))
        for name, shape in shapes.items()
    }


def model(named: Named) -> list[TargetTensor]:
    return [TargetTensor(names[0], names[1:], tuple(shape), "F32") for names, shape in named.items()]


def stored(table: Table, named: Named, *, collapsed: bool = True) -> WeightsTable:
    if collapsed:
        aliases = {alias: names[0] for names in named for alias in names[1:]}
        return table({names[0]: shape for names, shape in named.items()}, aliases)
    return table({name: shape for names, shape in named.items() for name in names})


def manifest(head: str = "prediction_head", layout: str | None = None) -> Manifest:
    return Manifest(
        run="setup04",
        channels=tuple(Channel(label, "distance") for label in LABELS),
        head=(HeadTensor(f"{head}.weight"), HeadTensor(f"{head}.bias")),
        layout=layout,
    )


def plan(
    targets: Sequence[TargetTensor], weights: WeightsTable, about: Manifest | None, **options: Any
) -> LoadPlan:
    return make_plan(targets, weights, about, **{"new_head": LABELS, **options})


@pytest.mark.parametrize("collapsed", [True, False], ids=["collapsed", "duplicated"])
@pytest.mark.parametrize("target", SCHEMES)
@pytest.mark.parametrize("source", SCHEMES)
def test_every_layout_loads_strictly_into_every_other(
    source: str, target: str, *, collapsed: bool, table: Table
) -> None:
    made = plan(model(groups(target)), stored(table, groups(source), collapsed=collapsed), manifest())
    assert made.outcome == "strict"
    assert made.coverage.fraction == 1
    assert [row.source_row for row in made.channels] == [0, 1, 2]
    if source != target:
        assert (made.source_layout, made.model_layout) == (source, target)


@pytest.mark.parametrize("declared", [*SCHEMES, "unheard of"])
def test_a_declared_layout_that_is_wrong_does_no_harm(declared: str, table: Table) -> None:
    weights = stored(table, groups("dacapo 0.3"), collapsed=False)
    assert plan(model(groups("dacapo 0.3")), weights, manifest(layout=declared)).outcome == "strict"


@pytest.mark.parametrize("wrapper", ["module.", "_orig_mod.", "module._orig_mod."])
def test_wrappers_on_either_side_are_looked_through(wrapper: str, table: Table) -> None:
    plain, wrapped = groups("cellmap-models"), groups("cellmap-models", wrapper)
    assert plan(model(wrapped), stored(table, plain), manifest()).outcome == "strict"
    weights = stored(table, wrapped)
    assert plan(model(plain), weights, manifest(f"{wrapper}prediction_head")).outcome == "strict"
    assert plan(model(wrapped), weights, manifest(f"{wrapper}prediction_head")).outcome == "strict"


def test_a_wrapped_model_takes_the_name_of_its_head_with_or_without_the_wrapper(table: Table) -> None:
    targets, weights = model(groups("cellmap-models", "module.")), stored(table, groups("cellmap-models"))
    for head in ("prediction_head", "module.prediction_head"):
        assert plan(targets, weights, manifest(), head=head).outcome == "strict"


@pytest.mark.parametrize("collapsed", [True, False], ids=["collapsed", "duplicated"])
@pytest.mark.parametrize("head", ["prediction_head", "chain.1"])
@pytest.mark.parametrize("kept", [0, 1])
def test_a_model_with_one_of_the_two_names_uses_both_and_its_head_goes_by_label(
    kept: int, head: str, *, collapsed: bool, table: Table
) -> None:
    single = {(names[kept],): shape for names, shape in groups("dacapo 0.3").items()}
    weights = stored(table, groups("dacapo 0.3"), collapsed=collapsed)
    assert plan(model(single), weights, manifest(head)).outcome == "strict"
    made = plan(model(single), weights, manifest(head), new_head=["c", "b", "a"])
    assert [row.source_row for row in made.channels] == [2, 1, 0]
    assert made.unused == ()
    assumed = plan(model(single), weights, manifest(head), new_head=None)
    assert {row.status for row in assumed.channels} == {"assumed"}


@pytest.mark.parametrize("scheme", ["dacapo 0.3", "dacapo main"])
def test_a_model_whose_two_names_are_two_tensors_gets_both(scheme: str, table: Table) -> None:
    separate = {(name,): shape for names, shape in groups(scheme).items() for name in names}
    made = plan(model(separate), stored(table, groups(scheme), collapsed=False), manifest())
    assert made.outcome == "strict"
    assert made.coverage.fraction == 1
    assert made.equal == ()


def test_stored_names_of_one_tensor_are_compared(table: Table) -> None:
    made = plan(
        model(groups("cellmap-models")), stored(table, groups("dacapo main"), collapsed=False), manifest()
    )
    assert made.equal == (
        ("prediction_head.weight", "chain.1.weight"),
        ("prediction_head.bias", "chain.1.bias"),
    )


@pytest.mark.parametrize("head", [None, "out"])
def test_stored_names_of_one_tensor_have_one_shape(head: str | None, table: Table) -> None:
    named = (
        groups("dacapo main") if head is None else {("chain.0.0.weight",): (4, 2), ("out.weight",): (3, 4)}
    )
    weights = table({"chain.0.0.weight": (4, 2), "prediction_head.weight": (3, 4), "chain.1.weight": (3, 5)})
    about = Manifest(
        run="setup04",
        channels=tuple(Channel(label, "distance") for label in LABELS),
        head=(HeadTensor("prediction_head.weight"), HeadTensor("chain.1.weight")),
    )
    with pytest.raises(
        AliasConflict, match=r"chain.1.weight and prediction_head.weight|prediction_head.weight and"
    ):
        plan(model(named), weights, about, head=head)


def test_names_that_agree_as_they_are_are_not_translated(table: Table) -> None:
    named = {("unet.weight",): (2, 2), ("backbone.weight",): (3, 3), ("other",): (1,)}
    made = plan(model(named), stored(table, named), None, new_head=None)
    assert made.outcome == "strict"
    assert {(copy.source, copy.target) for copy in made.copies} == {(name, name) for (name,) in named}


def test_strict_names_every_difference(table: Table) -> None:
    targets = model({("same",): (2,), ("shape",): (2,), ("missing",): (2,)})
    made = plan(
        targets, table({"same": (2,), "shape": (3,), "extra": (1,)}), None, new_head=None, strict="require"
    )
    with pytest.raises(StrictLoadFailed) as caught:
        made.check()
    assert caught.value.problems == (
        "shape: shape [3] in the checkpoint, [2] in the model",
        "missing: not in the checkpoint",
        "extra [1]: in the checkpoint only",
        "shape [3]: in the checkpoint only",
    )


def test_every_stored_name_of_a_mismatched_tensor_says_why_it_is_unused(table: Table) -> None:
    weights = table({"chain.0.weight": (2,), "prediction_head.weight": (3, 4), "chain.1.weight": (3, 4)})
    targets = model({("backbone.weight",): (2,), ("prediction_head.weight",): (5, 4)})
    made = plan(targets, weights, None, new_head=None)
    assert [(one.name, "in the model" in one.reason) for one in made.unused] == [
        ("chain.1.weight", True),
        ("prediction_head.weight", True),
    ]


def test_the_order_of_the_names_in_the_file_does_not_matter(table: Table) -> None:
    named = groups("dacapo 0.3")
    shapes = {name: shape for names, shape in named.items() for name in names}
    one = table(shapes)
    other = table(dict(reversed(shapes.items())))
    targets = model(groups("cellmap-models"))
    first, second = (pair_tensors(targets, weights, None) for weights in (one, other))
    assert first.names == second.names
    assert all(len(names) == 2 for names in first.names.values())
    assert make_plan(targets, one, manifest()) == make_plan(targets, other, manifest())

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pytest
from attrs import evolve
from hypothesis import given
from hypothesis import strategies as st

from cosemzoo.checkpoints.entries import TensorEntry
from cosemzoo.checkpoints.shards import StoredTensor, WeightsTable
from cosemzoo.errors import AmbiguousNames, CoverageTooLow, InvalidRename
from cosemzoo.loading.account import PrefixChange
from cosemzoo.loading.layouts import LAYOUTS, common_prefixes, has_inner_wrappers, without_inner_wrappers
from cosemzoo.loading.pairing import TargetTensor
from cosemzoo.loading.plan import LoadPlan
from cosemzoo.loading.planner import make_plan
from cosemzoo.manifest import Channel, HeadTensor, Manifest

Table = Callable[..., WeightsTable]

BODY = {"0.weight": (4, 2), "0.bias": (4,), "1.weight": (4, 4)}
HEAD = {"weight": (3, 4), "bias": (3,)}
LABELS = ("a", "b", "c")


def shapes(backbone: str, head: str | None = "prediction_head.") -> dict[str, tuple[int, ...]]:
    named = {backbone + name: shape for name, shape in BODY.items()}
    return named | ({} if head is None else {head + name: shape for name, shape in HEAD.items()})


def model(named: Mapping[str, Sequence[int]]) -> list[TargetTensor]:
    return [TargetTensor(name, (), tuple(shape), "F32") for name, shape in named.items()]


MANIFEST = Manifest(
    run="setup04",
    channels=tuple(Channel(label, "distance") for label in LABELS),
    head=(HeadTensor("prediction_head.weight"), HeadTensor("prediction_head.bias")),
)


def plan(table: Table, source: Mapping[str, Any], target: Mapping[str, Any], **options: Any) -> LoadPlan:
    return make_plan(model(target), table(source), MANIFEST, **{"new_head": LABELS, **options})


@pytest.mark.parametrize("wrapper", ["net.", "model.", "net.model.", "module.net.", "lightning.inner.net."])
def test_what_stands_before_every_name_of_one_side_is_left_out_and_reported(
    wrapper: str, table: Table
) -> None:
    plain, wrapped = shapes("backbone."), shapes(f"{wrapper}backbone.", f"{wrapper}prediction_head.")
    made = plan(table, plain, wrapped)
    assert made.outcome == "strict"
    assert made.prefixes == (PrefixChange("", wrapper, "wrapper"),)
    assert wrapper in str(made)


def test_a_wrapped_model_of_another_layout_is_translated(table: Table) -> None:
    made = plan(table, shapes("backbone."), shapes("net.chain.0.", "net.prediction_head."))
    assert made.outcome == "strict"
    assert (made.source_layout, made.model_layout) == ("cellmap-models", "dacapo main")


@pytest.mark.parametrize(
    "inner", ["_orig_mod.", "_fsdp_wrapped_module.", "_checkpoint_wrapped_module.", "base_layer."]
)
def test_wrappers_of_inner_modules_are_looked_through(inner: str, table: Table) -> None:
    named = {
        f"backbone.0.{inner}weight": (4, 2),
        f"backbone.0.{inner}bias": (4,),
        "backbone.1.weight": (4, 4),
    }
    named |= {f"prediction_head.{inner}{name}": shape for name, shape in HEAD.items()}
    assert plan(table, shapes("backbone."), named).outcome == "strict"


def test_wrapped_names_that_would_become_the_same_stay_apart(table: Table) -> None:
    named = {"a.weight": (2, 2), "a.base_layer.weight": (2, 2)}
    assert not has_inner_wrappers(named)
    made = make_plan(model(named), table({"a.weight": (2, 2)}), None)
    assert [(copy.source, copy.target) for copy in made.copies] == [("a.weight", "a.weight")]


def test_only_whole_parts_of_a_name_are_wrappers() -> None:
    assert without_inner_wrappers("my_base_layer.weight") == "my_base_layer.weight"
    assert without_inner_wrappers("a._orig_mod.base_layer.weight") == "a.weight"


@pytest.mark.parametrize("target", ["", "encoder.", "net.unet.body."])
def test_an_unknown_prefix_is_inferred_where_only_one_fits_and_is_said(target: str, table: Table) -> None:
    made = plan(table, shapes("backbone."), {**shapes(target, None), "out.weight": (3, 4)}, head="out")
    assert made.coverage.fraction == 1
    assert made.prefixes == (PrefixChange("backbone.", target, "inferred"),)
    assert made.outcome == "partial"
    assert any("inferred" in difference for difference in made.differences)


@pytest.mark.parametrize("layout", LAYOUTS, ids=lambda layout: layout.name)
def test_every_layout_loads_into_the_bare_backbone(layout: Any, table: Table) -> None:
    source = {prefix + name: shape for prefix in layout.backbone for name, shape in BODY.items()}
    source |= {f"prediction_head.{name}": shape for name, shape in HEAD.items()}
    made = plan(table, source, shapes("", None), new_head=None)
    assert made.coverage.fraction == 1
    assert made.coverage.all_tensors == len(BODY)


def test_the_bare_backbone_loads_into_every_layout(table: Table) -> None:
    for layout in LAYOUTS:
        made = make_plan(model(shapes(layout.backbone[0])), table(shapes("", None)), None)
        assert made.coverage.tensors == len(BODY)


def test_two_parts_that_fit_are_an_error_that_names_both(table: Table) -> None:
    twins = shapes("left.", None) | shapes("right.", None)
    with pytest.raises(AmbiguousNames) as caught:
        plan(table, shapes("backbone."), twins, new_head=None)
    assert caught.value.prefix == "backbone."
    assert caught.value.candidates == ("left.", "right.")
    assert "rename={'backbone.': 'left.'}" in str(caught.value)
    made = plan(table, shapes("backbone."), twins, new_head=None, rename={"backbone.": "right."})
    assert {copy.target for copy in made.copies} == {f"right.{name}" for name in BODY}


@pytest.mark.parametrize("layout", LAYOUTS, ids=lambda layout: layout.name)
@pytest.mark.parametrize("wrapper", ["", "module."])
def test_the_rule_that_an_ambiguity_names_can_be_typed(layout: Any, wrapper: str, table: Table) -> None:
    source = {wrapper + prefix + name: shape for prefix in layout.backbone for name, shape in BODY.items()}
    targets = model(shapes("left.", None) | shapes("right.", None))
    with pytest.raises(AmbiguousNames) as caught:
        make_plan(targets, table(source), None)
    made = make_plan(targets, table(source), None, rename={caught.value.prefix: "right."})
    assert {copy.target for copy in made.copies} == {f"right.{name}" for name in BODY}


def test_two_names_of_one_tensor_may_both_be_renamed_to_it(table: Table) -> None:
    source = shapes("architecture.unet.", None) | shapes("chain.0.unet.", None)
    both = {"architecture.unet.": "enc.", "chain.0.unet.": "enc."}
    for rename in (both, {"architecture.unet.": "enc."}):
        made = make_plan(model(shapes("enc.", None)), table(source), None, rename=rename)
        assert made.coverage.fraction == 1
        assert len(made.equal) == len(BODY)
        assert made.unused == ()


def test_a_rule_whose_names_all_have_a_longer_one_is_no_mistake(table: Table) -> None:
    rename = {"a.": "x.", "a.b.": "y."}
    made = make_plan(model({"y.weight": (2,)}), table({"a.b.weight": (2,)}), None, rename=rename)
    assert made.outcome == "strict"


def test_a_layout_that_is_declared_wrongly_does_no_harm_to_a_translation(table: Table) -> None:
    wrong = evolve(MANIFEST, layout="cellmap-models")
    source = shapes("architecture.unet.", "prediction_head.")
    made = make_plan(model(shapes("backbone.")), table(source), wrong, new_head=LABELS)
    assert made.outcome == "strict"


def test_one_part_under_two_names_is_no_ambiguity(table: Table) -> None:
    targets = [TargetTensor(f"left.{name}", (f"right.{name}",), shape, "F32") for name, shape in BODY.items()]
    assert make_plan(targets, table(shapes("backbone.")), MANIFEST).coverage.fraction == 1


@pytest.mark.parametrize(
    "change", [{"other.0.weight": (4, 3)}, {"other.1.weight": None}], ids=["a shape", "a name"]
)
def test_nothing_is_inferred_where_one_shape_or_name_differs(change: dict[str, Any], table: Table) -> None:
    target = {n: s for n, s in (shapes("other.", None) | change).items() if s is not None}
    made = plan(table, shapes("backbone."), target, new_head=None)
    assert made.copies == ()
    with pytest.raises(CoverageTooLow):
        made.check()


def test_nothing_is_inferred_from_a_single_tensor_or_beside_names_that_agree(table: Table) -> None:
    assert make_plan(model({"q.a": (2,)}), table({"p.a": (2,)}), None).copies == ()
    named = shapes("backbone.", None) | shapes("other.", None)
    made = plan(table, shapes("backbone."), named, new_head=None)
    assert {copy.target for copy in made.copies} == {f"backbone.{name}" for name in BODY}


def test_rules_of_the_caller_go_before_names_and_the_longest_prefix_wins(table: Table) -> None:
    source = {"old.0.weight": (2,), "old.x.weight": (2,), "same.weight": (2,), "one": (2,)}
    target = {
        "new.0.weight": (2,),
        "other.weight": (2,),
        "same.weight": (2,),
        "uno": (2,),
        "old.0.weight": (2,),
    }
    made = make_plan(
        model(target), table(source), None, rename={"old": "new", "old.x.": "other.", "one": "uno"}
    )
    pairs = {copy.target: copy.source for copy in made.copies}
    assert pairs == {
        "new.0.weight": "old.0.weight",
        "other.weight": "old.x.weight",
        "same.weight": "same.weight",
        "uno": "one",
    }
    assert [change.why for change in made.prefixes] == ["rename"] * 3


def test_an_empty_prefix_stands_for_every_name(table: Table) -> None:
    made = plan(
        table, shapes("backbone."), shapes("net.backbone.", "net.prediction_head."), rename={"": "net."}
    )
    assert made.outcome == "strict"
    back = make_plan(model(shapes("", None)), table(shapes("net.", None)), None, rename={"net.": ""})
    assert back.outcome == "strict"


def test_a_prefix_ends_where_a_module_does(table: Table) -> None:
    source = {"net.weight": (2,), "network.weight": (3,)}
    target = {"new.weight": (2,), "network.weight": (3,)}
    assert make_plan(model(target), table(source), None, rename={"net": "new"}).outcome == "strict"


def test_every_rule_that_cannot_be_applied_is_said_at_once(table: Table) -> None:
    source = shapes("backbone.")
    rename = {"backbon.": "encoder.", "backbone.0.": "decoder.", "backbone.1.": "encoder.1."}
    with pytest.raises(InvalidRename) as caught:
        plan(table, source, shapes("encoder."), rename=rename)
    assert len(caught.value.problems) == 2
    assert (
        "no name in the checkpoint starts with 'backbon.'. Did you mean 'backbone'?"
        in caught.value.problems[0]
    )
    assert "'backbone.0.' → 'decoder.' leads to no tensor" in caught.value.problems[1]


def test_two_tensors_that_would_become_one_are_refused(table: Table) -> None:
    source = {"a.weight": (2,), "b.weight": (2,)}
    with pytest.raises(InvalidRename, match=r"a\.weight and b\.weight both become new\.weight"):
        make_plan(model({"new.weight": (2,)}), table(source), None, rename={"a": "new", "b": "new"})


@pytest.mark.parametrize("rename", ["old", ["old", "new"], {"old": 1}, {1: "new"}], ids=repr)
def test_what_is_no_mapping_of_texts_is_refused(rename: Any, table: Table) -> None:
    with pytest.raises(InvalidRename, match="not a mapping of prefixes"):
        plan(table, shapes("backbone."), shapes("encoder."), rename=rename)


def test_a_renamed_head_still_goes_by_label(table: Table) -> None:
    made = plan(
        table,
        shapes("backbone."),
        shapes("backbone.", "out."),
        rename={"prediction_head.": "out."},
        new_head=["c", "a", "b"],
    )
    assert [row.source_row for row in made.channels] == [2, 0, 1]


@pytest.mark.parametrize(
    ("names", "prefixes"),
    [
        ([], []),
        (["a"], []),
        (["a.b"], ["a."]),
        (["a.b.c", "a.b.d"], ["a.", "a.b."]),
        (["a.bc.x", "a.bd.x"], ["a."]),
        (["net.x", "network.x"], []),
    ],
    ids=str,
)
def test_common_prefixes_end_at_dots(names: list[str], prefixes: list[str]) -> None:
    assert common_prefixes(names) == prefixes


@pytest.mark.parametrize("layout", LAYOUTS, ids=lambda layout: layout.name)
@pytest.mark.parametrize("name", ["backbone.0.weight", "prediction_head.bias", "other.weight"])
def test_a_layout_is_reversible(layout: Any, name: str) -> None:
    assert {layout.canonical(one) for one in layout.names(name)} == {name}


_PARTS = st.sampled_from(["a", "b", "net", "unet"])


@given(st.lists(_PARTS, max_size=3), st.lists(_PARTS, max_size=3), st.permutations(sorted(BODY)))
def test_what_is_inferred_pairs_each_tensor_with_the_one_of_the_same_rest(
    old: list[str], new: list[str], order: list[str]
) -> None:
    before, after = ("".join(f"{part}." for part in parts) for parts in (old, new))
    entries = {before + n: StoredTensor("f", TensorEntry(before + n, "F32", BODY[n], 0, 0)) for n in order}
    made = make_plan(model(shapes(after, None)), WeightsTable(entries, {}, ("f",)), None)
    assert {(copy.source, copy.target) for copy in made.copies} == {(before + n, after + n) for n in BODY}

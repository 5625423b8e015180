"""What every plan keeps, whatever it is made of; and what is refused."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import pytest
from attrs import frozen
from hypothesis import given, settings
from hypothesis import strategies as st

from cosemzoo.checkpoints.entries import TensorEntry
from cosemzoo.checkpoints.shards import StoredTensor, WeightsTable
from cosemzoo.errors import CoverageTooLow, StrictLoadFailed
from cosemzoo.loading.pairing import TargetTensor
from cosemzoo.loading.plan import Box, LoadPlan
from cosemzoo.loading.planner import make_plan
from cosemzoo.manifest import Channel, HeadTensor, Manifest

Table = Callable[..., WeightsTable]
Array = np.ndarray[Any, np.dtype[np.int64]]

LABELS = ("a", "b", "c", "d")
KINDS = ("one-hot", "distance")
CHANNELS = [(label, kind) for kind in KINDS for label in LABELS]


def weights_of(shapes: Mapping[str, Sequence[int]], aliases: Mapping[str, str] | None = None) -> WeightsTable:
    tensors = {
        name: StoredTensor("model.safetensors", TensorEntry(name, "F32", tuple(shape), 0, 0))
        for name, shape in shapes.items()
    }
    return WeightsTable(tensors, aliases or {}, ("model.safetensors",))


@frozen
class Head:
    """A head on both sides: the channels of each, and the shape of one row of each of its tensors."""

    name: str
    old: tuple[tuple[str, str], ...]
    new: tuple[tuple[str, str], ...]
    tensors: dict[str, tuple[int, tuple[int, ...]]]
    is_in_model: bool

    def shape(self, leaf: str, rows: int) -> tuple[int, ...]:
        axis, rest = self.tensors[leaf]
        return (*rest[:axis], rows, *rest[axis:])


@frozen
class Case:
    """A checkpoint and a model, with everything that a plan is made from."""

    heads: tuple[Head, ...]
    old: dict[str, tuple[int, ...]]
    new: dict[tuple[str, ...], tuple[int, ...]]
    aliases: dict[str, str]
    order: tuple[str, ...]

    @property
    def manifest(self) -> Manifest:
        channels = tuple(Channel(*channel) for head in self.heads for channel in head.old)
        tensors, first = [], 0
        for head in self.heads:
            tensors += [
                HeadTensor(f"{head.name}.{leaf}", axis, first) for leaf, (axis, _) in head.tensors.items()
            ]
            first += len(head.old)
        return Manifest(run="run", channels=channels, head=tuple(tensors))

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Every tensor of the file, in no particular order."""
        shapes = dict(self.old)
        for head in self.heads:
            shapes |= {f"{head.name}.{leaf}": head.shape(leaf, len(head.old)) for leaf in head.tensors}
        return {
            name: shapes[name] for name in sorted(shapes, key=lambda name: (self.order.index(name[0]), name))
        }

    @property
    def targets(self) -> list[TargetTensor]:
        named = dict(self.new)
        for head in self.heads:
            if head.is_in_model:
                named |= {(f"{head.name}.{leaf}",): head.shape(leaf, len(head.new)) for leaf in head.tensors}
        return [TargetTensor(names[0], names[1:], shape, "F32") for names, shape in named.items()]

    @property
    def new_head(self) -> list[tuple[str, str]] | None:
        wanted = [channel for head in self.heads if head.is_in_model for channel in head.new]
        return wanted or None

    def plan(self, **options: Any) -> LoadPlan:
        weights = weights_of(self.shapes, self.aliases)
        return make_plan(self.targets, weights, self.manifest, **{"new_head": self.new_head, **options})


plans = settings(deadline=None, max_examples=150)


@st.composite
def heads(draw: st.DrawFn, name: str) -> Head:
    channels = st.lists(st.sampled_from(CHANNELS), min_size=1, max_size=5, unique=True).map(tuple)
    old = draw(channels)
    new = draw(st.one_of(channels, st.just(old), st.permutations(old).map(tuple)))
    rest = draw(st.lists(st.integers(0, 3), max_size=3).map(tuple))
    tensors = {"weight": (draw(st.integers(0, len(rest))), rest)}
    if draw(st.booleans()):
        tensors["bias"] = (0, ())
    return Head(name, old, new, tensors, draw(st.booleans()))


@st.composite
def cases(draw: st.DrawFn) -> Case:
    shape = st.lists(st.integers(0, 3), max_size=3).map(tuple)
    names = st.lists(st.sampled_from(["p.a", "p.b", "q.a", "q.b", "r.a"]), unique=True)
    old = {name: draw(shape) for name in draw(names)}
    left = draw(names)
    new: dict[tuple[str, ...], tuple[int, ...]] = {}
    while left:
        group = tuple(left[: draw(st.integers(1, 2))])
        left = left[len(group) :]
        like = [old[name] for name in group if name in old]
        # Names of one tensor have one shape, in the model and in the file.
        shared = (
            draw(st.one_of(st.sampled_from(like), shape))
            if len(like) == 1
            else like[0]
            if like
            else draw(shape)
        )
        old |= {name: shared for name in group if name in old and len(like) == 2}
        new[group] = shared
    aliases = {f"s.{name}": name for name in old if draw(st.booleans())}
    used = draw(st.lists(st.sampled_from(["h", "k"]), unique=True))
    order = tuple(draw(st.permutations("pqrshk")))
    return Case(tuple(draw(heads(name)) for name in used), old, new, aliases, order)


def part(array: Array, box: Box) -> Array:
    # With an ellipsis, a part of a scalar is a view too.
    index: Any = (*(slice(start, stop) for start, stop in box), ...)
    view: Array = array[index]
    return view


def contents(shapes: Mapping[str, Sequence[int]]) -> dict[str, Array]:
    """Give arrays in which every element is another number, greater than zero."""
    arrays, start = {}, 1
    for name in sorted(shapes):
        size = int(np.prod(shapes[name], dtype=int))
        arrays[name] = np.arange(start, start + size).reshape(tuple(shapes[name]))
        start += size
    return arrays


def carried_out(plan: LoadPlan, case: Case) -> dict[str, Array]:
    stored = contents(case.shapes)
    filled = {target.name: np.zeros(target.shape, int) for target in case.targets}
    for copy in plan.copies:
        part(filled[copy.target], copy.target_box)[...] = part(stored[copy.source], copy.source_box)
    return filled


def expected(case: Case) -> dict[str, Array]:
    """Say what belongs where, row by row: zero is the model's own."""
    stored = contents(case.shapes)
    stored |= {alias: stored[name] for alias, name in case.aliases.items()}
    result = {}
    for names, shape in case.new.items():
        known = sorted(name for name in names if name in stored)
        fits = known and stored[known[0]].shape == shape
        result[names[0]] = stored[known[0]] if fits else np.zeros(shape, int)
    for head in case.heads:
        for leaf, (axis, _) in head.tensors.items() if head.is_in_model else ():
            array = np.zeros(head.shape(leaf, len(head.new)), int)
            for row, channel in enumerate(head.new):
                if channel in head.old:
                    rows = np.moveaxis(stored[f"{head.name}.{leaf}"], axis, 0)
                    np.moveaxis(array, axis, 0)[row] = rows[head.old.index(channel)]
            result[f"{head.name}.{leaf}"] = array
    return result


@plans
@given(cases())
def test_every_row_lands_where_its_label_says_and_everything_else_stays(case: Case) -> None:
    filled, belongs = carried_out(case.plan(), case), expected(case)
    assert filled.keys() == belongs.keys()
    assert all(np.array_equal(filled[name], belongs[name]) for name in filled)


@plans
@given(cases())
def test_every_box_is_in_bounds_and_no_element_is_written_twice(case: Case) -> None:
    plan = case.plan()
    shapes = {target.name: target.shape for target in case.targets}
    written = {name: np.zeros(shape, int) for name, shape in shapes.items()}
    for copy in plan.copies:
        for box, shape in (
            (copy.source_box, case.shapes[copy.source]),
            (copy.target_box, shapes[copy.target]),
        ):
            assert len(box) == len(shape)
            assert all(0 <= start <= stop <= length for (start, stop), length in zip(box, shape, strict=True))
        lengths = [[stop - start for start, stop in box] for box in (copy.source_box, copy.target_box)]
        assert lengths[0] == lengths[1]
        part(written[copy.target], copy.target_box)[...] += 1
    assert all((count <= 1).all() for count in written.values())
    assert {row.name: row.filled for row in plan.tensors} == {
        name: int(count.sum()) for name, count in written.items()
    }


@plans
@given(cases(), st.randoms(use_true_random=False))
def test_the_same_inputs_give_the_same_plan_whatever_the_order_in_the_file(case: Case, random: Any) -> None:
    names = list(case.shapes)
    random.shuffle(names)
    aliases = dict(random.sample([*case.aliases.items()], len(case.aliases)))
    weights = weights_of({name: case.shapes[name] for name in names}, aliases)
    assert make_plan(case.targets, weights, case.manifest, new_head=case.new_head) == case.plan()


@plans
@given(cases())
def test_every_tensor_and_every_channel_is_accounted_for_once(case: Case) -> None:
    plan = case.plan()
    assert [row.name for row in plan.tensors] == [target.name for target in case.targets]
    used = {copy.source for copy in plan.copies} | {name for pair in plan.equal for name in pair}
    unused = [one.name for one in plan.unused]
    assert len(set(unused)) == len(unused)
    assert {*unused} | used == set(case.shapes)
    assert {*unused}.isdisjoint(used)
    in_model = [head for head in case.heads if head.is_in_model]
    assert [(row.head, row.row) for row in plan.channels] == [
        (head.name, row) for head in in_model for row in range(len(head.new))
    ]
    taken = {row.source_row for row in plan.channels if row.source_row is not None}
    channels = case.manifest.channels
    assert [*plan.unused_channels] == [str(one) for i, one in enumerate(channels) if i not in taken]
    for row in plan.tensors:
        kinds = [row in plan.missing, row in plan.mismatched, row.status != "kept"]
        assert sum(kinds) == 1
        if row.parameters:
            assert bool(row.reason) == (row.status == "kept" or row.filled < row.parameters)
    for channel in plan.channels:
        assert (channel.status == "kept") == (channel.source_row is None) == bool(channel.reason)
        if channel.source_row is not None:
            assert channels[channel.source_row] == Channel(str(channel.label), str(channel.kind))


@plans
@given(cases())
def test_a_load_is_strict_if_and_only_if_everything_is_equal(case: Case) -> None:
    names = {name for group in case.new for name in group}
    equal = (
        all(head.is_in_model and head.new == head.old for head in case.heads)
        and all(any(name in case.old or name in case.aliases for name in group) for group in case.new)
        and all(case.old.get(name, shape) == shape for group, shape in case.new.items() for name in group)
        and case.old.keys() <= names
    )
    plan = case.plan(strict="require", min_coverage=0)
    assert (plan.outcome == "strict") == (not plan.differences) == equal
    if equal:
        plan.check()
    else:
        with pytest.raises(StrictLoadFailed):
            plan.check()


@plans
@given(cases())
def test_a_checkpoint_loads_strictly_and_whole_into_its_own_model(case: Case) -> None:
    targets = [TargetTensor(name, (), shape, "F32") for name, shape in case.shapes.items()]
    in_order = sorted(case.heads, key=lambda head: case.order.index(head.name))
    channels = [channel for head in in_order for channel in head.old]
    for new_head in (channels or None, None):
        plan = make_plan(targets, weights_of(case.shapes), case.manifest, new_head=new_head)
        plan.check()
        assert plan.outcome == "strict"
        assert plan.model_coverage.fraction == 1
        assert [(copy.source, copy.source_box) for copy in plan.copies] == [
            (copy.target, copy.target_box) for copy in plan.copies
        ]
        assert len(plan.copies) == len(targets)


@plans
@given(cases())
def test_coverage_is_the_smaller_fraction_of_tensors_and_parameters(case: Case) -> None:
    plan = case.plan()
    backbone = [row for row in plan.tensors if not row.is_head]
    coverage = plan.coverage
    assert (coverage.tensors, coverage.all_tensors) == (
        len([r for r in backbone if r.status == "copied"]),
        len(backbone),
    )
    assert coverage.all_parameters == sum(int(np.prod(row.shape, dtype=int)) for row in backbone)
    assert 0 <= coverage.fraction <= 1
    assert 0 <= plan.model_coverage.fraction <= 1


# --- what is too little ------------------------------------------------------------------------------------


def backbone(count: int, shape: tuple[int, ...] = (2,)) -> list[TargetTensor]:
    return [TargetTensor(f"t{i}", (), shape, "F32") for i in range(count)]


@pytest.mark.parametrize(("stored", "enough"), [(4, True), (2, True), (1, False), (0, False)])
def test_by_default_half_of_the_tensors_must_be_filled(stored: int, enough: bool, table: Table) -> None:
    plan = make_plan(backbone(4), table({f"t{i}": (2,) for i in range(stored)}), None)
    if enough:
        plan.check()
    else:
        with pytest.raises(CoverageTooLow) as caught:
            plan.check()
        assert (caught.value.coverage, caught.value.required) == (stored / 4, 0.5)
        assert f"It would fill {stored} of 4 tensors" in str(caught.value)


def test_by_default_half_of_the_parameters_must_be_filled_too(table: Table) -> None:
    targets = [*backbone(3), TargetTensor("large", (), (100,), "F32")]
    plan = make_plan(targets, table({f"t{i}": (2,) for i in range(3)}), None)
    with pytest.raises(CoverageTooLow, match=r"3 of 4 tensors, 6 of 106 parameters"):
        plan.check()


@pytest.mark.parametrize(("required", "enough"), [(0, True), (0.25, True), (0.26, False), (1, False)])
def test_a_caller_may_ask_for_more_or_less(required: float, enough: bool, table: Table) -> None:
    plan = make_plan(backbone(4), table({"t0": (2,)}), None, min_coverage=required)
    if enough:
        plan.check()
    else:
        with pytest.raises(CoverageTooLow):
            plan.check()


def test_nothing_in_common_is_refused_unless_nothing_is_asked(table: Table) -> None:
    weights = table({"x": (2,), "y": (3,)})
    with pytest.raises(CoverageTooLow, match="has nothing in common with the model") as caught:
        make_plan(backbone(1), weights, None, min_coverage=1e-9).check()
    assert "In the model only:\n  - t0 [2]" in str(caught.value)
    assert "In the checkpoint only:\n  - x [2]\n  - y [3]" in str(caught.value)
    make_plan(backbone(1), weights, None, min_coverage=0).check()


def test_a_model_without_tensors_has_nothing_in_common_with_any_checkpoint(table: Table) -> None:
    with pytest.raises(CoverageTooLow):
        make_plan([], table({"x": (2,)}), None).check()
    make_plan([], table({}), None).check()


@pytest.mark.parametrize(
    ("labels", "enough"), [(["a", "b"], True), (["a", "x"], True), (["a", "x", "y"], False)]
)
def test_of_a_model_that_is_a_head_alone_half_of_the_rows_must_be_filled(
    labels: list[str], enough: bool, table: Table
) -> None:
    manifest = Manifest(
        run="run", channels=(Channel("a", "x"), Channel("b", "x")), head=(HeadTensor("head.weight"),)
    )
    targets = [TargetTensor("head.weight", (), (len(labels), 2), "F32")]
    plan = make_plan(targets, table({"head.weight": (2, 2)}), manifest, new_head=labels)
    if enough:
        plan.check()
    else:
        with pytest.raises(CoverageTooLow):
            plan.check()


def test_a_head_does_not_make_up_for_a_missing_backbone(table: Table) -> None:
    manifest = Manifest(run="run", channels=(Channel("a", "x"),), head=(HeadTensor("head.weight"),))
    targets = [*backbone(2), TargetTensor("head.weight", (), (1, 1000), "F32")]
    with pytest.raises(CoverageTooLow):
        make_plan(targets, table({"head.weight": (1, 1000)}), manifest, new_head=["a"]).check()


@pytest.mark.parametrize("wrong", [-0.1, 1.1, float("nan"), float("inf")])
def test_a_fraction_is_from_0_to_1(wrong: float, table: Table) -> None:
    with pytest.raises(ValueError, match=r"min_coverage is .*; it is a fraction from 0 to 1"):
        make_plan([], table({}), None, min_coverage=wrong)


@pytest.mark.parametrize("wrong", ["Require", True, None])
def test_strict_is_one_of_three_words(wrong: Any, table: Table) -> None:
    with pytest.raises(ValueError, match=r'strict is .*; it is "require" .*, "auto" or "never"'):
        make_plan([], table({}), None, strict=wrong)


def test_never_strict_is_partial_even_where_everything_agrees(table: Table) -> None:
    weights = table({"t0": (2,)})
    assert make_plan(backbone(1), weights, None, strict="never").outcome == "partial"
    assert make_plan(backbone(1), weights, None, strict="auto").outcome == "strict"

"""Heads by channel, in models that are loaded: what lands where."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from cosemzoo.errors import InvalidHead
from cosemzoo.loading.report import LoadReport
from cosemzoo.manifest import HeadTensor

Save = Callable[..., Path]
Load = Callable[..., LoadReport]
StateOf = Callable[[nn.Module], Any]

HEAD = ("head.weight", "head.bias")


class Net(nn.Module):
    head: Any
    embed: Any
    out: Any
    one: Any
    two: Any
    x: Any

    def __init__(self, **heads: nn.Module) -> None:
        super().__init__()
        self.body = nn.Linear(2, 4)
        for name, head in heads.items():
            self.add_module(name, head)


def two(first: int = 3, second: int = 2, names: tuple[str, str] = ("one", "two")) -> Any:
    return Net(**{names[0]: nn.Linear(4, first), names[1]: nn.Linear(4, second)})


TWO = ("one.weight", "one.bias", HeadTensor("two.weight", 0, 3), HeadTensor("two.bias", 0, 3))


def rows(report: LoadReport) -> list[tuple[str, str | None, str, int | None]]:
    return [(row.head, row.label, row.status, row.source_row) for row in report.channels]


HEADS: dict[str, tuple[Callable[[int], Any], int]] = {
    "linear": (lambda n: nn.Linear(4, n), 0),
    "1-D": (lambda n: nn.Conv1d(4, n, 3), 0),
    "2-D": (lambda n: nn.Conv2d(4, n, 3), 0),
    "3-D": (lambda n: nn.Conv3d(4, n, 1), 0),
    "transposed 3-D": (lambda n: nn.ConvTranspose3d(4, n, 2), 1),
    "without bias": (lambda n: nn.Conv3d(4, n, 1, bias=False), 0),
}


@pytest.mark.parametrize("kind", HEADS)
def test_rows_of_any_head_go_by_label_and_the_others_keep_their_own_values_bit_for_bit(
    kind: str, save: Save, load: Load
) -> None:
    make, axis = HEADS[kind]
    source, model = Net(head=make(3)), Net(head=make(5))
    own = {name: value.clone() for name, value in model.head.state_dict().items()}
    head = [HeadTensor("head.weight", axis)] + (
        [HeadTensor("head.bias")] if "head.bias" in source.state_dict() else []
    )
    report = load(model, save(source.state_dict(), ["a", "b", "c"], head), new_head=["c", "x", "a", "y", "b"])
    for name, value in model.head.state_dict().items():
        along = axis if name == "weight" else 0
        taken = dict(source.head.state_dict())[name].movedim(along, 0)
        now, was = value.movedim(along, 0), own[name].movedim(along, 0)
        assert torch.equal(now[[0, 2, 4]], taken[[2, 0, 1]])
        assert torch.equal(now[[1, 3]], was[[1, 3]])
    assert torch.equal(model.body.weight, source.body.weight)
    assert rows(report) == [
        ("head", "c", "loaded", 2),
        ("head", "x", "kept", None),
        ("head", "a", "loaded", 0),
        ("head", "y", "kept", None),
        ("head", "b", "loaded", 1),
    ]
    assert [row.status for row in report.tensors if row.is_head] == ["remapped"] * len(head)


@pytest.mark.parametrize("kind", HEADS)
def test_a_permuted_head_of_equal_size_is_remapped_and_not_strict(kind: str, save: Save, load: Load) -> None:
    make, axis = HEADS[kind]
    source, model = Net(head=make(3)), Net(head=make(3))
    head = [HeadTensor("head.weight", axis)] + (
        [HeadTensor("head.bias")] if "head.bias" in source.state_dict() else []
    )
    folder = save(source.state_dict(), ["a", "b", "c"], head)
    report = load(model, folder, new_head=["b", "c", "a"])
    expected = source.head.weight.movedim(axis, 0)[[1, 2, 0]]
    assert torch.equal(model.head.weight.movedim(axis, 0), expected)
    assert report.outcome == "partial"
    assert report.model_coverage.fraction == 1
    assert load(model, folder, new_head=["a", "b", "c"], strict="require").outcome == "strict"
    assert torch.equal(model.head.weight, source.head.weight)


def test_fewer_rows_than_the_checkpoint_has_are_taken_and_the_rest_reported(save: Save, load: Load) -> None:
    source, model = Net(head=nn.Linear(4, 3)), Net(head=nn.Linear(4, 1))
    report = load(model, save(source.state_dict(), ["a", "b", "c"], HEAD), new_head=["b"])
    assert torch.equal(model.head.weight, source.head.weight[1:2])
    assert report.unused_channels == ("a (distance)", "c (distance)")
    assert report.unused == ()


def test_with_unknown_labels_equal_rows_are_copied_and_said_to_be_assumed(
    save: Save, load: Load, caplog: pytest.LogCaptureFixture
) -> None:
    source, model = Net(head=nn.Linear(4, 3)), Net(head=nn.Linear(4, 3))
    report = load(model, save(source.state_dict(), ["a", "b", "c"], HEAD))
    assert torch.equal(model.head.weight, source.head.weight)
    assert rows(report) == [("head", None, "assumed", row) for row in range(3)]
    assert [row.status for row in report.tensors if row.is_head] == ["assumed", "assumed"]
    assert "3 head rows copied by position, the model's labels being unknown" in caplog.text


def test_with_unknown_labels_unequal_rows_are_kept_and_reported(save: Save, load: Load) -> None:
    source, model = Net(head=nn.Linear(4, 3)), Net(head=nn.Linear(4, 4))
    own = model.head.weight.clone()
    report = load(model, save(source.state_dict(), ["a", "b", "c"], HEAD))
    assert torch.equal(model.head.weight, own)
    assert rows(report) == [("head", None, "kept", None)] * 4
    assert [row.name for row in report.mismatched] == ["head.weight", "head.bias"]
    assert [(row.source_shape, row.shape) for row in report.mismatched] == [((3, 4), (4, 4)), ((3,), (4,))]
    assert [one.name for one in report.unused] == ["head.bias", "head.weight"]


@pytest.mark.parametrize("new_head", [None, ["a", "b", "c"]])
def test_a_head_with_other_inputs_is_kept_whole_and_never_broadcast(
    new_head: list[str] | None, save: Save, load: Load
) -> None:
    source, model = Net(head=nn.Linear(1, 3)), Net(head=nn.Linear(4, 3))
    own = model.head.weight.clone(), model.head.bias.clone()
    report = load(model, save(source.state_dict(), ["a", "b", "c"], HEAD), new_head=new_head)
    assert torch.equal(model.head.weight, own[0])
    assert torch.equal(model.head.bias, own[1])
    assert {row.status for row in report.channels} == {"kept"}
    assert "shape [3, 1] in the checkpoint, [3, 4] in the model" in report.channels[0].reason


def test_a_head_of_another_kind_is_kept_where_nothing_is_asked_of_it(save: Save, load: Load) -> None:
    source, model = Net(head=nn.ConvTranspose3d(12, 3, 1)), Net(head=nn.Conv3d(12, 3, 1))
    own = model.head.bias.clone()
    folder = save(source.state_dict(), ["a", "b", "c"], [HeadTensor("head.weight", 1), "head.bias"])
    report = load(model, folder)
    assert torch.equal(model.head.bias, own)
    assert [row.name for row in report.mismatched] == ["head.weight", "head.bias"]
    assert "do not have one row per channel" in report.mismatched[0].reason
    with pytest.raises(InvalidHead, match="do not have one row per channel"):
        load(model, folder, new_head=["a", "b", "c"])


def test_several_kinds_per_label_are_told_apart(save: Save, load: Load) -> None:
    channels = [(label, kind) for kind in ("one-hot", "distance") for label in ("a", "b", "c")]
    source, model = Net(head=nn.Linear(4, 6)), Net(head=nn.Linear(4, 4))
    wanted = [(label, kind) for kind in ("one-hot", "distance") for label in ("c", "a")]
    folder = save(source.state_dict(), channels, HEAD)
    load(model, folder, new_head=wanted)
    assert torch.equal(model.head.weight, source.head.weight[[2, 0, 5, 3]])
    assert torch.equal(model.head.bias, source.head.bias[[2, 0, 5, 3]])
    with pytest.raises(InvalidHead, match="c is ambiguous"):
        load(model, folder, new_head=["c", "a", "b", "x"])


def test_a_mapping_says_where_each_row_comes_from(save: Save, load: Load) -> None:
    source, model = Net(head=nn.Linear(4, 3)), Net(head=nn.Linear(4, 4))
    own = model.head.weight.clone()
    report = load(
        model,
        save(source.state_dict(), ["a", "b", "c"], HEAD),
        new_head={"mine": "c", "a": None, ("b", "one-hot"): ("b", "distance"), "copy of c": "c"},
    )
    assert torch.equal(model.head.weight[[0, 2, 3]], source.head.weight[[2, 1, 2]])
    assert torch.equal(model.head.weight[1], own[1])
    assert report.channels[1].reason == "new_head says to keep it"
    assert (report.channels[2].kind, report.channels[2].source_kind) == ("one-hot", "distance")


@pytest.mark.parametrize("labels", [[], ["a"], ["a", "b", "c", "d"]])
def test_a_new_head_of_another_length_is_refused_before_anything_is_touched(
    labels: list[str], save: Save, load: Load, state_of: StateOf
) -> None:
    model, folder = (
        Net(head=nn.Linear(4, 3)),
        save(Net(head=nn.Linear(4, 3)).state_dict(), ["a", "b", "c"], HEAD),
    )
    before = state_of(model)
    with pytest.raises(
        InvalidHead, match=rf"new_head has {len(labels)} channels, the model has 3 rows \(head 3\)"
    ):
        load(model, folder, new_head=labels)
    assert state_of(model) == before


def test_a_model_without_the_checkpoints_head_says_what_may_be_its_own(save: Save, load: Load) -> None:
    model = Net(out=nn.Linear(4, 3))
    folder = save(Net(head=nn.Linear(4, 3)).state_dict(), ["a", "b", "c"], HEAD)
    with pytest.raises(InvalidHead) as caught:
        load(model, folder, new_head=["a", "b", "c"])
    assert "no head of the checkpoint's name (head.weight, head.bias)" in str(caught.value)
    assert "perhaps head='out'" in str(caught.value)
    assert load(model, folder, new_head=["c", "b", "a"], head="out").coverage.fraction == 1


@pytest.mark.parametrize("head", ["out", ["out"], ("out",), {"head": "out"}], ids=str)
def test_a_head_of_another_name_is_named_by_the_caller(head: Any, save: Save, load: Load) -> None:
    source, model = Net(head=nn.Linear(4, 3)), Net(out=nn.Linear(4, 3))
    folder = save(source.state_dict(), ["a", "b", "c"], HEAD)
    report = load(model, folder, new_head=["c", "b", "a"], head=head)
    assert torch.equal(model.out.weight, source.head.weight.flip(0))
    assert (report.missing, report.unused) == ((), ())


def test_a_model_that_still_has_the_old_head_keeps_it_where_another_is_named(save: Save, load: Load) -> None:
    source, model = Net(head=nn.Linear(4, 3)), Net(head=nn.Linear(4, 3), out=nn.Linear(4, 3))
    own = model.head.weight.clone()
    load(
        model,
        save(source.state_dict(), ["a", "b", "c"], HEAD),
        new_head=["c", "b", "a"],
        head="out",
        min_coverage=0.1,
    )
    assert torch.equal(model.out.weight, source.head.weight.flip(0))
    assert torch.equal(model.head.weight, own)


@pytest.mark.parametrize(
    "options", [{"new_head": list("abcde")}, {"new_head": list("abcde"), "head": ["one", "two"]}]
)
def test_several_heads_list_their_rows_one_after_another(options: Any, save: Save, load: Load) -> None:
    source, model = two(), two()
    folder = save(source.state_dict(), list("abcde"), TWO)
    assert load(model, folder, **options).outcome == "strict"
    report = load(model, folder, **{**options, "new_head": list("cabed")})
    assert torch.equal(model.one.weight, source.one.weight[[2, 0, 1]])
    assert torch.equal(model.two.bias, source.two.bias.flip(0))
    assert [source for *_, source in rows(report)] == [2, 0, 1, 4, 3]


def test_a_label_of_another_head_is_not_taken(save: Save, load: Load) -> None:
    source, model = two(), two()
    report = load(model, save(source.state_dict(), list("abcde"), TWO), new_head=list("dbcae"))
    assert [status for _, _, status, _ in rows(report)] == ["kept", "loaded", "loaded", "kept", "loaded"]


def test_heads_of_other_names_are_assigned_in_order_or_by_a_mapping(save: Save, load: Load) -> None:
    source = two()
    folder = save(source.state_dict(), list("abcde"), TWO)
    for head in (["x", "y"], {"two": "y", "one": "x"}):
        model = two(names=("x", "y"))
        report = load(model, folder, new_head=list("abcde"), head=head)
        assert report.outcome == "strict"
        assert torch.equal(model.x.weight, source.one.weight)
        assert torch.equal(model.y.weight, source.two.weight)


def test_heads_that_a_mapping_leaves_out_are_found_by_name(save: Save, load: Load) -> None:
    source, model = two(), two(names=("x", "two"))
    report = load(
        model, save(source.state_dict(), list("abcde"), TWO), new_head=list("abced"), head={"one": "x"}
    )
    assert torch.equal(model.x.weight, source.one.weight)
    assert torch.equal(model.two.weight, source.two.weight.flip(0))
    assert [head for head, *_ in rows(report)] == ["x", "x", "x", "two", "two"]


def test_exchanged_heads_of_equal_size_are_exchanged(save: Save, load: Load) -> None:
    source, model = two(3, 3), two(3, 3)
    folder = save(source.state_dict(), list("abcdef"), TWO)
    load(model, folder, new_head=list("defabc"), head={"one": "two", "two": "one"})
    assert torch.equal(model.two.weight, source.one.weight)
    assert torch.equal(model.one.weight, source.two.weight)


def test_a_model_with_one_of_several_heads_names_its_rows_only(save: Save, load: Load) -> None:
    source, model = two(), Net(two=nn.Linear(4, 2))
    report = load(model, save(source.state_dict(), list("abcde"), TWO), new_head=["e", "d"])
    assert torch.equal(model.two.weight, source.two.weight.flip(0))
    assert report.unused_channels == ("a (distance)", "b (distance)", "c (distance)")


def test_deep_supervision_has_the_same_channels_twice(save: Save, load: Load) -> None:
    source, model = two(3, 3), two(3, 3)
    folder = save(source.state_dict(), list("abc"), ["one.weight", "one.bias", "two.weight", "two.bias"])
    assert load(model, folder, new_head=list("abcabc"), strict="require").outcome == "strict"
    load(model, folder, new_head=list("cbabca"))
    assert torch.equal(model.one.weight, source.one.weight.flip(0))
    assert torch.equal(model.two.weight, source.two.weight[[1, 2, 0]])


@pytest.mark.parametrize("collapsed", [True, False])
@pytest.mark.parametrize("tied", [True, False])
def test_tied_heads_load_into_tied_and_separate_heads(
    collapsed: bool, tied: bool, *, save: Save, load: Load
) -> None:
    source, model = two(3, 3), two(3, 3)
    source.two.weight, source.two.bias = source.one.weight, source.one.bias
    if tied:
        model.two.weight, model.two.bias = model.one.weight, model.one.bias
    state = {name: value if collapsed else value.clone() for name, value in source.state_dict().items()}
    folder = save(state, list("abc"), ["one.weight", "one.bias", "two.weight", "two.bias"])
    report = load(model, folder, new_head=list("cba") if tied else list("cbabca"))
    assert torch.equal(model.one.weight, source.one.weight.flip(0))
    if not tied:
        assert torch.equal(model.two.weight, source.one.weight[[1, 2, 0]])
    assert len(report.channels) == (3 if tied else 6)
    assert report.model_coverage.fraction == 1


@pytest.mark.parametrize("tied", [True, False])
def test_a_backbone_tensor_that_is_tied_to_the_head_is_loaded_too(tied: bool, save: Save, load: Load) -> None:
    def make(*, tied: bool) -> Any:
        model = Net(embed=nn.Linear(4, 3, bias=False), head=nn.Linear(4, 3, bias=False))
        if tied:
            model.head.weight = model.embed.weight
        return model

    source, model = make(tied=True), make(tied=tied)
    report = load(model, save(source.state_dict(), list("abc"), ["head.weight"]), new_head=list("abc"))
    assert report.outcome == "strict"
    assert torch.equal(model.embed.weight, source.embed.weight)
    assert torch.equal(model.head.weight, source.embed.weight)
    load(model, save(source.state_dict(), list("abc"), ["head.weight"]), new_head=list("cba"))
    assert torch.equal(model.head.weight, source.embed.weight.flip(0))
    assert tied or torch.equal(model.embed.weight, source.embed.weight)


@pytest.mark.parametrize(
    ("head", "said"),
    [
        ("nowhere", "the model has no module 'nowhere' with tensors of its own."),
        ("hea", "Did you mean 'head'?"),
        ("", "the model has no module '' with tensors of its own."),
        (["head", "body"], "head names 2 of the checkpoint's 1 heads (head): map them"),
        ([], "head names 0 of the checkpoint's 1 heads"),
        ({"tail": "head"}, "the checkpoint has no head 'tail'; it has: head"),
        (3, "head has a int, not the name of a module"),
        ([None], "head has a NoneType, not the name of a module"),
        ({"head": 3}, "head has a int, not the name of a module"),
        (nn.Linear(1, 1), "head has a Linear, not the name of a module"),
    ],
    ids=str,
)
def test_a_head_that_cannot_be_meant_is_refused(
    head: Any, said: str, *, save: Save, load: Load, state_of: StateOf
) -> None:
    model, folder = (
        Net(head=nn.Linear(4, 3)),
        save(Net(head=nn.Linear(4, 3)).state_dict(), ["a", "b", "c"], HEAD),
    )
    before = state_of(model)
    with pytest.raises(InvalidHead) as caught:
        load(model, folder, new_head=["a", "b", "c"], head=head)
    assert said in str(caught.value)
    assert state_of(model) == before


def test_a_tensor_is_not_named_for_its_module(save: Save, load: Load) -> None:
    with pytest.raises(InvalidHead, match=r"no module 'one\.weight'"):
        load(two(3, 3), save(two(3, 3).state_dict(), list("abcdef"), TWO), head=["one.weight", "two"])


def test_a_model_that_registers_its_heads_in_another_order_lists_them_in_that_order(
    save: Save, load: Load
) -> None:
    source = two(3, 3)
    model = Net(two=nn.Linear(4, 3), one=nn.Linear(4, 3))
    load(model, save(source.state_dict(), list("abcdef"), TWO), new_head=list("fedcba"))
    assert torch.equal(model.two.weight, source.two.weight.flip(0))
    assert torch.equal(model.one.weight, source.one.weight.flip(0))


def test_heads_of_the_same_channels_are_listed_once_or_each(save: Save, load: Load) -> None:
    source, model = two(3, 3), two(3, 3)
    folder = save(source.state_dict(), list("abc"), ["one.weight", "one.bias", "two.weight", "two.bias"])
    load(model, folder, new_head=list("cba"))
    assert torch.equal(model.one.weight, source.one.weight.flip(0))
    assert torch.equal(model.two.weight, source.two.weight.flip(0))


def test_a_weight_whose_channel_axis_is_not_told_is_refused(save: Save, load: Load) -> None:
    source = Net(head=nn.Linear(3, 3))
    with pytest.raises(InvalidHead, match="does not say which axis"):
        load(
            Net(head=nn.Linear(3, 3)),
            save(source.state_dict(), list("abc"), ["head.bias"]),
            new_head=list("cba"),
        )


@pytest.mark.parametrize("head", [["one", "one"], {"one": "two", "two": "two"}], ids=str)
def test_one_module_is_not_two_heads(head: Any, save: Save, load: Load) -> None:
    with pytest.raises(InvalidHead, match=r"is named for two heads|are the same in the model"):
        load(two(3, 3), save(two(3, 3).state_dict(), list("abcdef"), TWO), head=head)


def test_two_names_of_one_module_are_not_two_heads(save: Save, load: Load) -> None:
    model = two(3, 3)
    model.alias = model.one
    with pytest.raises(InvalidHead, match="'alias' and 'one' are the same in the model"):
        load(model, save(two(3, 3).state_dict(), list("abcdef"), TWO), head=["one", "alias"])


def test_head_tensors_of_the_model_itself_are_named_by_their_names(save: Save, load: Load) -> None:
    class Bare(nn.Module):
        def __init__(self, name: str) -> None:
            super().__init__()
            self.body = nn.Linear(2, 4)
            self.register_parameter(name, nn.Parameter(torch.rand(3, 4)))

    source, model = Bare("out"), Bare("out")
    folder = save(source.state_dict(), list("abc"), ["out"])
    load(model, folder, new_head=list("cba"), head="out")
    assert torch.equal(model.get_parameter("out"), source.get_parameter("out").flip(0))


def test_without_a_manifest_a_named_head_is_assumed_or_kept(save: Save, load: Load) -> None:
    source = Net(head=nn.Linear(4, 3))
    folder = save(source.state_dict())
    model = Net(head=nn.Linear(4, 3))
    assert {row.status for row in load(model, folder, head="head").channels} == {"assumed"}
    model = Net(head=nn.Linear(4, 3))
    own = model.head.weight.clone()
    report = load(model, folder, head="head", new_head=["a", "b", "c"])
    assert torch.equal(model.head.weight, own)
    assert report.channels[0].reason == "the checkpoint does not name its channels"


def test_without_a_manifest_new_head_needs_a_head(save: Save, load: Load) -> None:
    with pytest.raises(InvalidHead, match="the checkpoint does not say which tensors are its head: name it"):
        load(
            Net(head=nn.Linear(4, 3)), save(Net(head=nn.Linear(4, 3)).state_dict()), new_head=["a", "b", "c"]
        )


def test_a_statistics_counter_in_the_head_is_part_of_the_backbone(save: Save, load: Load) -> None:
    source, model = Net(head=nn.BatchNorm1d(3)), Net(head=nn.BatchNorm1d(3))
    source.head.num_batches_tracked.fill_(9)
    source.head.running_mean.copy_(torch.arange(3.0))
    names = [f"head.{name}" for name in ("weight", "bias", "running_mean", "running_var")]
    report = load(model, save(source.state_dict(), ["a", "b", "c"], names), new_head=["c", "b", "a"])
    assert model.head.num_batches_tracked == 9
    assert model.head.running_mean.tolist() == [2, 1, 0]
    assert [row.name for row in report.tensors if not row.is_head][-1] == "head.num_batches_tracked"


@pytest.mark.parametrize("kind", ["linear", "3-D", "transposed 3-D"])
@pytest.mark.parametrize("listed", ["weight", "bias"])
def test_a_tensor_that_the_manifest_forgets_goes_by_label_with_the_rest_of_its_head(
    listed: str, kind: str, *, save: Save, load: Load
) -> None:
    make, axis = HEADS[kind]
    source, model = Net(head=make(3)), Net(head=make(3))
    head = [HeadTensor("head.weight", axis) if listed == "weight" else HeadTensor("head.bias")]
    report = load(model, save(source.state_dict(), ["a", "b", "c"], head), new_head=["c", "a", "b"])
    order = [2, 0, 1]
    assert torch.equal(model.head.weight.movedim(axis, 0), source.head.weight.movedim(axis, 0)[order])
    assert torch.equal(model.head.bias, source.head.bias[order])
    assert [row.name for row in report.tensors if row.is_head] == ["head.weight", "head.bias"]


def test_a_bias_that_the_checkpoint_lacks_is_kept_and_missing(save: Save, load: Load) -> None:
    source, model = Net(head=nn.Linear(4, 3, bias=False)), Net(head=nn.Linear(4, 3))
    own = model.head.bias.clone()
    report = load(
        model, save(source.state_dict(), ["a", "b", "c"], ["head.weight"]), new_head=["c", "b", "a"]
    )
    assert torch.equal(model.head.weight, source.head.weight.flip(0))
    assert torch.equal(model.head.bias, own)
    assert [row.name for row in report.missing] == ["head.bias"]

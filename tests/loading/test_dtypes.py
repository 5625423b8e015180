from collections.abc import Callable
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from cosemzoo.checkpoints.mapped import TORCH_DTYPES
from cosemzoo.errors import UnsafeConversion
from cosemzoo.loading.dtypes import why_not_convertible
from cosemzoo.loading.report import LoadReport

Save = Callable[..., Path]
Load = Callable[..., LoadReport]
StateOf = Callable[[nn.Module], Any]

CONVERTIBLE = [
    (source, target)
    for source, target in product(TORCH_DTYPES, TORCH_DTYPES)
    if source != target and not why_not_convertible(source, target)
]
FLOATS = {"F64", "F32", "F16", "BF16", "F8_E4M3", "F8_E5M2", "F8_E4M3FNUZ", "F8_E5M2FNUZ"}
INTEGERS = {"I8", "U8", "I16", "U16", "I32", "U32", "I64", "U64"}


class Holder(nn.Module):
    """One buffer, of any dtype, among others that change with it."""

    value: torch.Tensor

    def __init__(self, value: torch.Tensor) -> None:
        super().__init__()
        self.before = nn.Parameter(torch.zeros(3))
        self.register_buffer("value", value)
        self.after = nn.Parameter(torch.zeros(3))


def stored(values: Any, dtype: str) -> torch.Tensor:
    # Through the widest type, which holds what the test says.
    wide = torch.int64 if dtype in INTEGERS - {"U64"} else torch.float64
    if dtype == "U64":
        return torch.tensor(values, dtype=torch.uint64)
    return torch.tensor(values, dtype=wide).to(TORCH_DTYPES[dtype])


def into(dtype: str, length: int = 4) -> Holder:
    return Holder(torch.zeros(length).to(TORCH_DTYPES[dtype]))


def test_floats_convert_to_floats_and_integers_to_integers_and_nothing_else() -> None:
    families = {
        (source, target)
        for family in (FLOATS, INTEGERS)
        for source, target in product(family, family)
        if source != target and {source, target} <= TORCH_DTYPES.keys()
    }
    assert set(CONVERTIBLE) == families


@pytest.mark.parametrize(("source", "target"), CONVERTIBLE, ids="-".join)
def test_every_conversion_gives_the_values_in_the_models_dtype_and_is_reported(
    source: str, target: str, save: Save, load: Load
) -> None:
    value = stored([1, 2, 0, 4], source)
    model = into(target)
    report = load(model, save(Holder(value).state_dict()))
    assert model.value.dtype == TORCH_DTYPES[target]
    assert model.value.double().tolist() == [1, 2, 0, 4]
    assert [(row.name, row.source_dtype, row.dtype) for row in report.converted] == [
        ("value", source, target)
    ]
    assert report.outcome == "strict"


# The writer does not store F8_E8M0, a type of scales.
@pytest.mark.parametrize("dtype", sorted(TORCH_DTYPES.keys() - {"F8_E8M0"}))
def test_every_dtype_loads_into_itself_bit_for_bit(dtype: str, save: Save, load: Load) -> None:
    torch_dtype = TORCH_DTYPES[dtype]
    size = torch.empty(0, dtype=torch_dtype).element_size()
    random = torch.randint(0, 256, (8 * size,), dtype=torch.uint8)
    value = (random % 2).bool() if dtype == "BOOL" else random.view(torch_dtype)
    model = into(dtype, 8)
    report = load(model, save(Holder(value).state_dict()))
    assert torch.equal(model.value.view(torch.uint8), value.view(torch.uint8))
    assert report.converted == ()


@pytest.mark.parametrize(
    ("source", "values", "target"),
    [
        ("F64", [1e300], "F32"),
        ("F64", [-1e39], "F32"),
        ("F64", [3.4028236e38], "F32"),
        ("F64", [1.0, float("nan"), 1e300], "F32"),
        ("F64", [1e300, float("inf")], "F32"),
        ("F32", [3.4e38], "BF16"),
        ("F32", [65520.0], "F16"),
        ("F32", [-1e6], "F16"),
        ("BF16", [1e6], "F16"),
        # These have no infinity: what is too large would become not-a-number, or just the largest.
        ("F32", [1e6], "F8_E4M3"),
        ("F16", [60000.0], "F8_E4M3FNUZ"),
        ("F8_E5M2", [57344.0], "F8_E4M3"),
        ("F8_E4M3", [-448.0], "F8_E4M3FNUZ"),
        ("I16", [300], "U8"),
        ("I8", [-1], "U8"),
        ("U8", [200], "I8"),
        ("I64", [-1], "U64"),
        ("U64", [2**63 + 1], "I64"),
        ("I8", [-1], "U16"),
        ("U32", [2**31], "I32"),
        ("I64", [2**40], "U32"),
        ("U16", [300], "U8"),
    ],
    ids=str,
)
def test_a_value_beyond_the_models_dtype_is_refused_and_the_model_is_as_it_was(
    source: str, values: list[float], target: str, *, save: Save, load: Load, state_of: StateOf
) -> None:
    model = into(target, len(values))
    folder = save({**Holder(stored(values, source)).state_dict(), "before": torch.ones(3)})
    before = state_of(model)
    with pytest.raises(UnsafeConversion) as caught:
        load(model, folder)
    assert len(caught.value.tensors) == 1
    assert caught.value.tensors[0].startswith("value: ")
    assert state_of(model) == before


@pytest.mark.parametrize(
    ("source", "values", "target", "expected"),
    [
        ("F32", [65519.0, -65519.0], "F16", [65504.0, -65504.0]),
        ("F64", [3.40282350e38], "F32", [torch.finfo(torch.float32).max]),
        ("F32", [449.0], "F8_E4M3", [448.0]),
        ("F32", [float("inf"), -float("inf")], "F16", [float("inf"), -float("inf")]),
        ("F64", [1e-300], "F32", [0.0]),
        ("I64", [127, -128], "I8", [127, -128]),
        ("U64", [2**63 - 1], "I64", [2**63 - 1]),
        ("I8", [127], "U8", [127]),
    ],
    ids=str,
)
def test_what_only_loses_precision_is_converted(
    source: str, values: list[float], target: str, expected: list[float], *, save: Save, load: Load
) -> None:
    model = into(target, len(values))
    load(model, save(Holder(stored(values, source)).state_dict()))
    assert model.value.tolist() == expected


def test_not_a_number_stays_not_a_number(save: Save, load: Load) -> None:
    model = into("F16", 1)
    load(model, save(Holder(stored([float("nan")], "F32")).state_dict()))
    assert model.value.isnan().all()


def test_a_value_beyond_the_dtype_is_found_anywhere_in_a_large_tensor(save: Save, load: Load) -> None:
    value = torch.zeros(3 << 20)
    value[-1] = 1e6
    with pytest.raises(UnsafeConversion):
        load(Holder(torch.zeros(3 << 20, dtype=torch.float16)), save(Holder(value).state_dict()))


def test_only_the_rows_that_are_taken_must_fit(save: Save, load: Load) -> None:
    source, model = nn.Linear(2, 3), nn.Linear(2, 2).half()
    with torch.no_grad():
        source.weight[1] = 1e6
    folder = save(source.state_dict(), ["a", "b", "c"], ["weight", "bias"])
    report = load(model, folder, new_head=["c", "a"])
    assert torch.equal(model.weight, source.weight[[2, 0]].half())
    assert report.coverage.all_tensors == 0
    with pytest.raises(UnsafeConversion):
        load(model, folder, new_head=["c", "b"])


@pytest.mark.parametrize(
    ("source", "target"), [("F32", "I64"), ("I64", "F32"), ("BOOL", "U8"), ("C64", "F32"), ("U8", "BOOL")]
)
def test_values_of_another_family_are_a_mismatch(source: str, target: str, save: Save, load: Load) -> None:
    model = into(target)
    own = model.value.clone()
    report = load(model, save(Holder(torch.ones(4).to(TORCH_DTYPES[source])).state_dict()))
    (row,) = report.mismatched
    assert (row.name, row.reason) == ("value", f"{source} values do not convert to {target}")
    assert (row.source_shape, row.shape) == ((4,), (4,))
    assert torch.equal(model.value, own)


@pytest.mark.parametrize("dtype", ["F4", "F6_E2M3", "F6_E3M2"])
def test_types_that_torch_lacks_are_a_mismatch(dtype: str) -> None:
    assert why_not_convertible(dtype, dtype) == f"{dtype} values cannot be read with torch"


def test_scales_are_no_numbers_like_others() -> None:
    assert why_not_convertible("F32", "F8_E8M0")
    assert why_not_convertible("F8_E8M0", "F32")
    assert not why_not_convertible("F8_E8M0", "F8_E8M0")

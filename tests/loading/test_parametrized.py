import pytest
from hypothesis import given
from hypothesis import strategies as st

from cosemzoo.loading.pairing import leaf_of, module_of
from cosemzoo.loading.parametrized import find_parametrized, has_dependent_rows

FORMS = {
    "weight_norm": ("parametrizations.weight.original0", "parametrizations.weight.original1"),
    "spectral_norm": (
        "parametrizations.weight.original",
        "parametrizations.weight.0._u",
        "parametrizations.weight.0._v",
    ),
    "parametrized": ("parametrizations.weight.original",),
    "old weight_norm": ("weight_g", "weight_v"),
    "old spectral_norm": ("weight_orig", "weight_u", "weight_v"),
    "prune": ("weight_orig", "weight_mask"),
}


@pytest.mark.parametrize("module", ["", "a.", "a.0.b."])
@pytest.mark.parametrize("form", FORMS)
def test_the_parts_of_a_weight_are_found(form: str, module: str) -> None:
    parts = [module + name for name in FORMS[form]]
    found = find_parametrized([f"{module}bias", *parts, "other.weight"])
    assert {plain: set(one.parts.values()) for plain, one in found.items()} == {f"{module}weight": set(parts)}
    assert found[f"{module}weight"].how == form.removeprefix("old ")


@pytest.mark.parametrize("names", [["a_g"], ["a_g", "a_u"], ["a_orig"], ["parametrizations.weight"]], ids=str)
def test_names_that_only_look_like_parts_are_none(names: list[str]) -> None:
    assert find_parametrized(names) == {}


@given(
    st.lists(
        st.sampled_from(["a", "a.weight", "a.weight_g", "a.weight_v", "a.bias_orig", "b_mask", "b_orig"])
    )
)
def test_a_weight_that_is_there_is_in_no_parts(names: list[str]) -> None:
    found = find_parametrized(names)
    assert not found.keys() & set(names)
    assert all(set(one.parts.values()) <= set(names) for one in found.values())


def test_only_the_parts_of_weight_norm_have_rows_of_their_own() -> None:
    dependent = {form for form, names in FORMS.items() if any(map(has_dependent_rows, names))}
    assert dependent == FORMS.keys() - {"weight_norm", "old weight_norm"}


def test_a_part_is_of_the_module_of_its_weight() -> None:
    name = "a.0.parametrizations.weight.original0"
    assert (module_of(name), leaf_of(name)) == ("a.0", "parametrizations.weight.original0")
    assert module_of("parametrizations.weight.original0") == ""
    assert leaf_of("parametrizations.weight.original0") == "parametrizations.weight.original0"

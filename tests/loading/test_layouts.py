import pytest

from cosemzoo.loading.layouts import AS_IS, LAYOUTS, detect_layout, find_layout, wrapper_prefix

NAMES = {
    "cellmap-models": ["backbone.0.weight", "prediction_head.weight"],
    "cellmap-models before 2024-03": ["unet.0.weight", "prediction_head.weight"],
    "dacapo 0.3": [
        "architecture.unet.0.weight",
        "prediction_head.weight",
        "chain.0.unet.0.weight",
        "chain.1.weight",
    ],
    "dacapo main": ["prediction_head.weight", "chain.0.0.weight", "chain.1.weight"],
}


@pytest.mark.parametrize("layout", LAYOUTS, ids=lambda layout: layout.name)
def test_a_layout_is_detected_by_its_names_in_any_order(layout: object) -> None:
    names = NAMES[layout.name]  # type: ignore[attr-defined]
    assert detect_layout(names) is layout
    assert detect_layout(reversed(names)) is layout


@pytest.mark.parametrize("layout", LAYOUTS, ids=lambda layout: layout.name)
def test_every_layout_has_the_same_canonical_names(layout: object) -> None:
    canonical = {layout.canonical(name) for name in NAMES[layout.name]}  # type: ignore[attr-defined]
    assert canonical == {"backbone.0.weight", "prediction_head.weight"}


@pytest.mark.parametrize("names", [[], ["encoder.weight"], ["prediction_head.weight"], ["backbone"]], ids=str)
def test_names_without_a_backbone_prefix_stay_as_they_are(names: list[str]) -> None:
    assert detect_layout(names) is AS_IS
    assert [AS_IS.canonical(name) for name in names] == names


def test_a_backbone_that_holds_a_unet_among_others_is_the_shorter_layout() -> None:
    names = ["chain.0.unet.weight", "chain.0.stem.weight", "chain.0.neck.weight", "chain.1.weight"]
    layout = detect_layout(names)
    assert layout.name == "dacapo main"
    assert layout.canonical("chain.0.unet.weight") == "backbone.unet.weight"


def test_a_layout_is_found_by_its_name_only() -> None:
    assert find_layout("dacapo main") is LAYOUTS[3]
    assert find_layout("dacapo") is None
    assert find_layout(None) is None


@pytest.mark.parametrize(
    ("names", "prefix"),
    [
        ([], ""),
        (["a", "module.b"], ""),
        (["module.a", "module.b"], "module."),
        (["module._orig_mod.a", "module._orig_mod.b"], "module._orig_mod."),
        (["_orig_mod.module.a", "_orig_mod.b"], "_orig_mod."),
        (["modules.a"], ""),
    ],
    ids=str,
)
def test_wrappers_are_what_stands_before_every_name(names: list[str], prefix: str) -> None:
    assert wrapper_prefix(names) == prefix

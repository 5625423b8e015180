import json
from typing import Any

import pytest
from attrs import evolve
from hypothesis import given
from hypothesis import strategies as st

from cosemzoo.errors import InvalidIndex, InvalidManifest
from cosemzoo.manifest import (
    Architecture,
    Channel,
    HeadTensor,
    Index,
    InheritedChannel,
    Lineage,
    Manifest,
    Release,
    Target,
    check_manifest,
    is_manifest,
    read_index,
    read_manifest,
)

SHA = "a" * 64
COMMIT = "b" * 40
SHAPES = {"head.weight": (2, 8, 1, 1, 1), "head.bias": (2,), "body.weight": (8, 1, 3, 3, 3)}
MANIFEST = Manifest(
    run="setup04",
    iteration=1820500,
    channels=(Channel("mito", "distance"), Channel("er", "distance")),
    head=(HeadTensor("head.weight"), HeadTensor("head.bias")),
    input_voxel_size=(8.0, 8.0, 8.0),
    output_voxel_size=(4.0, 4.0, 4.0),
    input_range=(-1.0, 1.0),
    input_sampling="every second voxel",
    target=Target("tanh(signed distance / 50 nm)", scale=50.0, threshold=0.0),
    architecture=Architecture("cosem-unet", {"downsample_factors": [[2, 2, 2]], "constant_upsample": True}),
    layout="cellmap-models",
    lineage=Lineage("cosemzoo/setup04", COMMIT, "https://example.org/x", SHA),
    generated=True,
    tool_version="0.1.0",
)
FINE_TUNED = evolve(
    MANIFEST,
    lineage=Lineage(
        "cosemzoo/setup04",
        COMMIT,
        base_reference="setup04@1820500",
        channels=(InheritedChannel("mito", "distance", "er", "distance"), InheritedChannel("er", "distance")),
    ),
)
INDEX = Index(
    run="setup04",
    criteria={
        "1": Release(COMMIT, {"model.safetensors": SHA}, ("mito", "er"), "2026-01-01T00:00:00+00:00"),
        "2": Release(COMMIT, {"model.safetensors": SHA}, ("mito",), "2026-01-02", "yanked", "wrong labels"),
    },
    aliases={"best": "1"},
)

json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**53), 2**53)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=["Cs"])),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.text(st.characters(exclude_categories=["Cs"]), max_size=5), inner, max_size=3)
    ),
    max_leaves=8,
)


def document(**changes: Any) -> bytes:
    return json.dumps(json.loads(MANIFEST.to_json()) | changes).encode()


def index_document(**changes: Any) -> bytes:
    return json.dumps(json.loads(INDEX.to_json()) | changes).encode()


MITO, ER = {"label": "mito", "kind": "distance"}, {"label": "er", "kind": "distance"}


def inherited(**changes: Any) -> dict[str, Any]:
    return {"lineage": {"base_repository": "cosemzoo/setup04", "base_commit": COMMIT} | changes}


def problems(text: bytes, shapes: dict[str, tuple[int, ...]] | None = None) -> dict[str, str]:
    with pytest.raises(InvalidManifest) as caught:
        read_manifest(text, "config.json", shapes)
    assert all(f"{path}: {problem}" in str(caught.value) for path, problem in caught.value.problems)
    return dict(caught.value.problems)


@pytest.mark.parametrize("manifest", [MANIFEST, FINE_TUNED])
def test_a_manifest_survives_writing_and_reading(manifest: Manifest) -> None:
    assert read_manifest(manifest.to_json().encode(), "config.json", SHAPES) == manifest


def test_the_shortest_manifest_is_read() -> None:
    text = (
        b'{"format_version": 1, "run": "r", "channels": [{"label": "mito", "kind": "distance"}], "head": []}'
    )
    manifest = read_manifest(text, "config.json")
    assert manifest.labels == ("mito",)
    assert manifest.iteration is None


def test_the_same_manifest_is_always_the_same_text() -> None:
    text = MANIFEST.to_json()
    assert read_manifest(text.encode(), "config.json").to_json() == text
    assert list(json.loads(text))[:3] == ["format_version", "run", "iteration"]


def test_what_its_labels_mean_can_be_said() -> None:
    assert read_manifest(document(vocabulary="cosem"), "config.json").vocabulary == "cosem"
    assert read_manifest(document(vocabulary="of a later release"), "config.json").vocabulary is not None
    assert problems(document(vocabulary=7)) == {"$.vocabulary": "is 7, not a text"}


@given(
    st.lists(
        st.builds(Channel, st.sampled_from(["a", "b", "c"]), st.sampled_from(["x", "y"])),
        unique_by=str,
        max_size=6,
    )
)
def test_different_channels_have_different_names(channels: list[Channel]) -> None:
    names = Manifest(run="run", channels=tuple(channels), head=()).channel_names
    assert len({*names}) == len(channels)
    for name, channel in zip(names, channels, strict=True):
        alone = [other.label for other in channels].count(channel.label) == 1
        assert name == (channel.label if alone else str(channel))


def test_several_kinds_per_label_can_be_said() -> None:
    channels = tuple(Channel(label, kind) for kind in ("one-hot", "distance") for label in ("mito", "er"))
    manifest = Manifest(run="r", channels=channels, head=(HeadTensor("head.weight"),))
    read = read_manifest(manifest.to_json().encode(), "config.json", {"head.weight": (4, 3)})
    assert read.channels == channels
    assert read.labels == ("mito", "er")


@given(
    st.dictionaries(
        st.text(st.characters(exclude_categories=["Cs"]), min_size=1).map("x-".__add__),
        json_values,
        max_size=3,
    )
)
def test_unknown_fields_survive_at_every_level(unknown: dict[str, Any]) -> None:
    content = json.loads(FINE_TUNED.to_json())
    for record in (
        content,
        content["channels"][0],
        content["head"][1],
        content["target"],
        content["lineage"],
        content["lineage"]["channels"][1],
    ):
        record.update(unknown)
    read = read_manifest(json.dumps(content).encode(), "config.json")
    assert json.loads(read.to_json()) == content


def test_a_manifest_without_what_is_inherited_stays_the_text_that_it_was() -> None:
    lineage = {"base_repository": "cosemzoo/setup04", "base_commit": COMMIT, "source_sha256": SHA}
    read = read_manifest(document(lineage=lineage), "config.json")
    assert read.lineage == Lineage("cosemzoo/setup04", COMMIT, source_sha256=SHA)
    assert json.loads(read.to_json())["lineage"] == lineage


@pytest.mark.parametrize(
    ("channel", "source"),
    [
        (InheritedChannel("er", "distance"), None),
        (InheritedChannel("er", "distance", "mito", "one-hot"), "mito (one-hot)"),
        (InheritedChannel("er", "distance", "mito"), "mito"),
        (InheritedChannel("er", "distance", source_row=0), "row 0"),
    ],
)
def test_what_a_channel_started_from_is_said(channel: InheritedChannel, source: str | None) -> None:
    assert channel.source == source


@pytest.mark.parametrize(
    ("lineage", "expected"),
    [
        (Lineage(), False),
        (Lineage(source_url="https://example.org/x", source_sha256=SHA), False),
        (Lineage("cosemzoo/setup04"), True),
        (Lineage(base_content_hash=SHA), True),
    ],
)
def test_a_converted_run_has_no_base(lineage: Lineage, expected: bool) -> None:
    assert lineage.has_base is expected


def test_a_manifest_does_not_look_like_a_transformers_config() -> None:
    assert not {"model_type", "architectures", "auto_map"} & set(json.loads(MANIFEST.to_json()))


@pytest.mark.parametrize(
    ("path", "changes", "says"),
    [
        ("$.format_version", {"format_version": 2}, "upgrade"),
        ("$.format_version", {"format_version": "1"}, "'1'"),
        ("$.format_version", {"format_version": True}, "True"),
        ("$.run", {"run": 4}, "not a text"),
        ("$.run", {"run": " "}, "is empty"),
        ("$.head[1].name", {"head": [{"name": "w"}, {"name": "w", "channel_axis": 1}]}, "listed before"),
        ("$.iteration", {"iteration": "1820500"}, "not an integer"),
        ("$.iteration", {"iteration": True}, "not an integer"),
        ("$.iteration", {"iteration": -1}, "less than 0"),
        ("$.channels", {"channels": {"mito": "distance"}}, "not a list"),
        ("$.channels", {"channels": []}, "is empty"),
        ("$.channels[1]", {"channels": [{"label": "a", "kind": "b"}, "mito"]}, "not an object"),
        ("$.channels[0].kind", {"channels": [{"label": "mito"}]}, "is missing"),
        ("$.channels[0].label", {"channels": [{"label": "", "kind": "x"}]}, "is empty"),
        ("$.channels[1]", {"channels": [{"label": "a", "kind": "b"}] * 2}, "is also channel 0"),
        ("$.head", {"head": "head.weight"}, "not a list"),
        ("$.head[0].channel_axis", {"head": [{"name": "w", "channel_axis": 0.5}]}, "not an integer"),
        ("$.input_voxel_size", {"input_voxel_size": [8, 8]}, "2 members, not 3"),
        ("$.input_voxel_size", {"input_voxel_size": [8, 8, 0]}, "above 0"),
        ("$.output_voxel_size[2]", {"output_voxel_size": [8, 8, "8"]}, "not a number"),
        ("$.output_voxel_size", {"output_voxel_size": 8}, "not a list"),
        ("$.input_range", {"input_range": [1, -1]}, "smaller"),
        ("$.target.scale", {"target": {"description": "x", "scale": "50"}}, "not a number"),
        ("$.architecture", {"architecture": "unet"}, "not an object"),
        ("$.lineage.source_sha256", {"lineage": {"source_sha256": "abc"}}, "64 hexadecimal"),
        ("$.lineage.base_commit", {"lineage": {"base_commit": COMMIT.upper()}}, "40 hexadecimal"),
        ("$.lineage.base_commit", inherited(base_commit="x"), "40 hexadecimal"),
        ("$.lineage.base_reference", inherited(base_reference=" "), "is empty"),
        ("$.lineage.base_reference", inherited(base_reference=7), "not a text"),
        ("$.lineage.base_content_hash", inherited(base_content_hash="x"), "64 hexadecimal"),
        ("$.lineage.base_content_hash", inherited(base_content_hash=SHA), "a folder has no commit"),
        ("$.lineage.channels", inherited(channels={}), "not a list"),
        ("$.lineage.channels[1]", inherited(channels=[MITO, "er"]), "not an object"),
        ("$.lineage.channels[1].label", inherited(channels=[MITO, {"kind": "distance"}]), "is missing"),
        ("$.lineage.channels", inherited(channels=[MITO]), "1 members, but there are 2 channels"),
        ("$.lineage.channels", {"lineage": {"channels": [MITO, ER]}}, "no base is given"),
        ("$.lineage.channels[1]", inherited(channels=[MITO, ER | {"kind": "one-hot"}]), "is er (distance)"),
        (
            "$.lineage.channels[0].source_kind",
            inherited(channels=[MITO | {"source_kind": "distance"}, ER]),
            "without source_label",
        ),
        (
            "$.lineage.channels[1].source_row",
            inherited(channels=[MITO, ER | {"source_row": -1}]),
            "less than 0",
        ),
        ("$.generated", {"generated": "yes"}, "true or false"),
    ],
)
def test_a_wrong_value_is_reported_at_its_path(path: str, changes: dict[str, Any], says: str) -> None:
    found = problems(document(**changes))
    assert list(found) == [path]
    assert says in found[path]


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity", "1e999"])
@pytest.mark.parametrize("field", ["input_voxel_size", "x-unknown", "architecture"])
def test_a_number_that_is_not_finite_is_refused_anywhere(number: str, field: str) -> None:
    value = {"name": "n", "arguments": {"a": [1, 7777]}} if field == "architecture" else [1, 2, 7777]
    text = document(**{field: value}).replace(b"7777", number.encode())
    assert any("finite" in problem or "not JSON" in problem for problem in problems(text).values())


@pytest.mark.parametrize("depth", [500, 700, 900, 5000])
def test_a_field_that_is_nested_too_deeply_is_refused_or_read(depth: int) -> None:
    text = document(x=7777).replace(b"7777", b"[" * depth + b"]" * depth)
    try:
        read_manifest(text, "config.json")
    except InvalidManifest as error:
        refused = error
    else:
        return
    assert "nested too deeply" in str(refused)


@pytest.mark.parametrize(
    "text", [b"", b"{", b"[]", b"null", b"\xff{}", b'"x"', b"{}" + b"{" * 3, b"[" * 100_000]
)
def test_what_is_no_json_object_is_refused(text: bytes) -> None:
    assert list(problems(text)) == ["$"]


def test_a_repeated_key_is_refused() -> None:
    text = MANIFEST.to_json().replace('"run": "setup04"', '"run": "setup04", "run": "setup28"')
    assert problems(text.encode()) == {"$": "repeats the key 'run'"}


def test_every_problem_is_in_one_error() -> None:
    text = document(
        format_version=9,
        iteration="x",
        input_range=[0, float("1")],
        layout=1,
        generated=None,
        channels=[{"label": "a"}],
    ).replace(b"0, 1.0", b"0, 1e999")
    found = problems(text, {})
    assert set(found) >= {
        "$.format_version",
        "$.iteration",
        "$.input_range[1]",
        "$.layout",
        "$.generated",
        "$.channels[0].kind",
    }


def test_contradictions_are_reported_together_with_wrong_values() -> None:
    found = problems(document(iteration="x"), {**SHAPES, "head.weight": (3, 8, 1, 1, 1)})
    assert set(found) == {"$.iteration", "$.head[0]"}


@pytest.mark.parametrize(
    ("shapes", "head", "path", "says"),
    [
        ({**SHAPES, "head.weight": (3, 8, 1, 1, 1)}, None, "$.head[0]", "has 3 slices along axis 0"),
        ({**SHAPES, "head.weight": (1, 8, 1, 1, 1), "head.bias": (1,)}, None, "$.channels", "er (distance)"),
        ({"head.bias": (2,)}, None, "$.head[0].name", "no tensor 'head.weight'"),
        (SHAPES, [{"name": "head.bias", "channel_axis": 1}], "$.head[0].channel_axis", "shape [2]"),
        (SHAPES, [{"name": "head.bias", "channel_axis": -1}], "$.head[0].channel_axis", "is -1"),
        (
            SHAPES,
            [{"name": "head.bias", "first_channel": 1}],
            "$.head[0]",
            "from channel 1 on, there are 1 channels",
        ),
        (SHAPES, [{"name": "head.bias", "first_channel": -1}], "$.head[0]", "from channel -1"),
        (SHAPES, [], "$.channels", "no head tensor"),
    ],
)
def test_channels_that_contradict_the_tensors_are_refused(
    shapes: dict[str, tuple[int, ...]], head: list[dict[str, Any]] | None, path: str, says: str
) -> None:
    text = document() if head is None else document(head=head)
    found = problems(text, shapes)
    assert says in found[path]


def test_several_heads_share_the_channels() -> None:
    head = [{"name": "a.weight"}, {"name": "b.weight", "first_channel": 1, "channel_axis": 1}]
    shapes = {"a.weight": (1, 8), "b.weight": (8, 1, 3)}
    assert len(read_manifest(document(head=head), "config.json", shapes).head) == 2


def test_a_manifest_made_in_python_is_checked_against_tensors() -> None:
    check_manifest(MANIFEST, SHAPES, "here")
    with pytest.raises(InvalidManifest, match="no tensor"):
        check_manifest(MANIFEST, {}, "here")


@given(st.binary(max_size=200) | json_values.map(lambda value: json.dumps(value).encode()))
def test_no_text_crashes_the_readers(text: bytes) -> None:
    with pytest.raises(InvalidManifest):
        read_manifest(text, "config.json", {})
    with pytest.raises(InvalidIndex):
        read_index(text, "criteria.json")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (MANIFEST.to_json().encode(), True),
        (document(format_version=3), True),
        (b'{"model_type": "vit", "architectures": ["ViT"]}', False),
        (b"{}", False),
        (b'{"channels": 3}', False),
        (document(format_version=None), True),
        (MANIFEST.to_json().encode()[:-5], True),
        (b"", True),
        (b"not json", True),
        (b"[1]", True),
    ],
)
def test_other_tools_configurations_are_told_apart(text: bytes, expected: bool) -> None:
    assert is_manifest(text) is expected


def test_an_index_survives_writing_and_reading() -> None:
    assert read_index(INDEX.to_json().encode(), "criteria.json") == INDEX


@pytest.mark.parametrize(
    ("path", "changes", "says"),
    [
        ("$.criteria", {"criteria": [], "aliases": {}}, "not an object"),
        ("$.criteria['1']", {"criteria": {"1": 3}}, "not an object"),
        (
            "$.criteria['1'].commit",
            {"criteria": {"1": {"commit": "x", "weights": {"f": SHA}, "labels": [], "date": "2026-01-01"}}},
            "40 hex",
        ),
        (
            "$.criteria['1'].weights['f']",
            {
                "criteria": {
                    "1": {"commit": COMMIT, "weights": {"f": "x"}, "labels": [], "date": "2026-01-01"}
                }
            },
            "64 hex",
        ),
        (
            "$.criteria['1'].weights",
            {"criteria": {"1": {"commit": COMMIT, "weights": {}, "labels": [], "date": "2026-01-01"}}},
            "is empty",
        ),
        (
            "$.criteria['1'].date",
            {"criteria": {"1": {"commit": COMMIT, "weights": {"f": SHA}, "labels": [], "date": "yesterday"}}},
            "ISO 8601",
        ),
        (
            "$.criteria['1'].labels[0]",
            {
                "criteria": {
                    "1": {"commit": COMMIT, "weights": {"f": SHA}, "labels": [1], "date": "2026-01-01"}
                }
            },
            "not a text",
        ),
        (
            "$.criteria['1'].state",
            {
                "criteria": {
                    "1": {
                        "commit": COMMIT,
                        "weights": {"f": SHA},
                        "labels": [],
                        "date": "2026-01-01",
                        "state": "lost",
                    }
                }
            },
            "lost",
        ),
        (
            "$.criteria['1'].reason",
            {
                "criteria": {
                    "1": {
                        "commit": COMMIT,
                        "weights": {"f": SHA},
                        "labels": [],
                        "date": "2026-01-01",
                        "state": "yanked",
                    }
                }
            },
            "says why",
        ),
        ("$.aliases['best']", {"aliases": {"best": "9"}}, "not in $.criteria"),
        ("$.aliases['1']", {"aliases": {"1": "2"}}, "also a criterion"),
        ("$.aliases['best']", {"aliases": {"best": 1}}, "not a text"),
    ],
)
def test_a_wrong_index_is_reported_at_its_path(path: str, changes: dict[str, Any], says: str) -> None:
    with pytest.raises(InvalidIndex) as caught:
        read_index(index_document(**changes), "criteria.json")
    found = dict(caught.value.problems)
    assert says in found[path]

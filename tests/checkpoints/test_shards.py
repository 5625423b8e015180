import contextlib
import json
from collections.abc import Mapping
from pathlib import Path

import pytest
import torch
from huggingface_hub import save_torch_state_dict
from hypothesis import given
from hypothesis import strategies as st

from cosemzoo.checkpoints.entries import TensorEntry
from cosemzoo.checkpoints.header import Header, read_header
from cosemzoo.checkpoints.shards import (
    ShardIndex,
    StoredTensor,
    WeightsTable,
    merge_headers,
    parse_shard_index,
)
from cosemzoo.errors import InvalidSafetensors

ONE, TWO = "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"


def header_of(names: str, metadata: Mapping[str, str] | None = None) -> Header:
    """Give the header of a file with one F32 tensor of two elements per letter of `names`."""
    entries = {name: TensorEntry(name, "F32", (2,), 8 * i, 8 * i + 8) for i, name in enumerate(names)}
    return Header(entries, metadata or {}, 64, 64 + 8 * len(names))


def problems_of_text(text: bytes) -> tuple[str, ...]:
    with pytest.raises(InvalidSafetensors) as caught:
        parse_shard_index(text, "index.json")
    assert caught.value.source == "index.json"
    return caught.value.problems


def problems_of_merge(index: ShardIndex, headers: Mapping[str, Header]) -> tuple[str, ...]:
    with pytest.raises(InvalidSafetensors) as caught:
        merge_headers(index, headers, "index.json")
    return caught.value.problems


def test_a_table_of_one_file_holds_its_tensors_and_aliases() -> None:
    table = WeightsTable.single("model.safetensors", header_of("ab", {"tied": "a", "format": "pt"}))
    assert list(table.tensors) == ["a", "b"]
    assert table.tensors["b"] == StoredTensor("model.safetensors", TensorEntry("b", "F32", (2,), 8, 16))
    assert table.aliases == {"tied": "a"}
    assert (table.parameters, table.nbytes, table.files) == (4, 16, ("model.safetensors",))


def test_a_file_without_tensors_is_an_empty_table() -> None:
    table = WeightsTable.single("model.safetensors", header_of(""))
    assert (dict(table.tensors), table.parameters, table.nbytes) == ({}, 0, 0)
    assert table.files == ("model.safetensors",)


def test_shards_are_joined_file_by_file_in_the_order_of_their_bytes() -> None:
    index = ShardIndex({"a": TWO, "c": ONE, "b": ONE}, {"total_size": 24, "tied": "b"})
    headers = {TWO: header_of("a", {"also": "c"}), ONE: header_of("cb", {"format": "pt"})}
    table = merge_headers(index, headers, "index.json")
    assert [(name, tensor.file) for name, tensor in table.tensors.items()] == [
        ("c", ONE),
        ("b", ONE),
        ("a", TWO),
    ]
    assert table.aliases == {"tied": "b", "also": "c"}
    assert (table.parameters, table.nbytes, table.files) == (6, 24, (ONE, TWO))


def test_what_huggingface_hub_writes_in_shards_is_one_table(tmp_path: Path) -> None:
    shared = torch.ones(4)
    state = {"a": torch.zeros(4), "b": shared, "c": shared, "d": torch.zeros(2, dtype=torch.int64)}
    save_torch_state_dict(state, tmp_path, max_shard_size=16)
    index = parse_shard_index((tmp_path / "model.safetensors.index.json").read_bytes(), "index.json")
    assert len(index.files) == 3
    table = merge_headers(index, {file: read_header(tmp_path / file) for file in index.files}, "index.json")
    assert set(table.tensors) == {"a", "b", "d"}
    assert table.aliases == {"c": "b"}
    assert (table.parameters, table.nbytes) == (10, 48)


def test_the_index_keeps_its_metadata_and_what_else_it_holds_is_ignored() -> None:
    text = json.dumps({"weight_map": {"a": ONE}, "metadata": {"total_size": 8}, "later": [1]}).encode()
    index = parse_shard_index(text, "index.json")
    assert (index.weight_map, index.metadata) == ({"a": ONE}, {"total_size": 8})


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        pytest.param(b"", "is not JSON", id="nothing"),
        pytest.param(b"[]", "is [], not an object", id="an array"),
        pytest.param(b"{}", "weight_map is None", id="no map"),
        pytest.param(b'{"weight_map": {}}', "weight_map is {}", id="an empty map"),
        pytest.param(b'{"weight_map": ["a"]}', "weight_map is ['a']", id="a list as map"),
        pytest.param(
            b'{"weight_map": {"a": "x.safetensors"}, "metadata": 1}', "metadata is 1", id="metadata"
        ),
        pytest.param(
            b'{"weight_map": {"a": "x.safetensors", "a": "y.safetensors"}}', "'a' appears more", id="twice"
        ),
        pytest.param(
            b'{"weight_map": {"__metadata__": "x.safetensors"}}', "cannot be a tensor's", id="reserved"
        ),
        pytest.param(b'{"weight_map": {"\\ud800": "x.safetensors"}}', "cannot be a tensor's", id="no text"),
        pytest.param(b'{"weight_map": {"a": 1}}', "has 1 for 'a'", id="a number as file"),
    ],
)
def test_a_malformed_index_is_refused_and_the_reason_named(text: bytes, problem: str) -> None:
    assert any(problem in found for found in problems_of_text(text))


@pytest.mark.parametrize(
    "file",
    [
        "../model.safetensors",
        "folder/model.safetensors",
        "/model.safetensors",
        "folder\\model.safetensors",
        "C:model.safetensors",
        ".model.safetensors",
        ".safetensors",
        "model.safetensors\n",
        "mod\x00el.safetensors",
        "model.bin",
        "model.safetensors.bin",
        "",
        "m" * 250 + ".safetensors",
        "\ud800.safetensors",
    ],
)
def test_only_plain_names_of_safetensors_files_are_taken_from_an_index(file: str) -> None:
    text = json.dumps({"weight_map": {"a": file}}).encode()
    assert any("not a plain file name" in found for found in problems_of_text(text))


def test_every_problem_of_an_index_is_listed() -> None:
    text = (
        b'{"weight_map": {"a": "../a", "b": 1, "c": "c.safetensors", "c": "d.safetensors"}, "metadata": []}'
    )
    assert len(problems_of_text(text)) == 4


@given(st.binary(max_size=80))
def test_random_bytes_are_an_index_or_refused(text: bytes) -> None:
    with contextlib.suppress(InvalidSafetensors):
        parse_shard_index(b'{"weight_map":{"a":"' + text, "index.json")


@pytest.mark.parametrize(
    ("weight_map", "headers", "problem"),
    [
        pytest.param(
            {"a": ONE, "b": TWO}, {ONE: header_of("a")}, f"the shard '{TWO}' is missing", id="shard"
        ),
        pytest.param(
            {"a": ONE, "b": ONE}, {ONE: header_of("a")}, f"tensor 'b' is not in '{ONE}'", id="tensor"
        ),
        pytest.param(
            {"a": ONE}, {ONE: header_of("ab")}, f"'b' is in '{ONE}', but not in the index", id="more"
        ),
        pytest.param({"a": ONE}, {ONE: header_of("a"), TWO: header_of("b")}, "not in the index", id="a file"),
        pytest.param(
            {"a": ONE, "b": TWO},
            {ONE: header_of("a"), TWO: header_of("ab")},
            f"'a' is in more than one shard: '{ONE}', '{TWO}'",
            id="twice",
        ),
        pytest.param(
            {"a": ONE, "b": ONE, "c": TWO},
            {ONE: header_of("a"), TWO: header_of("bc")},
            f"'b' is in '{TWO}', the index says in '{ONE}'",
            id="another place",
        ),
    ],
)
def test_shards_that_contradict_the_index_are_refused(
    weight_map: Mapping[str, str], headers: Mapping[str, Header], problem: str
) -> None:
    (found,) = problems_of_merge(ShardIndex(weight_map, {}), headers)
    assert problem in found


def test_every_contradiction_is_listed() -> None:
    index = ShardIndex({"a": ONE, "b": ONE, "c": "third.safetensors"}, {})
    found = problems_of_merge(index, {ONE: header_of("a"), TWO: header_of("ax")})
    assert len(found) == 4


def test_one_alias_of_two_tensors_is_refused() -> None:
    index = ShardIndex({"a": ONE, "b": TWO}, {"tied": "a"})
    headers = {ONE: header_of("a"), TWO: header_of("b", {"tied": "b"})}
    assert problems_of_merge(index, headers) == ("'tied' is an alias of both 'a' and 'b'",)

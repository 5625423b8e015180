import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch

from cosemzoo.checkpoints import mapped
from cosemzoo.checkpoints.header import read_header
from cosemzoo.checkpoints.mapped import TORCH_DTYPES, MappedWeights, state_dict_of
from cosemzoo.checkpoints.shards import WeightsTable
from cosemzoo.checkpoints.writer import write_safetensors
from cosemzoo.errors import InvalidSafetensors
from cosemzoo.zoo import Zoo

FILE = "model.safetensors"


def opened(path: Path) -> tuple[WeightsTable, MappedWeights]:
    table = WeightsTable.single(FILE, read_header(path))
    return table, MappedWeights(table, {FILE: path})


def raw(path: Path, tensors: Mapping[str, tuple[str, list[int], bytes]]) -> Path:
    """Write what the writer does not: any dtype, any order, any place."""
    header: dict[str, Any] = {}
    data = b""
    for name, (dtype, shape, content) in tensors.items():
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [len(data), len(data) + len(content)]}
        data += content
    text = json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + data)
    return path


def test_tensors_are_those_that_were_written(tmp_path: Path) -> None:
    tensors = {
        "a": torch.rand(2, 3),
        "b": torch.tensor(7),
        "empty": torch.zeros(0, 2),
        "flag": torch.tensor([True]),
    }
    write_safetensors(tmp_path / FILE, tensors)
    table, weights = opened(tmp_path / FILE)
    state = state_dict_of(table, weights)
    assert state.keys() == tensors.keys()
    assert all(torch.equal(state[name], tensors[name]) for name in tensors)
    assert all(state[name].dtype == tensors[name].dtype for name in tensors)


@pytest.mark.parametrize("dtype", TORCH_DTYPES)
def test_every_dtype_is_read_at_any_place(dtype: str, tmp_path: Path) -> None:
    size = torch.empty(0, dtype=TORCH_DTYPES[dtype]).element_size()
    content = bytes([1] * 3 * size)
    path = raw(tmp_path / FILE, {"odd": ("U8", [1], b"\0"), "x": (dtype, [3], content)})
    _, weights = opened(path)
    tensor = weights.tensor("x")
    assert tensor.dtype == TORCH_DTYPES[dtype]
    assert tensor.view(torch.uint8).tolist() == list(content)


def test_a_type_that_torch_lacks_is_refused_when_it_is_read(tmp_path: Path) -> None:
    path = raw(tmp_path / FILE, {"fine": ("U8", [1], b"\7"), "x": ("F4", [2], b"\0")})
    _, weights = opened(path)
    assert weights.tensor("fine").item() == 7
    with pytest.raises(InvalidSafetensors, match="has no type for x, which is F4"):
        weights.tensor("x")


def test_writing_to_a_tensor_never_reaches_the_file(tmp_path: Path) -> None:
    write_safetensors(tmp_path / FILE, {"x": torch.zeros(3)})
    before = (tmp_path / FILE).read_bytes()
    _, weights = opened(tmp_path / FILE)
    tensor = weights.tensor("x")
    tensor.fill_(5)
    assert tensor.tolist() == [5, 5, 5]
    assert (tmp_path / FILE).read_bytes() == before
    assert opened(tmp_path / FILE)[1].tensor("x").tolist() == [0, 0, 0]


def test_a_tensor_outlives_the_weights_and_the_file(tmp_path: Path) -> None:
    write_safetensors(tmp_path / FILE, {"x": torch.ones(100_000)})
    tensor = opened(tmp_path / FILE)[1].tensor("x")
    (tmp_path / FILE).unlink()
    assert tensor.sum() == 100_000


def test_names_of_one_tensor_share_its_memory(tmp_path: Path) -> None:
    shared = torch.rand(3)
    write_safetensors(tmp_path / FILE, {"a": shared, "b": shared})
    state = state_dict_of(*opened(tmp_path / FILE))
    assert state["a"] is state["b"]
    assert torch.equal(state["b"], shared)


def test_shards_are_one_checkpoint(tmp_path: Path) -> None:
    for number, name in enumerate("ab"):
        write_safetensors(tmp_path / f"{name}.safetensors", {name: torch.full((2,), float(number))})
    index = {"metadata": {}, "weight_map": {name: f"{name}.safetensors" for name in "ab"}}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    checkpoint = Zoo(offline=True).resolve(tmp_path)
    weights = MappedWeights(
        checkpoint.weights, {f"{name}.safetensors": tmp_path / f"{name}.safetensors" for name in "ab"}
    )
    weights.read_ahead()
    assert state_dict_of(checkpoint.weights, weights)["b"].tolist() == [1, 1]


def test_tensors_are_on_the_cpu_whatever_the_default_device_is(tmp_path: Path) -> None:
    write_safetensors(tmp_path / FILE, {"x": torch.ones(2), "empty": torch.zeros(0)})
    with torch.device("meta"):
        state = state_dict_of(*opened(tmp_path / FILE))
    assert {tensor.device.type for tensor in state.values()} == {"cpu"}


@pytest.mark.parametrize(
    "change",
    [
        {"y": torch.zeros(3)},
        {"x": torch.zeros(1, 3)},
        {"x": torch.zeros(3, dtype=torch.int32)},
        {"x": torch.zeros(3), "y": torch.zeros(1)},
    ],
    ids=["name", "shape", "dtype", "more"],
)
def test_a_file_with_another_header_than_the_one_planned_for_is_refused(
    change: dict[str, torch.Tensor], tmp_path: Path
) -> None:
    write_safetensors(tmp_path / FILE, {"x": torch.zeros(3)})
    table, _ = opened(tmp_path / FILE)
    write_safetensors(tmp_path / FILE, change)
    with pytest.raises(InvalidSafetensors, match="it changed on disk"):
        MappedWeights(table, {FILE: tmp_path / FILE})


@pytest.mark.parametrize("size", [0, 7, 40, -1])
def test_a_file_that_was_cut_is_refused(size: int, tmp_path: Path) -> None:
    write_safetensors(tmp_path / FILE, {"x": torch.zeros(3)})
    table, _ = opened(tmp_path / FILE)
    os.truncate(tmp_path / FILE, size if size >= 0 else (tmp_path / FILE).stat().st_size + size)
    with pytest.raises(InvalidSafetensors, match=r"truncated|too short"):
        MappedWeights(table, {FILE: tmp_path / FILE})


def test_a_file_that_is_gone_is_an_error_of_the_system(tmp_path: Path) -> None:
    write_safetensors(tmp_path / FILE, {"x": torch.zeros(3)})
    table, _ = opened(tmp_path / FILE)
    (tmp_path / FILE).unlink()
    with pytest.raises(FileNotFoundError):
        MappedWeights(table, {FILE: tmp_path / FILE})


def test_reading_ahead_says_when_a_page_cannot_be_read(tmp_path: Path) -> None:
    write_safetensors(tmp_path / FILE, {"x": torch.zeros(30_000)})
    _, weights = opened(tmp_path / FILE)
    # Once the file is shorter, the pages of the mapping beyond its end are what an unreadable disk gives.
    os.truncate(tmp_path / FILE, 50_000)
    with pytest.raises(InvalidSafetensors, match="it changed on disk: it is shorter than it was"):
        weights.read_ahead()


def test_without_the_systems_help_reading_ahead_reads_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_safetensors(tmp_path / FILE, {"x": torch.zeros(3)})
    _, weights = opened(tmp_path / FILE)
    monkeypatch.setattr(mapped, "_MADV_POPULATE_READ", 10_000)
    weights.read_ahead()
    (tmp_path / FILE).unlink()
    with pytest.raises(FileNotFoundError):
        weights.read_ahead()

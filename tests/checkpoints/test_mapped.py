import gc
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch

from cosemzoo.checkpoints import mapped
from cosemzoo.checkpoints.header import read_header
from cosemzoo.checkpoints.mapped import READ_BYTES, TORCH_DTYPES, MappedWeights, state_dict_of
from cosemzoo.checkpoints.mounts import READS, Read
from cosemzoo.checkpoints.shards import StoredTensor, WeightsTable
from cosemzoo.checkpoints.writer import write_safetensors
from cosemzoo.errors import InvalidSafetensors
from cosemzoo.zoo import Zoo

FILE = "model.safetensors"


def opened(path: Path, read: Read = "mmap") -> tuple[WeightsTable, MappedWeights]:
    table = WeightsTable.single(FILE, read_header(path))
    return table, MappedWeights(table, {FILE: path}, read)


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


@pytest.mark.parametrize("read", READS)
def test_reading_ahead_says_when_a_page_cannot_be_read(read: Read, tmp_path: Path) -> None:
    write_safetensors(tmp_path / FILE, {"x": torch.zeros(30_000)})
    _, weights = opened(tmp_path / FILE, read)
    # Once the file is shorter, the pages of the mapping beyond its end are what an unreadable disk gives.
    os.truncate(tmp_path / FILE, 50_000)
    with pytest.raises(InvalidSafetensors, match="it changed on disk: it is shorter than it was"):
        weights.read_ahead()


def test_without_the_systems_help_reading_ahead_reads_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_safetensors(tmp_path / FILE, {"x": torch.zeros(30_000)})
    _, weights = opened(tmp_path / FILE)
    monkeypatch.setattr(mapped, "_MADV_POPULATE_READ", 10_000)
    weights.read_ahead()
    os.truncate(tmp_path / FILE, 50_000)
    with pytest.raises(InvalidSafetensors, match="shorter than it was"):
        weights.read_ahead()


@pytest.mark.parametrize("read", READS)
def test_the_file_that_is_read_is_the_one_whose_header_was_compared(read: Read, tmp_path: Path) -> None:
    write_safetensors(tmp_path / FILE, {"x": torch.ones(3)})
    _, weights = opened(tmp_path / FILE, read)
    write_safetensors(tmp_path / "other", {"x": torch.full((3,), 2.0)})
    (tmp_path / "other").replace(tmp_path / FILE)
    weights.read_ahead()
    assert weights.values(weights.tensor("x")).tolist() == [1, 1, 1]


def test_values_are_read_from_the_file_where_it_is_read_in_order(tmp_path: Path) -> None:
    tensors = {"a": torch.rand(5, 7), "b": torch.arange(9), "c": torch.rand(3).double(), "d": torch.rand(0)}
    write_safetensors(tmp_path / FILE, tensors)
    _, ordered = opened(tmp_path / FILE, "sequential")
    _, direct = opened(tmp_path / FILE, "mmap")
    for weights in (ordered, direct):
        weights.read_ahead()
        for name, tensor in tensors.items():
            assert torch.equal(weights.values(weights.tensor(name)), tensor)
        assert torch.equal(weights.values(weights.tensor("a")[2:4]), tensors["a"][2:4])
        assert torch.equal(weights.values(weights.tensor("a")[:, 2:4]), tensors["a"][:, 2:4])
    part, column = ordered.tensor("a")[2:4], ordered.tensor("a")[:, 1]
    assert ordered.values(part).data_ptr() == ordered.values(ordered.tensor("b")).data_ptr()
    assert ordered.values(part).data_ptr() != part.data_ptr()
    # What does not lie in one piece, or lies elsewhere, is given back.
    elsewhere = torch.rand(3)
    assert ordered.values(column) is column
    assert ordered.values(elsewhere) is elsewhere
    assert direct.values(part) is part


def test_a_part_that_is_larger_than_what_is_read_at_a_time_is_given_back(tmp_path: Path) -> None:
    write_safetensors(tmp_path / FILE, {"x": torch.zeros(READ_BYTES + 1, dtype=torch.uint8)})
    _, weights = opened(tmp_path / FILE, "sequential")
    weights.read_ahead()
    whole = weights.tensor("x")
    assert weights.values(whole) is whole
    assert weights.values(whole[1:]) is not whole


def test_each_value_is_read_from_its_own_shard(tmp_path: Path) -> None:
    for number, name in enumerate("abc"):
        write_safetensors(tmp_path / name, {name: torch.full((2,), float(number))})
    tensors: dict[str, StoredTensor] = {}
    for name in "abc":
        entry = read_header(tmp_path / name).tensors[name]
        tensors[name] = StoredTensor(name, entry)
    table = WeightsTable(tensors, {}, ("a", "b", "c"))
    weights = MappedWeights(table, {name: tmp_path / name for name in "abc"}, "sequential")
    weights.read_ahead()
    assert [weights.values(weights.tensor(name)).tolist() for name in "cab"] == [[2, 2], [0, 0], [1, 1]]


def test_what_can_no_longer_be_read_is_left_to_the_mapping(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> bool:
        raise OSError(5, "Input/output error")

    write_safetensors(tmp_path / FILE, {"x": torch.ones(3)})
    _, weights = opened(tmp_path / FILE, "sequential")
    weights.read_ahead()
    tensor = weights.tensor("x")
    for broken in (fail, lambda *_: False):
        monkeypatch.setattr(mapped, "_fill", broken)
        assert weights.values(tensor) is tensor


@pytest.mark.parametrize("read", READS)
def test_files_are_closed_with_the_weights(read: Read, tmp_path: Path) -> None:
    write_safetensors(tmp_path / FILE, {"x": torch.ones(3)})
    _, weights = opened(tmp_path / FILE, read)
    (file,) = weights._files.values()
    stream = file.opened
    del weights, file
    gc.collect()
    assert stream.closed


@pytest.mark.parametrize("read", READS)
def test_a_file_that_is_refused_is_closed(read: Read, tmp_path: Path) -> None:
    write_safetensors(tmp_path / FILE, {"x": torch.zeros(3)})
    table, _ = opened(tmp_path / FILE)
    write_safetensors(tmp_path / FILE, {"y": torch.zeros(3)})
    del _
    gc.collect()
    before = len(os.listdir("/proc/self/fd"))
    with pytest.raises(InvalidSafetensors):
        MappedWeights(table, {FILE: tmp_path / FILE}, read)
    gc.collect()
    assert len(os.listdir("/proc/self/fd")) == before

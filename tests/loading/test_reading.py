"""The same load, however the files are read: `read="auto"`, "mmap" and "sequential"."""

import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from cosemzoo.checkpoints import mapped
from cosemzoo.checkpoints.mapped import MappedWeights
from cosemzoo.checkpoints.mounts import READS, Read
from cosemzoo.errors import InvalidOption, InvalidSafetensors, UnsafeConversion
from cosemzoo.loading import apply
from cosemzoo.loading.copying import move_bytes
from cosemzoo.loading.report import LoadReport
from cosemzoo.starts import FolderStore, Start

Save = Callable[..., Path]
Load = Callable[..., LoadReport]
StateOf = Callable[[nn.Module], Any]

ORDERED: Read = "sequential"
HEAD = ["head.weight", "head.bias"]
#: Those that lie in one block on both sides, and are large enough.
BLOCKS = {"conv.weight", "conv.bias", "long"}


class Net(nn.Module):
    """Large and small tensors, one of another dtype, one that lies transposed, a head."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(16, 33, 5)
        self.long = nn.Parameter(torch.rand(2, 5000))
        self.norm = nn.BatchNorm1d(7)
        self.flipped = nn.Parameter(torch.rand(40, 30).t())
        self.head = nn.Linear(50, 3)


@pytest.fixture(autouse=True)
def _small_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mapped, "READ_BYTES", 4096)
    monkeypatch.setattr(apply, "READ_BYTES", 4096)
    monkeypatch.setattr(apply, "_BLOCK_BYTES", 64)
    monkeypatch.setattr(apply, "_SLOW_DISTANCES", range(0))


@pytest.mark.parametrize("read", READS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_every_way_of_reading_gives_the_same_model(
    device: str, dtype: torch.dtype, read: Read, *, save: Save, load: Load
) -> None:
    source = Net()
    folder = save(source.state_dict(), ["a", "b", "c"], HEAD)
    with torch.device(device):
        model = Net().to(dtype)
    load(model, folder, new_head=["c", "a", "b"], read=read)
    expected = {name: value.to(model.state_dict()[name].dtype) for name, value in source.state_dict().items()}
    for name in HEAD:
        expected[name] = expected[name][[2, 0, 1]]
    for name, value in model.state_dict().items():
        assert torch.equal(value, expected[name]), name
    assert model.flipped.stride() == (1, 30)


def test_files_are_read_in_the_order_of_their_bytes_and_twice(
    save: Save, load: Load, monkeypatch: pytest.MonkeyPatch
) -> None:
    reads: list[tuple[int, int]] = []
    fill = mapped._fill

    def noting(buffer: memoryview, file: Any, start: int) -> bool:
        reads.append((start, len(buffer)))
        return fill(buffer, file, start)

    monkeypatch.setattr(mapped, "_fill", noting)
    source = Net()
    folder = save(source.state_dict())
    load(Net(), folder, read="mmap")
    assert reads == []
    load(Net(), folder, read=ORDERED)
    size = (folder / "model.safetensors").stat().st_size
    pieces = -(-size // 4096)
    first, rest = reads[:pieces], reads[pieces:]
    assert [start for start, _ in first] == list(range(0, size, 4096))
    assert rest == sorted(rest)
    assert sum(length for _, length in rest) == sum(value.nbytes for value in source.state_dict().values())
    assert max(length for _, length in reads) <= 4096


@given(
    shape=st.lists(st.integers(0, 9), max_size=4),
    limit=st.integers(2, 300),
    order=st.randoms(use_true_random=False),
)
def test_pieces_are_the_whole_write_and_each_is_small(shape: list[int], limit: int, order: Any) -> None:
    source = torch.arange(torch.Size(shape).numel(), dtype=torch.int16).reshape(shape)
    axes = list(range(len(shape)))
    order.shuffle(axes)
    target = torch.full([shape[axis] for axis in axes], -1, dtype=torch.int16)
    target = target.permute([axes.index(axis) for axis in range(len(shape))])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(apply, "READ_BYTES", limit)
        pieces = list(apply._pieces(source, target))
    written = 0
    for piece, place in pieces:
        assert piece.shape == place.shape
        assert piece.nbytes <= limit
        assert piece.is_contiguous()
        place.copy_(piece)
        written += piece.numel()
    assert torch.equal(target, source)
    assert written == source.numel()


def test_what_is_not_read_from_the_file_is_not_cut() -> None:
    # On another device a whole tensor of the same strides is copied without memory there, a part is not.
    source, target = torch.zeros(3000, 2).t(), torch.zeros(3000, 2).t()
    ((piece, place),) = apply._pieces(source, target)
    assert (piece.shape, place.shape) == (source.shape, target.shape)


@pytest.mark.parametrize("read", READS)
def test_a_change_is_seen_by_autograd_however_it_is_made(read: Read, *, save: Save, load: Load) -> None:
    model = nn.Linear(20, 20)
    loss = model(torch.ones(1, 20, requires_grad=True)).sum()
    load(model, save(nn.Linear(20, 20).state_dict()), read=read)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


@pytest.mark.parametrize("read", READS)
def test_a_file_that_is_cut_before_the_commit_leaves_the_model(
    read: Read, *, save: Save, load: Load, state_of: StateOf, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, model = save(Net().state_dict()), Net()
    read_ahead = MappedWeights.read_ahead

    def cut(weights: MappedWeights) -> None:
        with (folder / "model.safetensors").open("r+b") as file:
            file.truncate(20_000)
        read_ahead(weights)

    monkeypatch.setattr(MappedWeights, "read_ahead", cut)
    before = state_of(model)
    with pytest.raises(InvalidSafetensors, match="shorter than it was"):
        load(model, folder, read=read)
    assert state_of(model) == before


@pytest.mark.parametrize("at", [0, 3])
def test_a_piece_that_cannot_be_read_leaves_the_model(
    at: int, *, save: Save, load: Load, state_of: StateOf, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill = mapped._fill

    def broken(buffer: memoryview, file: Any, start: int) -> bool:
        if start == 4096 * at:
            raise OSError(5, "Input/output error")
        return fill(buffer, file, start)

    folder, model = save(Net().state_dict()), Net()
    before = state_of(model)
    monkeypatch.setattr(mapped, "_fill", broken)
    with pytest.raises(OSError, match="Input/output error"):
        load(model, folder, read=ORDERED)
    assert state_of(model) == before


def test_what_fails_only_in_the_commit_is_taken_from_the_mapping(
    save: Save, load: Load, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> bool:
        raise OSError(5, "Input/output error")

    read_ahead = MappedWeights.read_ahead

    def then_break(weights: MappedWeights) -> None:
        read_ahead(weights)
        monkeypatch.setattr(mapped, "_fill", broken)

    source, model = Net(), Net()
    monkeypatch.setattr(MappedWeights, "read_ahead", then_break)
    load(model, save(source.state_dict()), read=ORDERED)
    assert all(map(torch.equal, model.state_dict().values(), source.state_dict().values()))


CUT_IN_THE_COMMIT = """
import os, sys
from pathlib import Path
import torch
from torch import nn
from cosemzoo.checkpoints.mapped import MappedWeights
from cosemzoo.checkpoints.writer import write_safetensors
from cosemzoo.models import load_into
from cosemzoo.zoo import Zoo

folder, read = Path(sys.argv[1]), sys.argv[2]
model = nn.ParameterList([nn.Parameter(torch.zeros(100_000)) for _ in range(30)])
write_safetensors(folder / "model.safetensors", {k: v + 1 for k, v in model.state_dict().items()})
read_ahead = MappedWeights.read_ahead

def then_cut(weights):
    read_ahead(weights)
    os.truncate(folder / "model.safetensors", 6_000_000)

MappedWeights.read_ahead = then_cut
try:
    load_into(model, folder, zoo=Zoo(offline=True), read=read)
finally:
    print("seen by somebody")
"""


@pytest.mark.parametrize("read", ["mmap", "sequential"])
def test_a_model_that_cannot_be_filled_to_its_end_is_never_seen(read: Read, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", CUT_IN_THE_COMMIT, str(tmp_path), read],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout == ""
    assert done.returncode == -signal.SIGBUS


def test_values_that_do_not_fit_are_found_when_files_are_read_in_order(
    save: Save, load: Load, state_of: StateOf
) -> None:
    state = Net().state_dict()
    state["long"][1, 4999] = 1e30
    folder, model = save(state), Net().half()
    before = state_of(model)
    with pytest.raises(UnsafeConversion, match="long: float32 in the checkpoint, float16 in the model"):
        load(model, folder, read=ORDERED)
    assert state_of(model) == before


def test_another_way_of_reading_is_refused_before_anything_is_fetched(
    write_folder: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_folder(tmp_path / "runs" / "setup04" / "1")
    store = FolderStore(tmp_path / "runs")
    monkeypatch.setattr(FolderStore, "fetch", lambda *_: pytest.fail("fetched"))
    options: Any = {"read": "random"}
    with pytest.raises(InvalidOption, match='read is \'random\'; it is "mmap", "sequential" or "auto"'):
        Start("setup04@1", store).initialize_weights(nn.Linear(1, 1), **options)


def test_a_start_takes_the_option(
    write_folder: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_folder(tmp_path / "runs" / "setup04" / "1")
    asked: list[bool] = []
    read_ahead = MappedWeights.read_ahead

    def noting(weights: MappedWeights) -> None:
        asked.append(weights.in_order)
        read_ahead(weights)

    monkeypatch.setattr(MappedWeights, "read_ahead", noting)
    for read in READS:
        Start("setup04@1", FolderStore(tmp_path / "runs")).initialize_weights(
            _Pair(), ["ecs", "mito", "er"], read=read
        )
    assert asked == [False, False, True]


class _Pair(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.backbone = nn.ModuleDict({"conv": nn.Conv1d(2, 4, 3, bias=False)})
        self.prediction_head = nn.Linear(4, 3)


def test_large_tensors_are_moved_as_blocks_and_only_where_a_block_is_right(
    save: Save, load: Load, monkeypatch: pytest.MonkeyPatch
) -> None:
    moved: list[int] = []

    def noting(moves: Any, threads: int) -> None:
        moved.extend(size for _, _, size in moves)
        move_bytes(moves, threads)

    monkeypatch.setattr(apply, "move_bytes", noting)
    source, model = Net(), Net()
    model.head.double()
    load(model, save(source.state_dict()), read="mmap")
    assert sorted(moved) == sorted(
        value.nbytes for name, value in source.state_dict().items() if name in BLOCKS
    )
    assert all(torch.equal(value, source.state_dict()[name]) for name, value in model.state_dict().items())


def test_a_part_of_each_row_is_no_block() -> None:
    assert apply._is_block(torch.zeros(30, 20), torch.zeros(30, 20))
    assert not apply._is_block(torch.zeros(30, 30)[:, :20], torch.zeros(30, 20))
    assert not apply._is_block(torch.zeros(30, 20), torch.zeros(30, 30)[:, :20])


def test_what_lies_a_little_beyond_its_source_in_a_page_is_left_to_torch(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(apply, "_SLOW_DISTANCES", range(1, 1024))
    memory = torch.zeros(5 * 4096, dtype=torch.uint8)
    source = memory[4096:4196]
    far = {0: True, 1: False, 1023: False, 1024: True, 4095: True, 4096: True, 4097: False, -1: True}
    for distance, is_block in far.items():
        target = memory[4096 + distance : 4196 + distance]
        assert apply._is_block(source, target) == is_block, distance


def test_a_tensor_that_is_seen_negated_is_filled_with_its_values(save: Save, load: Load) -> None:
    values = torch.complex(torch.rand(30), torch.rand(30))
    model = nn.Module()
    model.register_buffer("x", torch.zeros(30, dtype=torch.complex64).conj())
    model.register_buffer("y", torch._neg_view(torch.zeros(30)))
    load(model, save({"x": values, "y": values.real}), read="mmap")
    assert torch.equal(model.get_buffer("x"), values)
    assert torch.equal(model.get_buffer("y"), values.real)


@pytest.mark.parametrize("made", [torch.inference_mode, torch.enable_grad])
def test_blocks_fill_a_model_whatever_its_mode(made: Callable[[], Any], *, save: Save, load: Load) -> None:
    source = Net()
    with made():
        model = Net()
    load(model, save(source.state_dict()), read="mmap")
    assert all(map(torch.equal, model.state_dict().values(), source.state_dict().values()))

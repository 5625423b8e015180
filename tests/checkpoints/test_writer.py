import errno
import hashlib
import json
import os
import stat
import subprocess
import sys
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import load_file, load_model, save_file, save_model

from cosemzoo.checkpoints import writer
from cosemzoo.checkpoints.header import read_header
from cosemzoo.checkpoints.writer import write_safetensors
from cosemzoo.errors import InvalidSafetensors, UnsupportedModel

DTYPES = [
    *(torch.bool, torch.uint8, torch.uint16, torch.uint32, torch.uint64),
    *(torch.int8, torch.int16, torch.int32, torch.int64),
    *(torch.float8_e5m2, torch.float8_e4m3fn, torch.float8_e4m3fnuz, torch.float8_e5m2fnuz),
    *(torch.float16, torch.bfloat16, torch.float32, torch.float64, torch.complex64),
]

names = st.text(st.characters(exclude_categories=["Cs"]), max_size=8).filter(
    lambda name: name != "__metadata__"
)


@st.composite
def dense_tensors(draw: st.DrawFn) -> torch.Tensor:
    """A contiguous tensor of any bits that its dtype can have."""
    dtype = draw(st.sampled_from(DTYPES))
    shape = draw(st.lists(st.integers(0, 3), max_size=3))
    size = torch.empty(shape, dtype=dtype, device="meta").nbytes
    top = 1 if dtype == torch.bool else 255
    data = draw(st.lists(st.integers(0, top), min_size=size, max_size=size))
    return torch.tensor(data, dtype=torch.uint8).view(dtype).reshape(shape)


def bits(tensor: torch.Tensor) -> list[int]:
    values: list[int] = tensor.contiguous().view(-1).view(torch.uint8).tolist()
    return values


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "model.safetensors"


def problems_of(path: Path, tensors: Mapping[str, Any], metadata: Any = None) -> dict[str, str]:
    with pytest.raises(UnsupportedModel) as caught:
        write_safetensors(path, tensors, metadata)
    assert list(path.parent.iterdir()) == []
    return dict(caught.value.problems)


shared_folder = settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@shared_folder
@given(tensors=st.dictionaries(names, dense_tensors(), min_size=1, max_size=6))
def test_a_file_without_aliases_is_the_one_that_safetensors_writes(
    path: Path, tensors: dict[str, torch.Tensor]
) -> None:
    digest = write_safetensors(path, tensors)
    written = path.read_bytes()
    save_file(tensors, path, metadata={"format": "pt"})
    assert written == path.read_bytes()
    assert digest == hashlib.sha256(written).hexdigest()


@shared_folder
@given(
    tensors=st.dictionaries(names, dense_tensors(), max_size=6),
    metadata=st.dictionaries(names.filter(lambda key: key != "format"), names, max_size=4),
)
def test_what_is_written_is_read_back_bit_by_bit(
    path: Path, tensors: dict[str, torch.Tensor], metadata: dict[str, str]
) -> None:
    write_safetensors(path, tensors, metadata)
    loaded = load_file(path)
    assert loaded.keys() == tensors.keys()
    for name, tensor in tensors.items():
        assert (loaded[name].dtype, loaded[name].shape) == (tensor.dtype, tensor.shape)
        assert bits(loaded[name]) == bits(tensor)
    assert read_header(path).metadata == {**metadata, "format": "pt"}
    assert read_header(path).data_start % 8 == 0


def test_the_order_of_the_input_does_not_matter(path: Path) -> None:
    tensors = {name: torch.full((3,), float(i)) for i, name in enumerate("badc")}
    tensors["tied"] = tensors["c"]
    metadata = {"run": "setup04", "iteration": "5", "author": "lab"}
    first = write_safetensors(path, tensors, metadata)
    reversed_tensors = dict(reversed(tensors.items()))
    assert write_safetensors(path, reversed_tensors, dict(reversed(metadata.items()))) == first


def test_every_process_writes_the_same_bytes(tmp_path: Path) -> None:
    code = (
        "import sys, torch; from pathlib import Path\n"
        "from cosemzoo.checkpoints.writer import write_safetensors\n"
        "shared = torch.arange(4.0)\n"
        "tensors = {n: shared for n in 'xyzuvw'} | {n: torch.ones(2) for n in 'abc'}\n"
        "print(write_safetensors(Path(sys.argv[1]), tensors, {n + n: n for n in 'klmnop'}))"
    )
    digests = {
        subprocess.run(
            [sys.executable, "-c", code, str(tmp_path / "model.safetensors")],
            env={**os.environ, "PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("1", "2", "3")
    }
    assert len(digests) == 1


class Tied(torch.nn.Module):
    """One layer under two names, as DaCapo registers its backbone and head."""

    def __init__(self) -> None:
        super().__init__()
        self.first = torch.nn.Linear(3, 3)
        self.chain = torch.nn.Sequential(self.first, torch.nn.Linear(3, 2))


def test_names_of_one_tensor_are_stored_once_and_recorded(path: Path) -> None:
    model = Tied()
    write_safetensors(path, model.state_dict(), {"run": "setup04"})
    header = read_header(path)
    assert set(header.tensors) == {"chain.0.weight", "chain.0.bias", "chain.1.weight", "chain.1.bias"}
    assert header.aliases == {"first.weight": "chain.0.weight", "first.bias": "chain.0.bias"}
    assert header.metadata == {**header.aliases, "run": "setup04", "format": "pt"}


def test_aliases_are_those_that_safetensors_records(path: Path) -> None:
    model = Tied()
    write_safetensors(path, model.state_dict())
    ours = read_header(path)
    save_model(model, str(path))
    theirs = read_header(path)
    assert (ours.tensors, ours.aliases) == (theirs.tensors, theirs.aliases)


def test_safetensors_loads_the_file_into_the_model_it_came_from(path: Path) -> None:
    model, other = Tied(), Tied()
    write_safetensors(path, model.state_dict())
    missing, unexpected = load_model(other, path)
    assert not missing
    assert not unexpected
    for name, tensor in model.state_dict().items():
        assert torch.equal(other.state_dict()[name], tensor)


def test_equal_tensors_with_memory_of_their_own_are_not_aliases(path: Path) -> None:
    write_safetensors(path, {"a": torch.ones(3), "b": torch.ones(3)})
    assert (set(read_header(path).tensors), read_header(path).aliases) == ({"a", "b"}, {})


def test_empty_tensors_are_not_aliases(path: Path) -> None:
    write_safetensors(path, {"a": torch.empty(0), "b": torch.empty(0)})
    assert (set(read_header(path).tensors), read_header(path).aliases) == ({"a", "b"}, {})


def test_a_tensor_that_is_called_format_keeps_its_name(path: Path) -> None:
    tensor = torch.ones(2)
    write_safetensors(path, {"a": tensor, "format": tensor, "z": tensor})
    assert read_header(path).aliases == {"a": "format", "z": "format"}
    assert read_header(path).metadata["format"] == "pt"


def test_strides_of_axes_of_length_one_do_not_hide_an_alias(path: Path) -> None:
    tensor = torch.arange(3.0).reshape(1, 3)
    write_safetensors(path, {"a": tensor, "b": tensor.as_strided((1, 3), (7, 1))})
    assert read_header(path).aliases == {"b": "a"}


BASE = torch.arange(12.0).reshape(3, 4)
COMPLEX = torch.tensor([1 + 2j, 3 - 4j])
VIEWS = {
    "overlapping rows": (BASE[:2], BASE[1:]),
    "a transposed square": (BASE[:, :3], BASE[:, :3].T),
    "the first rows": (BASE[:2], BASE),
    "another shape": (BASE, BASE.reshape(4, 3)),
    "another dtype": (BASE, BASE.view(torch.int32)),
    "a conjugate": (COMPLEX, COMPLEX.conj()),
    "a negative": (COMPLEX.imag, COMPLEX.conj().imag),
    "one negative number": (COMPLEX[:1].imag, COMPLEX[:1].conj().imag),
}


@pytest.mark.parametrize("pair", VIEWS.values(), ids=VIEWS)
def test_views_that_share_memory_without_being_the_same_are_stored_apart(
    path: Path, pair: tuple[torch.Tensor, torch.Tensor]
) -> None:
    write_safetensors(path, {"a": pair[0], "b": pair[1]})
    assert read_header(path).aliases == {}
    loaded = load_file(path)
    assert torch.equal(loaded["a"], pair[0])
    assert torch.equal(loaded["b"], pair[1])


@pytest.mark.parametrize("piece_bytes", [8, 24, 100, 1_000])
@pytest.mark.parametrize(
    "tensor",
    [
        torch.arange(60.0).reshape(3, 4, 5),
        torch.arange(60.0).reshape(3, 4, 5).permute(2, 0, 1),
        torch.arange(60.0).reshape(3, 4, 5)[:, ::2, 1:3],
        torch.arange(3.0).expand(5, 3),
        torch.arange(60.0, dtype=torch.float64)[::3],
        torch.tensor(7.0),
        torch.arange(4.0)[1::3],
        torch.ones(2, 3).requires_grad_(),
    ],
)
def test_tensors_written_in_pieces_are_written_in_order(
    path: Path, monkeypatch: pytest.MonkeyPatch, tensor: torch.Tensor, piece_bytes: int
) -> None:
    monkeypatch.setattr(writer, "_PIECE_BYTES", piece_bytes)
    digest = write_safetensors(path, {"w": tensor})
    assert torch.equal(load_file(path)["w"], tensor)
    assert digest == hashlib.sha256(path.read_bytes()).hexdigest()


def test_memory_stays_constant_while_a_transposed_tensor_is_written(tmp_path: Path) -> None:
    code = (
        "import resource, sys, torch; from pathlib import Path\n"
        "from cosemzoo.checkpoints.writer import write_safetensors\n"
        "write_safetensors(Path(sys.argv[1]), {'w': torch.ones(64, 64).T})\n"
        "tensor = torch.ones(8192, 8192).T\n"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "write_safetensors(Path(sys.argv[1]), {'w': tensor})\n"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "w.safetensors")],
        capture_output=True,
        text=True,
        check=True,
    )
    assert int(done.stdout) < 32 * 1024  # KiB, of a tensor of 256 MiB


def test_every_tensor_that_cannot_be_written_is_named(path: Path) -> None:
    with warnings.catch_warnings():
        # torch will stop making such tensors.
        warnings.simplefilter("ignore")
        quantised = torch.quantize_per_tensor(torch.ones(2), 1.0, 0, torch.qint8)
    tensors = {
        "quantised": quantised,
        "fine": torch.ones(2),
        "sparse": torch.eye(3).to_sparse(),
        "meta": torch.empty(2, device="meta"),
        "wide": torch.ones(2, dtype=torch.complex128),
        "wrapped": Wrapper(torch.ones(2)),
        "state": {"step": 3},
        "__metadata__": torch.ones(2),
        "half \ud800": torch.ones(2),
    }
    found = problems_of(path, tensors)
    assert set(found) == set(tensors) - {"fine"}
    assert "to_dense()" in found["sparse"]
    assert "dequantize()" in found["quantised"]
    assert "meta" in found["meta"]
    assert "complex128" in found["wide"]
    assert "a Wrapper, not a plain tensor" in found["wrapped"]
    assert "a dict, not a tensor" in found["state"]


class Wrapper(torch.Tensor):
    """A tensor whose memory is not its own, as sharded and packed tensors are."""

    @staticmethod
    def __new__(cls, inner: torch.Tensor) -> "Wrapper":
        wrapped: Wrapper = torch.Tensor._make_wrapper_subclass(cls, inner.shape)
        return wrapped

    @classmethod
    def __torch_dispatch__(cls, *args: Any, **kwargs: Any) -> Any:
        raise NotImplementedError


def test_metadata_that_cannot_be_stored_is_named(path: Path) -> None:
    found = problems_of(path, {"w": torch.ones(1)}, {"epoch": 3, "half": "\ud800", "format": "tf"})
    assert set(found) == {"epoch", "half", "format"}


def test_metadata_that_takes_the_place_of_an_alias_is_refused(path: Path) -> None:
    tensor = torch.ones(2)
    assert set(problems_of(path, {"a": tensor, "b": tensor}, {"b": "my note", "c": "a"})) == {"b"}
    write_safetensors(path, {"a": tensor, "b": tensor}, {"b": "a"})
    assert read_header(path).aliases == {"b": "a"}


def test_a_header_longer_than_the_format_allows_is_refused(path: Path) -> None:
    with pytest.raises(InvalidSafetensors, match="format allows"):
        write_safetensors(path, {"w": torch.ones(1)}, {"note": "x" * 100_000_000})
    assert list(path.parent.iterdir()) == []


@pytest.mark.parametrize("failure", [OSError(errno.ENOSPC, "No space left on device"), KeyboardInterrupt()])
def test_what_was_there_stays_when_writing_fails(
    path: Path, monkeypatch: pytest.MonkeyPatch, failure: BaseException
) -> None:
    path.write_bytes(b"old")

    def fail_after_one(tensor: torch.Tensor) -> Iterator[torch.Tensor]:
        yield tensor[:1]
        raise failure

    monkeypatch.setattr(writer, "_pieces", fail_after_one)
    with pytest.raises(type(failure)):
        write_safetensors(path, {"w": torch.ones(4)})
    assert path.read_bytes() == b"old"
    assert list(path.parent.iterdir()) == [path]


def test_the_file_gets_the_permissions_that_any_new_file_gets(path: Path, tmp_path: Path) -> None:
    (tmp_path / "plain").write_bytes(b"")
    write_safetensors(path, {"w": torch.ones(1)})
    assert stat.S_IMODE(path.stat().st_mode) == stat.S_IMODE((tmp_path / "plain").stat().st_mode)


def test_the_header_lists_metadata_first_and_the_widest_types_first(path: Path) -> None:
    tensors = {
        "b": torch.ones(1, dtype=torch.uint8),
        "a": torch.ones(1),
        "c": torch.ones(1, dtype=torch.int64),
    }
    write_safetensors(path, tensors)
    raw = path.read_bytes()
    members = json.loads(raw[8 : 8 + int.from_bytes(raw[:8], "little")])
    assert list(members) == ["__metadata__", "c", "a", "b"]
    with safe_open(path, framework="pt") as opened:
        assert list(opened.offset_keys()) == ["c", "a", "b"]

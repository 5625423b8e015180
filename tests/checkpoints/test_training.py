import io
import operator
import os
import pickle
import sys
import types
import zipfile
from collections import OrderedDict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file
from torch import nn

from cosemzoo.checkpoints.training import TrainingCheckpoint, read_training_checkpoint
from cosemzoo.checkpoints.writer import write_safetensors
from cosemzoo.errors import CosemZooError, InvalidSafetensors, UnreadableCheckpoint, UnsafePickle

State = dict[str, Any]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "checkpoint"


@pytest.fixture
def state() -> State:
    """A state dict as COSEM's checkpoints have it: each tensor under two names."""
    weight, bias = torch.arange(6.0).reshape(2, 3), torch.tensor([1.5, -2.0])
    return {
        "architecture.unet.conv.weight": weight,
        "prediction_head.bias": bias,
        "chain.0.unet.conv.weight": weight,
        "chain.1.bias": bias,
    }


OPTIMIZER = {
    "state": {0: {"step": torch.tensor(3.0), "exp_avg": torch.ones(2, 3)}, 1: {"exp_avg": torch.ones(2)}},
    "param_groups": [{"lr": 5e-5, "params": [0, 1]}],
}


class Weights:
    """DaCapo's class, as far as its pickles show it."""

    def __init__(self, model: object, optimizer: object) -> None:
        self.model, self.optimizer = model, optimizer


@pytest.fixture
def dacapo_weights() -> Iterator[type[Weights]]:
    """DaCapo's class under its own name, as long as a test saves one."""
    module = types.ModuleType("dacapo.store.weights_store")
    names = ["dacapo", "dacapo.store", module.__name__]
    with pytest.MonkeyPatch.context() as patch:
        for name in names:
            patch.setitem(sys.modules, name, module)
        patch.setattr(module, "Weights", Weights, raising=False)
        patch.setattr(Weights, "__module__", module.__name__)
        yield Weights


def save(value: object, path: Path, **options: Any) -> Path:
    torch.save(value, path, **options)
    return path


def same(checkpoint: TrainingCheckpoint, state: State) -> bool:
    found = checkpoint.tensors
    return list(found) == list(state) and all(torch.equal(found[name], state[name]) for name in state)


def refusal(path: Path) -> str:
    with pytest.raises(UnreadableCheckpoint) as caught:
        read_training_checkpoint(path)
    assert caught.value.source == str(path)
    return str(caught.value)


legacy_too = pytest.mark.parametrize("options", [{}, {"_use_new_zipfile_serialization": False}])


# --- what can be read --------------------------------------------------------------------------------------


@legacy_too
def test_a_cosem_checkpoint_is_its_model_and_the_optimizer_is_said_to_be_left_out(
    path: Path, state: State, options: dict[str, Any]
) -> None:
    checkpoint = read_training_checkpoint(
        save({"model": state, "optimizer": OPTIMIZER, "epoch": 4}, path, **options)
    )
    assert checkpoint.kind == "COSEM or DaCapo checkpoint"
    assert same(checkpoint, state)
    assert checkpoint.dropped == ("optimizer: 3 tensors, 36 bytes", "epoch: 4")
    assert checkpoint.iteration is None
    assert (checkpoint.path, checkpoint.files) == (path, (path,))


@legacy_too
def test_names_of_one_tensor_share_their_memory(path: Path, state: State, options: dict[str, Any]) -> None:
    tensors = read_training_checkpoint(save({"model": state}, path, **options)).tensors
    assert len({tensor.data_ptr() for tensor in tensors.values()}) == 2


@legacy_too
def test_a_dacapo_weights_object_is_read_without_dacapo(
    path: Path, state: State, dacapo_weights: type[Weights], options: dict[str, Any]
) -> None:
    save(dacapo_weights(OrderedDict(state), OPTIMIZER), path, **options)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "dacapo.store.weights_store", None)
        checkpoint = read_training_checkpoint(path)
    assert checkpoint.kind == "DaCapo Weights object"
    assert same(checkpoint, state)
    assert checkpoint.dropped == ("optimizer: 3 tensors, 36 bytes",)


def test_the_stand_in_for_dacapos_class_is_not_left_behind(
    path: Path, state: State, dacapo_weights: type[Weights]
) -> None:
    before = torch.serialization.get_safe_globals()
    read_training_checkpoint(save(dacapo_weights(state, {}), path))
    assert set(torch.serialization.get_safe_globals()) == set(before)
    with pytest.raises(pickle.UnpicklingError):
        torch.load(path, weights_only=True)


def test_it_is_not_left_behind_by_a_refusal_either(path: Path) -> None:
    before = torch.serialization.get_safe_globals()
    with pytest.raises(UnsafePickle):
        read_training_checkpoint(save({"model": Evil(path)}, path))
    assert set(torch.serialization.get_safe_globals()) == set(before)


@legacy_too
def test_a_modules_own_state_dict_is_read(path: Path, options: dict[str, Any]) -> None:
    network = nn.Sequential(nn.Conv3d(1, 2, 3), nn.BatchNorm3d(2))
    state = network.state_dict()
    assert hasattr(state, "_metadata")
    checkpoint = read_training_checkpoint(save(state, path, **options))
    assert checkpoint.kind == "plain state dict"
    assert same(checkpoint, state)
    assert checkpoint.tensors["1.num_batches_tracked"].dtype == torch.int64
    assert checkpoint.dropped == ()


def test_parameters_become_tensors_without_gradients(path: Path) -> None:
    parameter = nn.Parameter(torch.ones(2))
    tensors = read_training_checkpoint(save({"w": parameter}, path)).tensors
    assert type(tensors["w"]) is torch.Tensor
    assert not tensors["w"].requires_grad
    assert torch.equal(tensors["w"], parameter)


def test_a_lightning_checkpoint_says_its_iteration(path: Path, state: State) -> None:
    saved = {
        "epoch": 9,
        "global_step": 1200,
        "pytorch-lightning_version": "2.4.0",
        "state_dict": state,
        "optimizer_states": [OPTIMIZER],
        "hyper_parameters": {"lr": 1e-3},
        "loops": None,
    }
    checkpoint = read_training_checkpoint(save(saved, path))
    assert (checkpoint.kind, checkpoint.iteration) == ("Lightning checkpoint", 1200)
    assert same(checkpoint, state)
    assert checkpoint.dropped == (
        "epoch: 9",
        "global_step: 1200",
        "pytorch-lightning_version: '2.4.0'",
        "optimizer_states: 3 tensors, 36 bytes",
        "hyper_parameters: dict of 1",
        "loops: None",
    )


@pytest.mark.parametrize("key", ["state_dict", "model_state_dict"])
def test_a_state_dict_under_a_usual_key_is_found(path: Path, state: State, key: str) -> None:
    checkpoint = read_training_checkpoint(save({"epoch": 1, key: state}, path))
    assert checkpoint.kind == f"checkpoint with a {key}"
    assert same(checkpoint, state)
    assert checkpoint.iteration is None


def test_what_is_no_tensor_in_a_state_dict_is_left_out_and_said(path: Path) -> None:
    extra = {"scale": torch.ones(3)}
    saved = {"w": torch.ones(2), "version": 3, "block._extra_state": extra, "_extra_state": None}
    checkpoint = read_training_checkpoint(save(saved, path))
    assert list(checkpoint.tensors) == ["w"]
    assert checkpoint.dropped == (
        "version: 3, no tensor",
        "block._extra_state: 1 tensor, 12 bytes, no tensor",
        "_extra_state: None, no tensor",
    )


@pytest.mark.parametrize("name", ["model.safetensors", "weights"])
def test_a_safetensors_file_is_read_whatever_its_name(tmp_path: Path, state: State, name: str) -> None:
    write_safetensors(tmp_path / name, state)
    checkpoint = read_training_checkpoint(tmp_path / name)
    assert checkpoint.kind == "safetensors"
    assert all(torch.equal(checkpoint.tensors[key], state[key]) for key in state)


def test_sharded_safetensors_are_read_from_their_folder_and_from_their_index(
    tmp_path: Path, state: State, write_folder: Callable[..., Path]
) -> None:
    folder = write_folder(tmp_path / "shards", files=2)
    for given_path in (folder, folder / "model.safetensors.index.json"):
        checkpoint = read_training_checkpoint(given_path)
        assert checkpoint.kind == "sharded safetensors"
        assert len(checkpoint.tensors) == 3
        assert [file.name for file in checkpoint.files] == [
            "model-00001-of-00002.safetensors",
            "model-00002-of-00002.safetensors",
        ]


def test_a_folder_with_one_file_is_that_file(tmp_path: Path, write_folder: Callable[..., Path]) -> None:
    folder = write_folder(tmp_path / "folder")
    assert read_training_checkpoint(folder).files == (folder / "model.safetensors",)


def test_the_values_are_mapped_and_the_file_is_never_written(path: Path) -> None:
    save({"w": torch.zeros(4)}, path)
    before = path.read_bytes()
    read_training_checkpoint(path).tensors["w"].fill_(7.0)
    assert path.read_bytes() == before


def test_a_checkpoint_that_was_written_without_checksums_is_read(path: Path) -> None:
    torch.serialization.set_crc32_options(False)
    try:
        save({"w": torch.ones(2)}, path)
    finally:
        torch.serialization.set_crc32_options(True)
    assert list(read_training_checkpoint(path).tensors) == ["w"]


# --- what is refused ---------------------------------------------------------------------------------------


def test_a_missing_shard_is_named(tmp_path: Path, write_folder: Callable[..., Path]) -> None:
    folder = write_folder(tmp_path / "shards", files=2)
    (folder / "model-00002-of-00002.safetensors").unlink()
    with pytest.raises(InvalidSafetensors, match=r"shard 'model-00002-of-00002\.safetensors' is missing"):
        read_training_checkpoint(folder)


W = {"w": torch.ones(2)}
UNCERTAIN: list[tuple[object, str]] = [
    ({"model": W, "state_dict": W}, "not certain"),
    ({"model": W, "averaged": {"w": torch.zeros(2)}}, "averaged: 1 tensor, 8 bytes"),
    ({"model": W, "iteration": torch.tensor(3)}, "not certain"),
    ({"generator": W, "discriminator": {"v": torch.ones(1)}}, "generator: 1 tensor, 8 bytes"),
    ({"w": torch.ones(2), "inner": W}, "inner is 1 tensor"),
    ({"w": torch.ones(2), "inner": {}}, "inner is dict of 0"),
    ({"w": torch.ones(2), "inner": [torch.ones(1)]}, "inner is 1 tensor"),
    ({"model": {"state_dict": W}}, "no state dict"),
    ({"model": {"w": torch.ones(2), "inner": W, "other": W}}, "other is 1 tensor"),
    ({"model": {}}, "it holds model: dict of 0"),
    ({"epoch": 3}, "it holds epoch: 3"),
    ({}, "it holds nothing"),
    ({1: torch.ones(2)}, "1 is no name"),
    ([torch.ones(2)], "1 tensor, 8 bytes, not a dict"),
    (torch.ones(2), "1 tensor, 8 bytes, not a dict"),
    (7, "it holds 7, not a dict"),
]


@pytest.mark.parametrize(("value", "said"), UNCERTAIN)
def test_what_is_not_certainly_a_state_dict_is_refused_with_what_it_holds(
    path: Path, value: object, said: str
) -> None:
    assert said in refusal(save(value, path))


@pytest.mark.parametrize("model", [None, 3, {}, {"epoch": 3}])
def test_a_weights_object_without_weights_is_refused(
    path: Path, dacapo_weights: type[Weights], model: object
) -> None:
    assert "holds" in refusal(save(dacapo_weights(model, {}), path)) or model in (None, 3)


def test_a_list_that_holds_itself_is_described(path: Path) -> None:
    knot: list[Any] = [torch.ones(2)]
    knot.append(knot)
    assert "1 tensor, 8 bytes" in refusal(save({"w": torch.ones(1), "knot": knot}, path))


def torchscript(path: Path) -> None:
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.save(torch.jit.script(nn.Linear(2, 2)), path)


def rezipped(path: Path) -> None:
    save(W, path)
    with zipfile.ZipFile(io.BytesIO(path.read_bytes())) as old, zipfile.ZipFile(path, "w") as new:
        for member in old.infolist():
            new.writestr(member.filename, old.read(member), compress_type=zipfile.ZIP_DEFLATED)


def plain_zip(path: Path) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("notes/readme.txt", "hello")


def cut(path: Path, **options: Any) -> None:
    save({"w": torch.ones(1000)}, path, **options)
    path.write_bytes(path.read_bytes()[:-2000])


def npz(path: Path) -> None:
    with path.open("wb") as file:
        np.savez(file, w=np.ones(3))


FOREIGN: list[tuple[Callable[[Path], object], str]] = [
    (lambda path: path.write_bytes(b""), "it is empty"),
    (lambda path: path.write_bytes(bytes(1000)), "it is empty"),
    (torchscript, "TorchScript"),
    (rezipped, "zipped again"),
    (plain_zip, "torch.save did not write"),
    (cut, "cut off or damaged"),
    (lambda path: cut(path, _use_new_zipfile_serialization=False), "damaged"),
    (npz, "NumPy arrays (.npz)"),
    (lambda path: path.write_bytes(b"\x93NUMPY\x01\x00" + bytes(200)), "NumPy array (.npy)"),
    (lambda path: path.write_bytes(b"\x89HDF\r\n\x1a\n" + bytes(2000)), "HDF5"),
    (lambda path: path.write_text("call me\nIshmael\n"), "text file"),
    (lambda path: path.write_text("<!doctype html><p>404"), "web page"),
    (lambda path: path.write_text("version https://git-lfs.github.com/spec/v1\n"), "git lfs pull"),
    (lambda path: path.write_bytes(b"\x1f\x8b" + bytes(100)), "gzip"),
    (lambda path: path.write_bytes(b"a" * 257 + b"ustar" + bytes(250)), "tar archive"),
    (lambda path: path.write_bytes(b"\x01\x00\x02" * 99), "neither"),
    (lambda path: path.write_bytes(pickle.dumps({"a": 1}, protocol=2)), "torch.save did not write"),
    (lambda path: path.write_bytes(pickle.dumps({"a": 1}, protocol=5)), "protocol 5"),
    (lambda path: save(W, path, pickle_protocol=4), "protocol 4"),
    (lambda path: path.mkdir(), "it is empty"),
    (lambda _: None, "there is no such file"),
]


@pytest.mark.parametrize(("make", "said"), FOREIGN)
def test_what_is_no_checkpoint_is_refused_with_what_it_is(
    path: Path, make: Callable[[Path], object], said: str
) -> None:
    make(path)
    assert said in refusal(path)


def test_a_folder_of_other_files_is_refused_with_what_it_holds(tmp_path: Path) -> None:
    for name in ("a.safetensors", "b.safetensors", "notes.txt"):
        (tmp_path / name).touch()
    assert "2 safetensors files (a.safetensors, b.safetensors, notes.txt)" in refusal(tmp_path)


def test_a_safetensors_file_without_tensors_is_refused(tmp_path: Path) -> None:
    save_file({}, tmp_path / "model.safetensors")
    assert "no tensors" in refusal(tmp_path / "model.safetensors")


# --- no code is run ----------------------------------------------------------------------------------------


class Evil:
    """Its pickle creates a file when it is read."""

    def __init__(self, folder: Path) -> None:
        self.file = str(folder.parent / "created")

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mknod, (self.file,)


class Call:
    """Its pickle calls a function when it is read."""

    def __init__(self, function: Callable[..., object], *arguments: object) -> None:
        self.call = function, arguments

    def __reduce__(self) -> tuple[Any, ...]:
        return self.call


def refused(path: Path) -> tuple[str, ...]:
    """Read it, check that nothing came of it, and give what it wanted."""
    before = sorted(path.parent.iterdir())
    with pytest.raises(UnsafePickle) as caught:
        read_training_checkpoint(path)
    assert sorted(path.parent.iterdir()) == before
    assert caught.value.source == str(path)
    return caught.value.wanted


@legacy_too
@pytest.mark.parametrize("wrap", [lambda evil: evil, lambda evil: {"model": {"w": torch.ones(1), "x": evil}}])
def test_a_pickle_that_would_run_code_creates_nothing(
    path: Path, wrap: Callable[[object], object], options: dict[str, Any]
) -> None:
    assert refused(save(wrap(Evil(path)), path, **options)) == ("posix.mknod",)
    torch.load(path, weights_only=False)
    assert (path.parent / "created").exists(), "the test itself must be able to fail"


@legacy_too
def test_nor_does_one_inside_a_weights_object(
    path: Path, dacapo_weights: type[Weights], options: dict[str, Any]
) -> None:
    saved = dacapo_weights({"w": torch.ones(1)}, {"state": [Evil(path)]})
    assert refused(save(saved, path, **options)) == ("posix.mknod",)


@pytest.mark.parametrize("protocol", range(6))
def test_nor_does_a_bare_pickle_of_any_protocol(path: Path, protocol: int) -> None:
    path.write_bytes(pickle.dumps({"w": Evil(path)}, protocol=protocol))
    assert refused(path) == ("posix.mknod",)


@pytest.mark.parametrize("protocol", [2, 4, 5])
def test_nor_does_one_of_another_protocol(path: Path, protocol: int) -> None:
    assert refused(save({"w": Evil(path)}, path, pickle_protocol=protocol)) == ("posix.mknod",)


def test_names_that_a_pickle_remembers_are_found_again(path: Path) -> None:
    path.write_bytes(pickle.dumps([Evil(path), Call(os.getpid)], protocol=4))
    assert refused(path) == ("posix.getpid", "posix.mknod")


@legacy_too
def test_everything_that_a_pickle_wants_is_named(path: Path, options: dict[str, Any]) -> None:
    saved = [Evil(path), Call(eval, "1"), Call(getattr, [], "copy"), Call(operator.add, 1, 2), torch.ones(1)]
    wanted = refused(save(saved, path, **options))
    assert wanted == ("_operator.add", "builtins.eval", "builtins.getattr", "posix.mknod")


def test_a_pickle_of_a_whole_module_is_refused(path: Path) -> None:
    wanted = refused(save(nn.Linear(2, 2), path))
    assert "torch.nn.modules.linear.Linear" in wanted


def test_a_weights_object_whose_state_is_named_like_methods_is_only_read(
    path: Path, dacapo_weights: type[Weights]
) -> None:
    saved = dacapo_weights({"w": torch.ones(1)}, None)
    vars(saved).update({"__setstate__": 1, "__class__": 2, "__reduce__": 3, "state": 4})
    checkpoint = read_training_checkpoint(save(saved, path))
    assert list(checkpoint.tensors) == ["w"]
    assert set(checkpoint.dropped) == {
        "optimizer: None",
        "__setstate__: 1",
        "__class__: 2",
        "__reduce__: 3",
        "state: 4",
    }


def program(instructions: bytes) -> bytes:
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as opened:
        opened.writestr("a/data.pkl", b"\x80\x02" + instructions)
        opened.writestr("a/version", b"3\n")
    return archive.getvalue()


NEW_WEIGHTS = b"cdacapo.store.weights_store\nWeights\n)\x81"
SETSTATE = b"X\x0c\x00\x00\x00__setstate__"
CLASS = b"X\x09\x00\x00\x00__class__"


@pytest.mark.parametrize(
    "instructions",
    [
        NEW_WEIGHTS + b".",  # no state at all
        NEW_WEIGHTS + b"K\x01b.",  # a number for a state
        NEW_WEIGHTS + b"}" + SETSTATE + b"ctorch\nSize\nsb" + b"K\x01b.",  # a method of its own, then called
        # (attributes, attributes set one by one): another class
        NEW_WEIGHTS + b"N}" + CLASS + b"ccollections\nOrderedDict\ns\x86b.",
        b"cdacapo.store.weights_store\nWeights\nK\x01\x85R.",  # called, with an argument
        b"cdacapo.store.weights_store\nWeights\nK\x01\x85\x81.",  # made, with an argument
        b"cdacapo.store.weights_store\nWeights\n}b.",  # the class itself is given a state
    ],
)
def test_a_weights_object_that_nobody_wrote_does_nothing(path: Path, instructions: bytes) -> None:
    path.write_bytes(program(instructions))
    from cosemzoo.checkpoints.pickles import StandInWeights

    before = dict(vars(StandInWeights))
    assert refusal(path)
    assert dict(vars(StandInWeights)) == before


class Shadowed:
    """Its pickle is an OrderedDict with attributes that hide the methods of the class."""

    def __reduce__(self) -> tuple[Any, ...]:
        hidden = {"items": 3, "keys": 4, "values": 5, "pop": 6}
        return OrderedDict, (), hidden, None, iter({"w": torch.ones(2)}.items())


def test_methods_that_a_pickle_puts_on_a_dict_are_not_called(path: Path) -> None:
    assert list(read_training_checkpoint(save({"model": Shadowed()}, path)).tensors) == ["w"]


def saved(**options: Any) -> bytes:
    file = io.BytesIO()
    torch.save({"model": {"w": torch.ones(3), "v": torch.ones(2, 2)}, "epoch": 3}, file, **options)
    return file.getvalue()


# Saved once: a legacy file holds addresses of memory, so that no two of them are the same.
SAVED = [saved(), saved(_use_new_zipfile_serialization=False)]


@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_damage_anywhere_is_an_error_of_ours_or_does_no_harm(path: Path, data: st.DataObject) -> None:
    content = bytearray(data.draw(st.sampled_from(SAVED)))
    for _ in range(data.draw(st.integers(1, 3))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    path.write_bytes(
        content[: data.draw(st.integers(0, len(content)))] if data.draw(st.booleans()) else content
    )
    try:
        checkpoint = read_training_checkpoint(path)
    except CosemZooError:
        return
    assert [tensor.tolist() for tensor in checkpoint.tensors.values()]


def test_a_flipped_bit_in_a_tensor_is_noticed(path: Path) -> None:
    save({"w": torch.arange(1000.0)}, path)
    content = bytearray(path.read_bytes())
    content[content.index(torch.arange(500.0, 502.0).numpy().tobytes())] ^= 1
    path.write_bytes(content)
    assert "checksums" in refusal(path)

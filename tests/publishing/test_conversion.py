import errno
import hashlib
import json
import math
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file
from torch import nn

from cosemzoo.checkpoints.header import read_header
from cosemzoo.checkpoints.writer import write_safetensors
from cosemzoo.errors import (
    AliasConflict,
    DiskFull,
    InvalidOption,
    NonFiniteValues,
    UnreadableCheckpoint,
    UnsafeConversion,
    UnsupportedModel,
)
from cosemzoo.models import load_into
from cosemzoo.nets import CosemUNet
from cosemzoo.publishing import conversion
from cosemzoo.publishing.conversion import convert
from cosemzoo.zoo import Zoo

State = dict[str, torch.Tensor]
Save = Callable[..., Path]

WEIGHT = torch.arange(6.0).reshape(2, 3)
BIAS = torch.tensor([1.5, -2.0])
DACAPO = {
    "architecture.unet.0.conv.weight": WEIGHT,
    "prediction_head.bias": BIAS,
    "chain.0.unet.0.conv.weight": WEIGHT,
    "chain.1.bias": BIAS,
}
CANONICAL = {"backbone.0.conv.weight": WEIGHT, "prediction_head.bias": BIAS}
ALIASES = {
    "architecture.unet.0.conv.weight": "backbone.0.conv.weight",
    "chain.0.unet.0.conv.weight": "backbone.0.conv.weight",
    "chain.1.bias": "prediction_head.bias",
}


@pytest.fixture
def target(tmp_path: Path) -> Path:
    folder = tmp_path / "out"
    folder.mkdir()
    return folder / "model.safetensors"


@pytest.fixture
def save(tmp_path: Path) -> Save:
    def save(state: object, name: str = "checkpoint", **options: Any) -> Path:
        torch.save(state, tmp_path / name, **options)
        return tmp_path / name

    return save


def same(path: Path, expected: State) -> bool:
    found = load_file(path)
    return found.keys() == expected.keys() and all(
        bits(found[name]) == bits(tensor) for name, tensor in expected.items()
    )


def bits(tensor: torch.Tensor) -> tuple[torch.dtype, torch.Size, bytes]:
    content = bytes(tensor.contiguous().view(-1).view(torch.uint8).tolist())
    return tensor.dtype, tensor.shape, content


# --- names -------------------------------------------------------------------------------------------------


def test_a_cosem_checkpoint_becomes_one_tensor_under_each_canonical_name(save: Save, target: Path) -> None:
    source = save({"model": DACAPO, "optimizer": {"state": {0: torch.ones(3)}}})
    done = convert(source, target)
    assert same(target, CANONICAL)
    assert dict(read_header(target).aliases) == ALIASES == dict(done.aliases)
    assert (done.kind, done.layout, done.prefix) == ("COSEM or DaCapo checkpoint", "dacapo 0.3", "")
    assert (done.names, dict(done.tensors)) == (4, {n: tuple(t.shape) for n, t in CANONICAL.items()})
    assert done.dropped == ("optimizer: 1 tensor, 12 bytes",)
    assert (done.parameters, done.bytes) == (8, target.stat().st_size)
    assert done.sha256 == hashlib.sha256(target.read_bytes()).hexdigest()
    assert done.source_sha256 == hashlib.sha256(source.read_bytes()).hexdigest()
    assert (done.dtype, done.largest_relative_error, done.nonfinite) == (None, None, ())


def test_what_was_done_is_json(save: Save, target: Path) -> None:
    done = convert(save({"w": torch.tensor([1.0, math.nan])}), target, allow_nonfinite=True)
    values = json.loads(json.dumps(done.to_dict(), allow_nan=False))
    assert values == done.to_dict()
    assert values["tensors"] == {"w": [2]}
    assert values["nonfinite"] == [["w", 1, 0]]
    assert values["layout"] is None


@pytest.mark.parametrize("style", ["dacapo 0.3", "dacapo main"])
@pytest.mark.parametrize(
    "prefix", ["", "module.", "_orig_mod.", "module._orig_mod.", "net.", "model.module."]
)
def test_a_prefix_before_every_name_of_a_known_network_is_removed(
    save: Save, target: Path, style: str, prefix: str
) -> None:
    state = {name.replace(".unet", "") if "main" in style else name: t for name, t in DACAPO.items()}
    if "main" in style:
        del state["architecture.0.conv.weight"]
    done = convert(save({"state_dict": {prefix + name: tensor for name, tensor in state.items()}}), target)
    assert same(target, CANONICAL)
    assert (done.prefix, done.layout) == (prefix, style)
    assert all(not name.startswith(prefix or "/") for name in done.aliases)


def test_the_plain_form_of_the_network_keeps_its_shorter_names(save: Save, target: Path) -> None:
    state = {"architecture.unet.l_conv.0.conv_pass.0.weight": WEIGHT, "prediction_head.bias": BIAS}
    convert(save({"model": state}), target)
    assert set(load_file(target)) == {"backbone.l_conv.0.conv_pass.0.weight", "prediction_head.bias"}


def test_an_unknown_network_keeps_its_names(save: Save, target: Path) -> None:
    network = nn.Sequential(nn.Conv3d(1, 2, 3), nn.BatchNorm3d(2))
    state = network.state_dict()
    done = convert(save(state), target)
    assert same(target, dict(state))
    assert (done.layout, done.prefix, dict(done.aliases)) == (None, "", {})


def test_an_attribute_before_the_names_of_an_unknown_network_stays(save: Save, target: Path) -> None:
    done = convert(save({"state_dict": {"model.a.w": BIAS}, "global_step": 5}), target)
    assert (done.prefix, done.iteration, set(load_file(target))) == ("", 5, {"model.a.w"})


def test_tied_tensors_are_stored_once(save: Save, target: Path) -> None:
    done = convert(save({"b": WEIGHT, "a": WEIGHT, "c": BIAS}), target)
    assert same(target, {"a": WEIGHT, "c": BIAS})
    assert dict(read_header(target).aliases) == {"b": "a"} == dict(done.aliases)
    assert done.names == 3


def test_names_of_a_tied_tensor_lead_to_the_stored_one(save: Save, target: Path) -> None:
    names = ["architecture.unet.b.w", "architecture.unet.a.w", "chain.0.unet.b.w", "chain.0.unet.a.w"]
    done = convert(save(dict.fromkeys(names, WEIGHT)), target)
    assert same(target, {"backbone.a.w": WEIGHT})
    assert dict(read_header(target).aliases) == dict.fromkeys(["backbone.b.w", *names], "backbone.a.w")
    assert dict(done.aliases) == dict(read_header(target).aliases)


def test_equal_copies_under_two_names_are_one_tensor(save: Save, target: Path) -> None:
    convert(save({name: tensor.clone() for name, tensor in DACAPO.items()}), target)
    assert same(target, CANONICAL)
    nan = torch.tensor([math.nan, 1.0])
    state = {"chain.0.unet.w": nan, "architecture.unet.w": nan.clone()}
    convert(save(state), target, allow_nonfinite=True)
    assert set(load_file(target)) == {"backbone.w"}


def test_a_file_of_safetensors_that_holds_both_names_is_collapsed(tmp_path: Path, target: Path) -> None:
    write_safetensors(tmp_path / "two.safetensors", {name: t.clone() for name, t in DACAPO.items()})
    done = convert(tmp_path / "two.safetensors", target)
    assert same(target, CANONICAL)
    assert (done.kind, dict(done.aliases)) == ("safetensors", ALIASES)


def other(value: float, *index: int) -> torch.Tensor:
    changed = WEIGHT.clone()
    changed[index] = value
    return changed


NAN, OTHER_NAN = torch.tensor([0x7FC00000, 0x7FC00001], dtype=torch.int32).view(torch.float32)


@pytest.mark.parametrize(
    ("one", "two", "where"),
    [
        (WEIGHT, other(7.5, 1, 1), "at [1, 1], 4.0 and 7.5"),
        (WEIGHT, other(-0.0, 0, 0), "at [0, 0], 0.0 and -0.0"),
        (torch.zeros(3, 2).T, torch.ones(2, 3), "at [0, 0], 0.0 and 1.0"),
        (WEIGHT, WEIGHT.double(), "torch.float32 [2, 3] and torch.float64 [2, 3]"),
        (WEIGHT, WEIGHT.reshape(3, 2), "torch.float32 [2, 3] and torch.float32 [3, 2]"),
        (torch.tensor(1.0), torch.tensor(2.0), "at [], 1.0 and 2.0"),
        (NAN.clone(), OTHER_NAN.clone(), "at [], nan (bits 7fc00000) and nan (bits 7fc00001)"),
    ],
)
def test_names_of_one_tensor_with_different_bits_are_refused_with_the_first_difference(
    save: Save, target: Path, one: torch.Tensor, two: torch.Tensor, where: str
) -> None:
    state = {"chain.0.unet.w": two, "architecture.unet.w": one, "chain.1.b": BIAS}
    with pytest.raises(AliasConflict) as caught:
        convert(save(state), target, allow_nonfinite=True)
    assert caught.value.conflicts == (("architecture.unet.w", "chain.0.unet.w", where),)
    assert list(target.parent.iterdir()) == []


def test_every_such_pair_is_named(save: Save, target: Path) -> None:
    state = {"chain.0.unet.w": WEIGHT, "architecture.unet.w": WEIGHT + 1}
    state |= {"chain.1.b": BIAS, "prediction_head.b": BIAS + 1}
    with pytest.raises(AliasConflict) as caught:
        convert(save(state), target)
    assert [pair[:2] for pair in caught.value.conflicts] == [
        ("architecture.unet.w", "chain.0.unet.w"),
        ("chain.1.b", "prediction_head.b"),
    ]


def test_a_difference_in_a_late_piece_is_found_at_its_place(
    save: Save, target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cosemzoo.checkpoints.writer._PIECE_BYTES", 64)
    one = torch.arange(210.0).reshape(5, 6, 7)
    two = one.permute(2, 0, 1).contiguous().permute(1, 2, 0)
    assert not two.is_contiguous()
    two[4, 3, 2] = -1
    with pytest.raises(AliasConflict) as caught:
        convert(save({"chain.0.unet.w": two, "architecture.unet.w": one}), target)
    assert caught.value.conflicts[0][2] == "at [4, 3, 2], 191.0 and -1.0"


# --- values ------------------------------------------------------------------------------------------------

DTYPES = [
    *(torch.bool, torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64, torch.complex64),
    *(torch.float8_e5m2, torch.float8_e4m3fn, torch.float16, torch.bfloat16, torch.float32, torch.float64),
]


@settings(deadline=None, max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_every_bit_of_every_type_is_kept(save: Save, target: Path, data: st.DataObject) -> None:
    state = {}
    for name in data.draw(st.sets(st.text("abc.", min_size=1, max_size=4), min_size=1, max_size=4)):
        dtype = data.draw(st.sampled_from(DTYPES))
        shape = data.draw(st.lists(st.integers(0, 3), max_size=3))
        size = torch.empty(shape, dtype=dtype, device="meta").nbytes
        content = data.draw(st.binary(min_size=size, max_size=size))
        if dtype == torch.bool:
            content = bytes(byte % 2 for byte in content)
        raw = torch.tensor(list(content), dtype=torch.uint8)
        state[name] = raw.view(dtype).reshape(shape) if size else torch.empty(shape, dtype=dtype)
    # Before torch 1.6 there were no such types.
    legacy = not any("float8" in str(t.dtype) for t in state.values()) and data.draw(st.booleans())
    convert(save(state, _use_new_zipfile_serialization=not legacy), target, allow_nonfinite=True)
    assert same(target, state)


def test_nan_and_infinities_are_counted_and_refused(save: Save, target: Path) -> None:
    state = {
        "fine": torch.ones(2),
        "b": torch.tensor([math.nan, 1.0, math.inf, -math.inf]),
        "a": torch.tensor([math.nan, math.nan], dtype=torch.bfloat16),
        "c": torch.tensor([complex(math.nan, math.inf), complex(1, math.inf)]),
        "n": torch.tensor([1, 2]),
    }
    counts = (("a", 2, 0), ("b", 1, 2), ("c", 1, 1))
    with pytest.raises(NonFiniteValues) as caught:
        convert(save(state), target)
    assert caught.value.counts == counts
    assert list(target.parent.iterdir()) == []
    done = convert(save(state), target, allow_nonfinite=True)
    assert done.nonfinite == counts
    assert same(target, state)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_floating_point_tensors_are_converted_where_it_is_asked(save: Save, target: Path, dtype: str) -> None:
    kind = getattr(torch, dtype)
    state = {
        "w": torch.rand(40, 50, generator=torch.Generator().manual_seed(1)),
        "d": torch.rand(9, dtype=torch.float64, generator=torch.Generator().manual_seed(2)),
        "n": torch.tensor([2**40 + 1]),
        "zero": torch.zeros(3),
    }
    done = convert(save(state), target, dtype=dtype)
    assert same(target, {name: t.to(kind) if t.is_floating_point() else t for name, t in state.items()})
    errors = {
        n: ((state[n].to(kind).double() - state[n].double()) / state[n].double()).abs().max() for n in "wd"
    }
    assert done.dtype == dtype
    assert done.largest_relative_error == max(map(float, errors.values()))
    assert done.largest_error_tensor == max(errors, key=lambda name: float(errors[name]))


def test_a_value_that_becomes_zero_is_a_relative_error_of_one(save: Save, target: Path) -> None:
    done = convert(save({"w": torch.tensor([1e-9, 1.0]), "v": torch.ones(2)}), target, dtype="float16")
    assert (done.largest_relative_error, done.largest_error_tensor) == (1.0, "w")


def test_infinities_do_not_hide_the_error_of_the_others(save: Save, target: Path) -> None:
    state = {"w": torch.tensor([math.nan, math.inf, 0.0, 1.001])}
    done = convert(save(state), target, dtype="bfloat16", allow_nonfinite=True)
    assert done.largest_relative_error == pytest.approx(0.001, rel=0.01)


@pytest.mark.parametrize(("dtype", "value"), [("float16", 65520.0), ("bfloat16", 3.4e38), ("float32", 1e39)])
def test_values_that_would_become_infinite_are_refused(
    save: Save, target: Path, dtype: str, value: float
) -> None:
    state = {"w": torch.tensor([1.0, value, -value], dtype=torch.float64), "v": torch.ones(1)}
    with pytest.raises(UnsafeConversion) as caught:
        convert(save(state), target, dtype=dtype)
    assert caught.value.tensors == (f"w: 2 finite values become infinite in torch.{dtype}",)
    assert list(target.parent.iterdir()) == []


def test_nothing_is_converted_to_the_type_that_it_has(save: Save, target: Path) -> None:
    done = convert(save({"w": WEIGHT}), target, dtype="float32")
    assert (done.dtype, done.largest_relative_error) == ("float32", None)
    assert same(target, {"w": WEIGHT})


def test_tensors_that_cannot_be_stored_are_named(save: Save, target: Path) -> None:
    state = {"w": torch.ones(1, dtype=torch.complex128), "s": torch.eye(2).to_sparse(), "v": torch.ones(1)}
    with pytest.raises(UnsupportedModel) as caught:
        convert(save(state), target)
    assert {name for name, _ in caught.value.problems} == {"w", "s"}


# --- files -------------------------------------------------------------------------------------------------


def test_the_same_checkpoint_gives_the_same_bytes_whatever_its_path_and_the_order_of_its_names(
    save: Save, target: Path
) -> None:
    first = convert(save(DACAPO, "one"), target)
    backwards = dict(reversed([(name, tensor.clone()) for name, tensor in DACAPO.items()]))
    second = convert(save({"model": backwards}, "two"), target)
    assert first.sha256 == second.sha256
    assert first.source_sha256 != second.source_sha256


def test_the_bytes_do_not_depend_on_the_process(save: Save, target: Path) -> None:
    source = save(DACAPO)
    code = (
        "import sys; from pathlib import Path; from cosemzoo.publishing.conversion import convert\n"
        "print(convert(sys.argv[1], Path(sys.argv[2])).sha256)"
    )
    digests = set()
    for seed in ("1", "2"):
        environment = os.environ | {"PYTHONHASHSEED": seed, "PYTHONPATH": os.pathsep.join(sys.path)}
        done = subprocess.run(
            [sys.executable, "-c", code, str(source), str(target)],
            env=environment,
            capture_output=True,
            text=True,
            check=True,
        )
        digests.add(done.stdout)
    assert digests == {convert(source, target).sha256 + "\n"}


def test_shards_are_hashed_together(tmp_path: Path, target: Path, write_folder: Callable[..., Path]) -> None:
    folder = write_folder(tmp_path / "shards", files=2)
    done = convert(folder, target)
    lines = [
        f"{hashlib.sha256(file.read_bytes()).hexdigest()}  {file.name}\n"
        for file in sorted(folder.glob("*.safetensors"))
    ]
    assert done.source_sha256 == hashlib.sha256("".join(lines).encode()).hexdigest()
    whole = load_file(write_folder(tmp_path / "whole") / "model.safetensors")
    assert same(target, whole)


def test_metadata_is_written_beside_the_aliases(save: Save, target: Path) -> None:
    convert(save(DACAPO), target, metadata={"note": "hello"})
    assert dict(read_header(target).metadata) == {"format": "pt", "note": "hello", **ALIASES}
    with pytest.raises(InvalidOption, match="metadata"):
        convert(save(DACAPO), target, metadata={"chain.1.bias": "hello"})


def test_progress_goes_from_nothing_to_all(save: Save, target: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cosemzoo.checkpoints.writer._PIECE_BYTES", 16)
    told: list[tuple[int, int]] = []
    convert(save(DACAPO), target, dtype="float16", progress=lambda *bytes_: told.append(bytes_))
    done = [d for d, _ in told]
    assert done == sorted(set(done))
    assert {a for _, a in told} == {32 + 16} == {done[-1]}


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("model.pt", "ends in .safetensors"),
        ("folder.safetensors", "a folder"),
        ("no/model.safetensors", "make"),
    ],
)
def test_a_target_that_cannot_be_is_refused_before_anything_is_read(
    tmp_path: Path, name: str, why: str
) -> None:
    (tmp_path / "folder.safetensors").mkdir()
    with pytest.raises(InvalidOption, match=why) as caught:
        convert(tmp_path / "missing", tmp_path / name)
    assert caught.value.option == "target"


def test_an_unknown_dtype_is_refused_before_anything_is_read(tmp_path: Path, target: Path) -> None:
    with pytest.raises(InvalidOption, match="bfloat16, float16, float32") as caught:
        convert(tmp_path / "missing", target, dtype="float8")
    assert caught.value.option == "dtype"


@pytest.mark.parametrize("make", [os.symlink, os.link, lambda *_: None])
def test_a_checkpoint_is_never_its_own_target(
    tmp_path: Path, target: Path, make: Callable[[Path, Path], None]
) -> None:
    source = tmp_path / "source.safetensors"
    write_safetensors(source, CANONICAL)
    before = source.read_bytes()
    make(source, target)
    with pytest.raises(InvalidOption, match="another file"):
        convert(source, target if target.exists() else source)
    assert source.read_bytes() == before


def test_a_target_that_is_there_is_replaced_and_stays_when_the_conversion_fails(
    save: Save, target: Path
) -> None:
    target.write_bytes(b"old")
    with pytest.raises(NonFiniteValues):
        convert(save({"w": torch.tensor([math.nan])}), target)
    with pytest.raises(UnreadableCheckpoint):
        convert(target.parent / "missing", target)
    assert target.read_bytes() == b"old"
    convert(save(DACAPO), target)
    assert same(target, CANONICAL)
    assert list(target.parent.iterdir()) == [target]


def test_a_full_disk_is_said_before_anything_is_written(
    save: Save, target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(conversion, "free_bytes", lambda _: 1000)
    with pytest.raises(DiskFull) as caught:
        convert(save({"w": torch.ones(10**6)}), target)
    assert (caught.value.free, caught.value.path) == (1000, str(target.parent))
    assert caught.value.needed > 4 * 10**6
    assert list(target.parent.iterdir()) == []


LIMITED = """
import resource, signal, sys
from pathlib import Path
from cosemzoo.errors import DiskFull
from cosemzoo.publishing.conversion import convert
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
try:
    convert(sys.argv[1], Path(sys.argv[2]))
except DiskFull as error:
    print(error.needed)
"""


def test_so_is_one_that_fills_up_meanwhile(save: Save, target: Path) -> None:
    target.write_bytes(b"old")
    source = save({"w": torch.ones(10**5)})
    done = subprocess.run(
        [sys.executable, "-c", LIMITED, str(source), str(target)], capture_output=True, text=True, check=True
    )
    assert int(done.stdout) >= 4 * 10**5
    assert [path.read_bytes() for path in target.parent.iterdir()] == [b"old"]


def test_another_failure_to_write_names_the_target(
    save: Save, target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(errno.EACCES, "Permission denied", "/somewhere/.0123.tmp")

    monkeypatch.setattr(conversion, "write_safetensors", refuse)
    with pytest.raises(PermissionError) as caught:
        convert(save(DACAPO), target)
    assert caught.value.filename == str(target)


def test_what_was_converted_loads_whole_into_the_network(save: Save, target: Path) -> None:
    def network(seed: int) -> nn.Module:
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            return CosemUNet(2, widths_down=(1, 2, 3, 4), widths_up=(2, 2, 3))

    trained, fresh = network(1), network(2)
    state = {}
    for name, tensor in trained.state_dict().items():
        state[name.replace("backbone.", "architecture.unet.")] = tensor
        state[name.replace("backbone.", "chain.0.unet.").replace("prediction_head.", "chain.1.")] = tensor
    done = convert(save({"model": state}), target)
    assert (done.names, len(done.tensors)) == (84, 42)
    load_into(fresh, target.parent, zoo=Zoo(offline=True), strict="require")
    assert all(torch.equal(a, b) for a, b in zip(trained.parameters(), fresh.parameters(), strict=True))


def test_a_checkpoint_that_changes_while_it_is_read_is_refused(save: Save, target: Path) -> None:
    source = save({"model": DACAPO})
    target.write_bytes(b"before")

    def save_again(done: int, of: int) -> None:
        with source.open("r+b") as file:
            file.seek(0, os.SEEK_END)
            file.write(b"\0")

    with pytest.raises(UnreadableCheckpoint, match="changed while it was read"):
        convert(source, target, progress=save_again)
    assert [path.name for path in target.parent.iterdir()] == [target.name]
    assert target.read_bytes() == b"before"

import gc
import inspect
import json
import signal
import sys
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations

from cosemzoo import models
from cosemzoo.checkpoints import mapped
from cosemzoo.checkpoints.mapped import MappedWeights
from cosemzoo.errors import AliasConflict, CosemZooError, PartialLoad
from cosemzoo.loading import apply
from cosemzoo.loading.report import LoadReport
from cosemzoo.models import load_into
from cosemzoo.zoo import Zoo

Save = Callable[..., Path]
Load = Callable[..., LoadReport]
StateOf = Callable[[nn.Module], Any]


class Net(nn.Module):
    """A little of everything: convolution, running statistics, flat weights, tied weights, a head."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv1d(2, 4, 3)
        self.norm: Any = nn.BatchNorm1d(4)
        self.rnn = nn.LSTM(4, 4)
        self.tied = nn.Linear(4, 4, bias=False)
        self.again = nn.Linear(4, 4, bias=False)
        self.again.weight = self.tied.weight
        self.head = nn.Linear(4, 3)


HEAD = ["head.weight", "head.bias"]


def values(model: nn.Module) -> dict[str, Any]:
    return {name: value.tolist() for name, value in model.state_dict().items()}


def test_a_model_is_filled_in_place_and_keeps_all_that_is_its_own(save: Save, load: Load) -> None:
    source, model = Net(), Net()
    source.norm.num_batches_tracked.fill_(7)
    source.norm.running_mean.fill_(3.0)
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    model.conv.weight.requires_grad_(False)
    vars(model.conv.weight)["note"] = "mine"
    tensors = dict(model.named_parameters()) | dict(model.named_buffers())
    addresses = {name: tensor.data_ptr() for name, tensor in tensors.items()}
    grads = {name: tensor.grad for name, tensor in tensors.items()}
    report = load(model, save(source.state_dict()))
    assert report.outcome == "strict"
    assert values(model) == values(source)
    now = dict(model.named_parameters()) | dict(model.named_buffers())
    assert all(now[name] is tensor for name, tensor in tensors.items())
    assert {name: tensor.data_ptr() for name, tensor in now.items()} == addresses
    assert all(now[name].grad is grad for name, grad in grads.items())
    assert not model.conv.weight.requires_grad
    assert vars(model.conv.weight) == {"note": "mine"}
    assert model.again.weight is model.tied.weight


def test_strides_of_the_model_stay(save: Save, load: Load) -> None:
    source = nn.Conv2d(4, 4, 3)
    model = nn.Conv2d(4, 4, 3).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    strides = model.weight.stride()
    load(model, save(source.state_dict()))
    assert model.weight.stride() == strides != source.weight.stride()
    assert torch.equal(model.weight, source.weight)


def test_a_transposed_and_a_sliced_parameter_are_filled(save: Save, load: Load) -> None:
    source, model = nn.Linear(4, 3), nn.Linear(4, 3)
    memory = torch.zeros(4, 3)
    model.weight = nn.Parameter(memory.t())
    wide = torch.zeros(6)
    model.bias = nn.Parameter(wide[::2])
    load(model, save(source.state_dict()))
    assert torch.equal(model.weight, source.weight)
    assert torch.equal(memory, source.weight.t())
    assert wide[1::2].tolist() == [0, 0, 0]


def test_disjoint_parts_of_one_flat_buffer_are_filled(save: Save, load: Load) -> None:
    source, model = nn.Linear(2, 3), nn.Linear(2, 3)
    flat = torch.zeros(9)
    model.weight, model.bias = nn.Parameter(flat[:6].view(3, 2)), nn.Parameter(flat[6:])
    assert load(model, save(source.state_dict())).outcome == "strict"
    assert torch.equal(flat, torch.cat([source.weight.flatten(), source.bias]))


def test_a_change_is_seen_by_autograd(save: Save, load: Load) -> None:
    model = nn.Linear(2, 2)
    loss = model(torch.ones(1, 2, requires_grad=True)).sum()
    load(model, save(nn.Linear(2, 2).state_dict()))
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


@pytest.mark.parametrize("made", [torch.inference_mode, torch.enable_grad])
@pytest.mark.parametrize("loaded", [torch.inference_mode, torch.enable_grad])
def test_a_model_is_filled_whatever_the_mode(
    made: Callable[[], Any], loaded: Callable[[], Any], *, save: Save, load: Load
) -> None:
    source = Net()
    folder = save(source.state_dict())
    with made():
        model = Net()
    with loaded():
        load(model, folder)
    assert values(model) == values(source)
    assert model.conv.weight.is_inference() == (made is torch.inference_mode)


def test_parametrizations_are_filled(save: Save, load: Load) -> None:
    def make() -> Any:
        return nn.Sequential(
            parametrizations.weight_norm(nn.Conv1d(2, 4, 3)), parametrizations.spectral_norm(nn.Linear(3, 3))
        )

    source, model = make(), make()
    assert load(model, save(source.state_dict())).outcome == "strict"
    assert values(model) == values(source)
    assert torch.equal(model[0].weight, source[0].weight)


def test_a_tensor_class_with_ideas_of_its_own_about_copying_is_filled(save: Save, load: Load) -> None:
    class Careful(torch.Tensor):
        @classmethod
        def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            if func is torch.Tensor.copy_:
                raise RuntimeError("not like this")
            return super().__torch_function__(func, types, args, kwargs or {})  # type: ignore[no-untyped-call]

    source, model = Net(), Net()
    model.head.weight = nn.Parameter(model.head.weight.detach().as_subclass(Careful))
    load(model, save(source.state_dict()))
    assert isinstance(model.head.weight, Careful)
    assert model.head.weight.tolist() == source.head.weight.tolist()
    assert model.conv.weight.tolist() == source.conv.weight.tolist()


def test_tensors_at_odd_places_in_the_file_are_read(tmp_path: Path, load: Load) -> None:
    wide, narrow = torch.rand(1001), torch.rand(77, dtype=torch.float64)
    parts = {
        "first": ("U8", [3], b"\1\2\3"),
        "wide": ("F32", [1001], wide.numpy().tobytes()),
        "flag": ("BOOL", [1], b"\1"),
        "narrow": ("F64", [7, 11], narrow.numpy().tobytes()),
        "scalar": ("F32", [], wide[:1].numpy().tobytes()),
        "empty": ("F32", [0, 3], b""),
    }
    header, data = {}, b""
    for name, (dtype, shape, content) in parts.items():
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [len(data), len(data) + len(content)]}
        data += content
    text = json.dumps(header).encode()
    text += b" " * (len(text) % 2 == 0)
    (tmp_path / "model.safetensors").write_bytes(len(text).to_bytes(8, "little") + text + data)
    model = nn.Module()
    model.register_buffer("first", torch.zeros(3, dtype=torch.uint8))
    model.register_buffer("wide", torch.zeros(1001, dtype=torch.float64))
    model.register_buffer("flag", torch.zeros(1, dtype=torch.bool))
    model.register_buffer("narrow", torch.zeros(7, 11))
    model.register_buffer("scalar", torch.zeros(()))
    model.register_buffer("empty", torch.zeros(0, 3))
    assert load(model, tmp_path).outcome == "strict"
    assert model.get_buffer("first").tolist() == [1, 2, 3]
    assert torch.equal(model.get_buffer("wide"), wide.double())
    assert model.get_buffer("flag").item() is True
    assert torch.equal(model.get_buffer("narrow"), narrow.view(7, 11).float())
    assert model.get_buffer("scalar") == wide[0]


def test_ten_thousand_tensors_are_loaded(save: Save, load: Load, capsys: pytest.CaptureFixture[str]) -> None:
    model = nn.ParameterList([nn.Parameter(torch.zeros(1)) for _ in range(10_000)])
    report = load(model, save({name: value + 1 for name, value in model.state_dict().items()}))
    with capsys.disabled():
        print(f"\n10,000 tensors were planned and loaded in {report.seconds:.2f} s")
    assert report.model_coverage.tensors == 10_000
    assert all(map(bool, model))


def test_names_of_one_tensor_that_differ_in_the_file_are_named_with_the_place(
    save: Save, load: Load, state_of: StateOf
) -> None:
    state = {name: value.clone() for name, value in Net().state_dict().items()}
    state["again.weight"][1, 2] = 42.0
    folder, model = save(state), Net()
    before = state_of(model)
    with pytest.raises(AliasConflict) as caught:
        load(model, folder)
    ((one, other, where),) = caught.value.conflicts
    assert {one, other} == {"again.weight", "tied.weight"}
    assert where.startswith("at [1, 2]: ")
    assert "42.0" in where
    assert state_of(model) == before


def test_the_first_difference_of_large_tensors_is_found(save: Save, load: Load) -> None:
    def tied() -> nn.ModuleDict:
        model = nn.ModuleDict({"a": nn.Linear(1500, 1500, bias=False), "b": nn.Linear(2, 2)})
        model["b"].weight = model["a"].weight
        return model

    state = {name: value.clone() for name, value in tied().state_dict().items()}
    state["a.weight"][1234, 567] = state["a.weight"][1400, 3] = 42.0
    with pytest.raises(AliasConflict, match=r"at \[1234, 567\]: "):
        load(tied(), save(state))


@pytest.mark.parametrize("dtype", [torch.uint8, torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("size", [1, 7, 8, 9, 31, (1 << 20) + 5])
def test_a_difference_is_found_in_every_element(dtype: torch.dtype, size: int) -> None:
    # At an odd place in memory, as in a file.
    memory = torch.zeros(size * dtype.itemsize + 3, dtype=torch.uint8).numpy().data[3:]
    one, other = torch.frombuffer(memory, dtype=dtype), torch.zeros(size, dtype=dtype)
    assert apply._first_difference(one, other) == ""
    for index in {0, size // 2, max(size - 2, 0), size - 1}:
        other[index] = 1
        assert apply._first_difference(one, other).startswith(f"at [{index}]: 0")
        assert apply._first_difference(other, one).startswith(f"at [{index}]: 1")
        other[index] = 0


def test_names_of_one_tensor_that_differ_in_shape_are_named(save: Save, load: Load) -> None:
    state = {name: value.clone() for name, value in Net().state_dict().items()}
    state["again.weight"] = torch.zeros(2, 4)
    with pytest.raises(AliasConflict, match=r"differ: F32 \[2, 4\] and F32 \[4, 4\]"):
        load(Net(), save(state))


def test_not_a_number_is_equal_to_itself_in_both_names(save: Save, load: Load) -> None:
    state = {name: value.clone() for name, value in Net().state_dict().items()}
    for name in ("tied.weight", "again.weight"):
        state[name].zero_()[0, 0] = float("nan")
    model = Net()
    assert load(model, save(state)).outcome == "strict"
    assert model.tied.weight[0, 0].isnan()


def test_names_that_differ_load_into_a_model_where_they_are_two_tensors(save: Save, load: Load) -> None:
    state = {name: value.clone() for name, value in Net().state_dict().items()}
    state["again.weight"].fill_(42.0)
    model = Net()
    model.again.weight = nn.Parameter(torch.zeros(4, 4))
    assert load(model, save(state)).outcome == "strict"
    assert model.again.weight.eq(42.0).all()
    assert torch.equal(model.tied.weight, state["tied.weight"])


def test_for_another_device_values_are_staged_as_they_will_lie_there() -> None:
    source = torch.rand(3, 4)
    for target in (
        torch.empty(3, 4, device="meta"),
        torch.empty(4, 3, device="meta").t(),
        torch.empty(3, 4, device="meta", dtype=torch.float16),
    ):
        staged = apply._staged(source, target)
        assert (staged.device.type, staged.dtype, staged.stride()) == ("cpu", target.dtype, target.stride())
        assert torch.equal(staged, source.to(target.dtype))
    # A part of a tensor's rows is copied within the device, from a whole one.
    assert apply._staged(source, torch.empty(3, 8, device="meta")[:, ::2]).device.type == "meta"


def test_loading_works_in_any_thread(save: Save, load: Load) -> None:
    source, model = Net(), Net()
    folder = save(source.state_dict())
    thread = threading.Thread(target=load, args=(model, folder))
    thread.start()
    thread.join()
    assert values(model) == values(source)


# --- wholly old or wholly new ------------------------------------------------------------------------------


def test_a_partial_load_is_a_warning_and_as_an_error_it_leaves_the_model(
    save: Save, state_of: StateOf
) -> None:
    model, folder = Net(), save({**Net().state_dict(), "more": torch.zeros(2)})
    before = state_of(model)
    with warnings.catch_warnings():
        warnings.simplefilter("error", PartialLoad)
        with pytest.raises(PartialLoad, match=r"is loaded in part: .* 1 unused"):
            load_into(model, folder, zoo=Zoo(offline=True))
    assert state_of(model) == before


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGALRM], ids=["SIGINT", "SIGALRM"])
@pytest.mark.parametrize("at", [1, 5, 14])
@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_a_signal_within_the_commit_is_handled_when_the_model_is_wholly_new(
    device: str, at: int, signum: int, *, save: Save, load: Load, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = Net()
    folder = save(source.state_dict())
    with torch.device(device):
        model = Net()
    copies = 0
    copy = torch.Tensor.copy_

    def interrupted(target: torch.Tensor, source: torch.Tensor) -> torch.Tensor:
        nonlocal copies
        copies += 1
        if copies == at:
            signal.raise_signal(signum)
        return copy(target, source)

    def stop(_: int, __: FrameType | None) -> None:
        raise TimeoutError

    before = signal.signal(signal.SIGALRM, stop)
    monkeypatch.setattr(torch.Tensor, "copy_", interrupted)
    try:
        with pytest.raises(KeyboardInterrupt if signum == signal.SIGINT else TimeoutError):
            load(model, folder)
        assert signal.getsignal(signal.SIGALRM) is stop
    finally:
        signal.signal(signal.SIGALRM, before)
    assert copies == 14
    assert values(model) == values(source)


class Injected(Exception):
    """What goes wrong."""


@contextmanager
def failing_at(step: int) -> Iterator[list[str]]:
    """Raise at the given call within the load, Python or C; give the calls made before the commit."""
    code = str(Path(apply.__file__).parent), models.__file__, mapped.__file__
    calls: list[str] = []
    committing = False

    def watch(frame: FrameType, event: str, argument: Any) -> None:
        nonlocal committing
        name = frame.f_code.co_name if event == "call" else getattr(argument, "__name__", "")
        if committing or event not in {"call", "c_call"} or not frame.f_code.co_filename.startswith(code):
            return
        if name == "_commit":
            committing = True
            return
        if frame.f_code.co_flags & inspect.CO_GENERATOR and event == "call":
            # The end of a generator that is not used up looks like a call, and cannot raise.
            return
        calls.append(name)
        if len(calls) == step:
            raise Injected(name)

    sys.setprofile(watch)
    try:
        yield calls
    finally:
        sys.setprofile(None)
        # Planning switches it off, and fails at every step here: also where it would switch it on again.
        gc.enable()


# A failure between opening a file and entering its `with` leaves it to the garbage collector to close.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("every", [False, pytest.param(True, marks=pytest.mark.full)])
@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_a_failure_at_any_step_before_the_commit_leaves_the_model_wholly_old(
    device: str, every: bool, *, save: Save, load: Load, state_of: StateOf
) -> None:
    state = {name: value.double() for name, value in Net().state_dict().items() if name != "conv.bias"}
    checkpoint = Zoo(offline=True).resolve(save(state, ["a", "b", "c"], HEAD))
    with torch.device(device):
        model, probe, earlier = Net(), Net(), Net()
    # What one load keeps for the next (the boxes of shapes) is made here, and not counted below.
    load(earlier, checkpoint, new_head=["c", "new", "a"])
    with failing_at(0) as calls:
        load(probe, checkpoint, new_head=["c", "new", "a"])
    assert {"read_model", "make_plan", "check", "read_ahead", "check_equal", "_staged"} <= {*calls}
    assert {"materialise", "run_to_end", "madvise", "frombuffer", "aminmax", "warn"} <= {*calls}
    last = {name: step for step, name in enumerate(calls, 1)}
    first = {name: step for step, name in reversed([*enumerate(calls, 1)])}
    # Random numbers that were drawn for the model are no part of it.
    before = state_of(model) | {"random": None}
    for step in range(1, len(calls) + 1) if every else sorted({*first.values(), *last.values()}):
        with failing_at(step), pytest.raises(Injected):
            load(model, checkpoint, new_head=["c", "new", "a"])
        now = state_of(model) | {"random": None}
        assert now == before, f"changed by a failure in {calls[step - 1]}, call {step}"
    load(model, checkpoint, new_head=["c", "new", "a"])
    assert model.conv.weight.tolist() == state["conv.weight"].tolist()


@pytest.mark.parametrize(
    ("options", "state"),
    [
        ({"new_head": ["a", "b"]}, {}),
        ({"new_head": ["a", "b", "b"]}, {}),
        ({"new_head": "abc"}, {}),
        ({"head": "nowhere"}, {}),
        ({"strict": "require"}, {"more": torch.zeros(1)}),
        ({"min_coverage": 1.0}, {"conv.weight": torch.zeros(1)}),
        ({}, {"again.weight": torch.ones(4, 4)}),
        ({}, {"conv.weight": torch.full((4, 2, 3), 1e300, dtype=torch.float64)}),
    ],
    ids=lambda value: str(list(value)),
)
def test_after_every_refusal_the_model_is_as_it_was(
    options: dict[str, Any], state: dict[str, torch.Tensor], *, save: Save, load: Load, state_of: StateOf
) -> None:
    stored = {name: value.clone() for name, value in Net().state_dict().items()} | state
    folder, model = save(stored, ["a", "b", "c"], HEAD), Net()
    before = state_of(model)
    with pytest.raises(CosemZooError):
        load(model, folder, **options)
    assert state_of(model) == before


def test_a_file_that_cannot_be_read_leaves_the_model(
    save: Save, load: Load, state_of: StateOf, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_: MappedWeights) -> None:
        raise OSError(5, "Input/output error")

    folder, model = save(Net().state_dict()), Net()
    before = state_of(model)
    monkeypatch.setattr(MappedWeights, "read_ahead", fail)
    with pytest.raises(OSError, match="Input/output error"):
        load(model, folder)
    assert state_of(model) == before

"""Ctrl-C at any moment, many times: the model is wholly old or wholly new."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

SOAK = """
import json, random, signal, sys, time, warnings
from pathlib import Path
import torch
from torch import nn
from cosemzoo.checkpoints.writer import write_safetensors
from cosemzoo.models import load_into
from cosemzoo.zoo import Zoo

folder, times, device, read = Path(sys.argv[1]), int(sys.argv[2]), *sys.argv[3:]
torch.set_num_threads(1)


def net(value, device):
    with torch.device(device):
        model = nn.ParameterList([nn.Parameter(torch.empty(size)) for size in range(900, 960)])
    with torch.no_grad():
        for parameter in model:
            parameter.fill_(value)
    return model


write_safetensors(folder / "model.safetensors", net(1.0, "cpu").state_dict())
zoo = Zoo(offline=True)
checkpoint = zoo.resolve(folder)


def state(model):
    if all(parameter.is_meta for parameter in model):
        return "old"
    if any(parameter.is_meta for parameter in model):
        return "torn"
    seen = set(torch.cat([parameter.detach() for parameter in model]).tolist())
    return {(0.0,): "old", (1.0,): "new"}.get(tuple(seen), "torn")


def interrupted_load(model, delay):
    # Ctrl-C, sent by the clock.
    try:
        try:
            signal.setitimer(signal.ITIMER_REAL, delay)
            load_into(model, checkpoint, zoo=zoo, read=read)
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
    except KeyboardInterrupt:
        return True
    return False


signal.signal(signal.SIGALRM, signal.default_int_handler)
began = time.perf_counter()
for _ in range(5):
    load_into(net(0.0, device), checkpoint, zoo=zoo, read=read)
usual = (time.perf_counter() - began) / 5
random.seed(5)
counts = {}
for _ in range(times):
    model = net(0.0, device)
    stopped = interrupted_load(model, random.uniform(1e-5, 1.2 * usual))
    key = f"{state(model)}{' interrupted' if stopped else ''}"
    counts[key] = counts.get(key, 0) + 1
    assert signal.getsignal(signal.SIGALRM) is signal.default_int_handler
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
print(json.dumps(counts))
"""


@pytest.mark.parametrize("times", [150, pytest.param(5000, marks=pytest.mark.full)])
@pytest.mark.parametrize(("device", "read"), [("cpu", "mmap"), ("meta", "mmap"), ("cpu", "sequential")])
def test_a_load_interrupted_at_any_moment_leaves_the_model_wholly_old_or_wholly_new(
    device: str, read: str, times: int, *, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", SOAK, str(tmp_path), str(times), device, read],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    with capsys.disabled():
        print(f"\n{times} interrupted loads on {device}, {read}: {done.stdout.strip()}")
    counts: dict[str, int] = json.loads(done.stdout)
    assert sum(counts.values()) == times
    assert not [state for state in counts if "torn" in state]
    assert "old" not in counts
    assert counts["old interrupted"] > 0

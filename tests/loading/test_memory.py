"""Loading into a model that is there already takes little memory beyond the model."""

import subprocess
import sys
from pathlib import Path

import pytest

MEASURE = """
import sys
from pathlib import Path
import torch
from torch import nn
from cosemzoo.checkpoints.writer import write_safetensors
from cosemzoo.loading import apply
from cosemzoo.models import load_into
from cosemzoo.zoo import Zoo

folder, size, read = Path(sys.argv[1]), int(sys.argv[2]), sys.argv[5]
stored, own = (getattr(torch, name) for name in sys.argv[3:5])


def net(dtype):
    model = nn.Module()
    for name in ("first", "second", "third", "fourth"):
        model.register_buffer(name, torch.ones(size // 4 // 1024, 1024 // dtype.itemsize, dtype=dtype))
    model.register_buffer("flipped", torch.ones(1024, 4096, dtype=dtype).t())
    return model


source = net(torch.float32)
state = {name: tensor.to(stored) for name, tensor in source.state_dict().items()}
write_safetensors(folder / "model.safetensors", state)
model = source.to(own)
del source, state
zoo = Zoo(offline=True)
checkpoint = zoo.resolve(folder)
zoo.fetch(checkpoint)
memory = MemoryWatch()


def seen(step):
    # Also seen at the moment when everything is staged, whatever the watching thread sees.
    def wrapped(action):
        memory.look()
        step(action)
        memory.look()

    return wrapped


apply.run_to_end = seen(apply.run_to_end)
with memory:
    report = load_into(model, checkpoint, zoo=zoo, read=read)
assert all(bool((tensor == 1).all()) for tensor in model.buffers())
print(report.bytes, memory.added)
"""

MIB = 1 << 20


@pytest.mark.parametrize("size", [160 * MIB, pytest.param(1024 * MIB, marks=pytest.mark.full)])
@pytest.mark.parametrize(
    ("stored", "own", "read"),
    [
        ("float32", "float32", "mmap"),
        ("float32", "float16", "mmap"),
        ("float32", "float16", "sequential"),
        pytest.param("float32", "float32", "sequential", marks=pytest.mark.full),
        pytest.param("float16", "float32", "mmap", marks=pytest.mark.full),
        pytest.param("float64", "float32", "mmap", marks=pytest.mark.full),
    ],
)
def test_loading_adds_at_most_64_mib_of_anonymous_memory(
    stored: str,
    own: str,
    read: str,
    size: int,
    *,
    memory_watch: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    done = subprocess.run(
        [sys.executable, "-c", memory_watch + MEASURE, str(tmp_path), str(size), stored, own, read],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    written, added = map(int, done.stdout.split())
    with capsys.disabled():
        print(f"\n{stored} into {own}, {read}: {written / MIB:.0f} MiB written, {added / MIB:.1f} MiB more")
    assert written > size / 2
    assert added <= 64 * MIB

"""A checkpoint of setup04's full size, as it is published: 84 names and an optimizer's state, converted."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

pytestmark = pytest.mark.full

Run = Callable[..., str]
MIB = 1 << 20

CONVERT = """
import json, sys
from cosemzoo.publishing.conversion import convert

started = time.monotonic()
with MemoryWatch() as memory:
    done = convert(sys.argv[1], Path(sys.argv[2]), dtype=sys.argv[3] or None)
seconds = time.monotonic() - started
print(json.dumps(done.to_dict() | {"seconds": seconds, "added": memory.added}))
"""

COMPARE = """
import sys
import torch
from safetensors import safe_open
model = torch.load(sys.argv[1], mmap=True, weights_only=True)["model"]
with safe_open(sys.argv[2], framework="pt") as opened:
    aliases = opened.metadata()
    for name, tensor in model.items():
        found = opened.get_tensor(aliases.get(name, name))
        expected = tensor.to(found.dtype)
        assert found.shape == expected.shape
        assert torch.equal(found.view(torch.uint8), expected.view(torch.uint8))
    print(len(list(opened.keys())))
"""


@pytest.mark.parametrize("dtype", ["", "bfloat16"])
def test_a_full_size_checkpoint_is_converted_in_little_memory(
    *,
    training: Path,
    run: Run,
    memory_watch: str,
    dtype: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    target = tmp_path / "model.safetensors"
    done = json.loads(run(memory_watch + CONVERT, training, target, dtype))
    with capsys.disabled():
        print(
            f"\n{dtype or 'as it is'}: {training.stat().st_size / MIB:.0f} MiB to "
            f"{target.stat().st_size / MIB:.0f} MiB in {done['seconds']:.1f} s, "
            f"{done['added'] / MIB:.1f} MiB more anonymous memory, "
            f"largest relative error {done['largest_relative_error']}"
        )
    assert (done["names"], len(done["tensors"]), done["parameters"]) == (84, 42, 234_967_826)
    assert (done["layout"], done["kind"]) == ("dacapo 0.3", "COSEM or DaCapo checkpoint")
    assert done["dropped"] == ["optimizer: 126 tensors, 1,879,742,776 bytes"]
    size = 234_967_826 * (2 if dtype else 4)
    assert size < done["bytes"] == target.stat().st_size < size + 100_000
    assert run(COMPARE, training, target) == "42\n"
    assert done["added"] <= 128 * MIB

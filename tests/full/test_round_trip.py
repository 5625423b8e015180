"""A training's checkpoint of setup04's full size, pushed, and loaded by a start."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from cosemzoo.localhub import LocalHub

pytestmark = pytest.mark.full

MIB = 1 << 20

PUSH = """
import json, sys, warnings
from cosemzoo.publishing.push import PushOptions, push
from cosemzoo.zoo import Zoo

warnings.simplefilter("ignore", DeprecationWarning)
started = time.monotonic()
zoo = Zoo(endpoint=sys.argv[2], cache_dir=sys.argv[3], token=False)
options = PushOptions(generated=True, aliases=["best"])
with MemoryWatch() as memory:
    done = push("setup04@1820500", sys.argv[1], zoo=zoo, options=options)
seconds = time.monotonic() - started
changes = list(done.published.changes)
print(json.dumps({"seconds": seconds, "added": memory.added, "changes": changes}))
"""

START = """
import json, sys, time
import torch
from cosemzoo import CosemStart, Zoo
from cosemzoo.nets import CosemUNet

zoo = Zoo(endpoint=sys.argv[2], cache_dir=sys.argv[3], token=False)
start = CosemStart("setup04", store=zoo)
started = time.monotonic()
start.check()
fetched = time.monotonic() - started
with torch.device("meta"):
    network = CosemUNet(14)
start.initialize_weights(network, new_head=start.channels, strict="require")
saved = torch.load(sys.argv[1], mmap=True, weights_only=True)["model"]
compared = 0
for name, loaded in network.state_dict().items():
    for ours, theirs in {"backbone.": ["architecture.unet.", "chain.0.unet."],
                         "prediction_head.": ["prediction_head.", "chain.1."]}.items():
        if name.startswith(ours):
            for prefix in theirs:
                assert torch.equal(saved[prefix + name.removeprefix(ours)], loaded)
                compared += 1
(file,) = start.checkpoint.files
stored = len(start.checkpoint.weights.tensors)
print(json.dumps({"fetched": fetched, "compared": compared, "bytes": file.size, "stored": stored}))
"""


def test_what_was_trained_at_full_size_is_what_a_start_loads(
    *,
    training: Path,
    run: Callable[..., str],
    memory_watch: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    with LocalHub(tmp_path / "hub") as hub:
        publish = memory_watch + PUSH
        pushed = json.loads(run(publish, training, hub.endpoint, tmp_path / "publisher"))
        again = json.loads(run(publish, training, hub.endpoint, tmp_path / "publisher"))
        started = json.loads(run(START, training, hub.endpoint, tmp_path / "reader"))
    with capsys.disabled():
        print(
            f"\npushed {training.stat().st_size / MIB:.0f} MiB in {pushed['seconds']:.1f} s "
            f"({pushed['added'] / MIB:.0f} MiB more anonymous memory), again in {again['seconds']:.1f} s; "
            f"fetched {started['bytes']:,} bytes in {started['fetched']:.1f} s"
        )
    assert again["changes"] == []
    assert (started["compared"], started["stored"]) == (84, 42)
    assert 939_871_304 < started["bytes"] < 939_900_000

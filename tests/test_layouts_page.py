"""docs/layouts.md: its examples run, and its table of layouts is the one that there is."""

import re
from collections.abc import Callable
from pathlib import Path

from cosemzoo.checkpoints.writer import write_safetensors
from cosemzoo.loading.layouts import LAYOUTS
from cosemzoo.manifest import Channel, HeadTensor, Manifest
from cosemzoo.publishing import publish
from cosemzoo.zoo import Zoo
from tests.layout_trees import random_network

PAGE = (Path(__file__).parents[1] / "docs" / "layouts.md").read_text(encoding="utf-8")

BEFORE = """
import warnings
from torch import nn
from tests.layout_trees import MainNetwork, random_network

warnings.simplefilter("ignore", UserWarning)
network = random_network(3, seed=2)
model = nn.Module()
model.encoder, model.out = network.backbone, network.prediction_head
"""
BETWEEN = """
model = MainNetwork(random_network(3, seed=2))
"""
AFTER = """
print([row.source_row for row in report.channels], report.coverage.tensors, report.prefixes[0])
"""


def test_the_examples_run(run_python: Callable[..., str], zoo: Zoo, tmp_path: Path) -> None:
    folder = tmp_path / "small"
    folder.mkdir()
    write_safetensors(folder / "model.safetensors", random_network(3, seed=1).state_dict())
    manifest = Manifest(
        run="setup04",
        iteration=1820500,
        channels=tuple(Channel(label, "distance") for label in ("er", "nuc", "mito")),
        head=(HeadTensor("prediction_head.weight"), HeadTensor("prediction_head.bias")),
    )
    (folder / "config.json").write_text(manifest.to_json(), encoding="utf-8")
    publish(folder, "setup04@1820500", zoo=zoo)
    first, second = re.findall(r"^```python\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)
    printed = run_python(BEFORE + first + BETWEEN + second + AFTER)
    assert printed == "[2, 0, 1] 40 `backbone.` → `encoder.` (rename)\n"


def test_its_table_has_the_prefixes_of_every_layout() -> None:
    found = {}
    for line in re.findall(r"^\| `(.*)$", PAGE, re.MULTILINE):
        name, backbone, head, _ = line.split("|", 3)
        found[name.strip(" `")] = [tuple(re.findall(r"`(.*?)…`", cell)) for cell in (backbone, head)]
    assert found == {layout.name: [layout.backbone, layout.head] for layout in LAYOUTS}

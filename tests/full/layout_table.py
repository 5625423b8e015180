"""The tables of docs/layouts.md: what loads really change in a model, by this package and by DaCapo.

    .venv-full/bin/python -m tests.full.layout_table    # measures, and writes them into the page

Counted is what the values of the model are afterwards, not what a loader says. The networks are narrow; their
modules and names are those of the published ones.
"""

import copy
import json
import logging
import os
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Final, TypeAlias

import torch
from torch import nn

from benchmarks.peers import dacapo_set_weights
from cosemzoo.checkpoints.writer import write_safetensors
from cosemzoo.errors import CosemZooError
from cosemzoo.manifest import Channel, HeadTensor, Manifest
from cosemzoo.models import load_into
from cosemzoo.zoo import Zoo
from tests.full.test_dacapo import DACAPO
from tests.full.test_nets import peer
from tests.layout_trees import NARROW, TREES, LightningNetwork, names_of, random_network

ROOT: Final = Path(__file__).parents[2]
PAGE: Final = ROOT / "docs" / "layouts.md"
BEGIN: Final = "<!-- measured: python -m tests.full.layout_table -->"
END: Final = "<!-- end of what is measured -->"

LABELS: Final = json.loads((ROOT / "tests" / "data" / "setup04_tensors.json").read_text())["labels"]
#: No label where the checkpoint has it, and one that the checkpoint has not.
WANTED: Final = [label if label != "mt" else "ld" for label in reversed(LABELS)]

BACKBONE_ALONE: Final = "the backbone alone"
#: Every tree by the name that the tables give it.
NETWORKS: Final[Mapping[str, Callable[[Any], nn.Module]]] = {
    "DaCapo ≤ 0.3.5": TREES["dacapo 0.3"],
    "DaCapo main": TREES["dacapo main"],
    "cellmap-models": TREES["cellmap-models"],
    "cellmap-models before 2024-03-18": TREES["cellmap-models before 2024-03"],
    "wrapped by Lightning": LightningNetwork,
    BACKBONE_ALONE: lambda network: network.backbone,
}

#: Fills a model from the state dict of a checkpoint; the labels are None where there is no head.
Loader: TypeAlias = Callable[[nn.Module, Mapping[str, torch.Tensor], "Sequence[str] | None"], None]
#: Of one load: tensors that have the checkpoint's values, rows by what they have, and what was raised.
Outcome: TypeAlias = dict[str, Any]
Outcomes: TypeAlias = dict[str, dict[str, dict[str, Outcome]]]

TITLES: Final = {
    "cosemzoo": "cosemzoo",
    "dacapo with labels": "The loader of DaCapo 0.3.5, given the labels as its runs do",
    "dacapo without labels": "The loader of DaCapo 0.3.5, given no labels as the runs of DaCapo main do",
}

#: Goes before a script that is run in a process with DaCapo: `real` is the narrow network as it builds it.
NETWORK_OF_DACAPO: Final = """
from tests.full.layout_table import LABELS, measure, settings

task = DistanceTaskConfig(name="task", channels=LABELS, clip_distance=50, tol_distance=10)
config = CNNectomeUNetConfig(name="narrow", **settings())
real = task.task_type(task).create_model(config.architecture_type(config))
"""


def settings() -> dict[str, Any]:
    """Give the arguments of DaCapo's configuration of the narrow network."""
    from cosemzoo.interop.dacapo.architecture import unet_settings
    from cosemzoo.nets.arguments import read_arguments

    found, problems = unet_settings(read_arguments({"channels": len(LABELS), **NARROW}))
    assert not problems
    return {**found, "input_shape": random_network(1, 0).valid_input_shape()}


def in_dacapo(script: str) -> str:
    """Run a script in a process that has DaCapo, and give the last line that it prints."""
    with tempfile.TemporaryDirectory() as folder:
        options = Path(folder) / "dacapo.yaml"
        options.write_text(f"runs_base_dir: {folder}\n")
        done = subprocess.run(
            [sys.executable, "-c", DACAPO + NETWORK_OF_DACAPO + script],
            cwd=ROOT,
            env={**os.environ, "DACAPO_OPTIONS_FILE": str(options)},
            capture_output=True,
            text=True,
            check=False,
        )
    if done.returncode:
        raise RuntimeError(done.stderr)
    return done.stdout.splitlines()[-1]


def measured() -> Outcomes:
    """Measure everything."""
    found: Outcomes = json.loads(in_dacapo("print(json.dumps(measure(real)))"))
    return found


def measure(dacapo: nn.Module) -> Outcomes:
    """Load every checkpoint into every network with every loader.

    Parameters
    ----------
    dacapo : torch.nn.Module
        The narrow network as the DaCapo that is installed builds it.
    """
    logging.disable()
    real = {"DaCapo ≤ 0.3.5": dacapo, "cellmap-models": cellmap_network()}
    set_weights = dacapo_set_weights()

    def with_labels(model: nn.Module, state: Mapping[str, torch.Tensor], labels: Any) -> None:
        weights = SimpleNamespace(model=dict(state), optimizer={})
        set_weights(model, weights, "setup04", "1820500", LABELS, labels)

    def without_labels(model: nn.Module, state: Mapping[str, torch.Tensor], _: Any) -> None:
        with_labels(model, state, None)

    loaders: Mapping[str, Loader] = {
        "cosemzoo": load,
        "dacapo with labels": with_labels,
        "dacapo without labels": without_labels,
    }
    return {
        title: {
            source: {target: outcome(loader, source, target, real.get(target)) for target in NETWORKS}
            for source in NETWORKS
        }
        for title, loader in loaders.items()
    }


def cellmap_network() -> nn.Module:
    """Build the narrow network as the cellmap-models that is installed does."""
    form = {"upsampling": "constant", "padding": "valid", "activation_on_upsample": True}
    return peer(len(LABELS), factors=(2, 3, 3), **NARROW, **form)


def load(model: nn.Module, state: Mapping[str, torch.Tensor], labels: Sequence[str] | None) -> None:
    """Load with this package, from a file."""
    head = [name for name in state if name.endswith(("prediction_head.weight", "prediction_head.bias"))]
    with tempfile.TemporaryDirectory() as name, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        folder = Path(name)
        write_safetensors(folder / "model.safetensors", state)
        if head:
            channels = tuple(Channel(label, "distance") for label in LABELS)
            manifest = Manifest(run="setup04", channels=channels, head=tuple(map(HeadTensor, head)))
            (folder / "config.json").write_text(manifest.to_json(), encoding="utf-8")
        load_into(model, folder, new_head=labels if head else None, zoo=Zoo(offline=True))


def outcome(loader: Loader, source: str, target: str, real: nn.Module | None) -> Outcome:
    """Load twice, for the same labels and for others, and count.

    Returns
    -------
    Outcome
        ``tensors`` of ``all_tensors`` for the same labels; for the others the rows that are ``loaded`` from
        the channel of their label, ``kept``, or filled with a ``wrong`` channel, and the ``error``.
    """
    stored = random_network(len(LABELS), seed=1)
    state, expected = NETWORKS[source](stored).state_dict(), stored.state_dict()
    same, _ = filled(loader, state, LABELS, target, real)
    tensors = [torch.equal(value, expected[name]) for name, value in same.items()]
    found, error = filled(loader, state, WANTED, target, real)
    own, _ = filled(lambda *_: None, state, WANTED, target, real)
    rows = {"loaded": 0, "kept": 0, "wrong": 0}
    for row, label in enumerate(WANTED if target != BACKBONE_ALONE else []):
        values = rows_of(found)[row]
        if torch.equal(values, rows_of(own)[row]):
            rows["kept"] += 1
        else:
            right = label in LABELS and torch.equal(values, rows_of(expected)[LABELS.index(label)])
            rows["loaded" if right else "wrong"] += 1
    return {"tensors": sum(tensors), "all_tensors": len(tensors), **rows, "error": error}


def filled(
    loader: Loader,
    state: Mapping[str, torch.Tensor],
    labels: Sequence[str],
    target: str,
    real: nn.Module | None,
) -> tuple[dict[str, torch.Tensor], str]:
    """Load into a new model, and give its tensors by their canonical names, and what was raised."""
    network = random_network(len(labels), seed=2)
    model = NETWORKS[target](network)
    names = names_of(model, network)
    if real is not None:
        own = model.state_dict()
        model = copy.deepcopy(real)
        assert model.state_dict().keys() == own.keys()
        model.load_state_dict(own)
    error = ""
    try:
        loader(model, state, None if target == BACKBONE_ALONE else labels)
    except (CosemZooError, KeyError) as raised:
        error = type(raised).__name__
    values: dict[str, torch.Tensor] = {}
    for name, value in model.state_dict().items():
        assert torch.equal(values.setdefault(names[name], value), value)
    return values, error


def rows_of(tensors: Mapping[str, torch.Tensor]) -> torch.Tensor:
    """Give weight and bias of every row of the head."""
    weight, bias = (tensors[f"prediction_head.{leaf}"] for leaf in ("weight", "bias"))
    return torch.cat([weight.flatten(1), bias[:, None]], dim=1)


def tables(outcomes: Outcomes) -> str:
    """Give all tables for the page."""
    return "\n\n".join(f"### {TITLES[title]}\n\n{table(cells)}" for title, cells in outcomes.items())


def table(cells: Mapping[str, Mapping[str, Outcome]]) -> str:
    """Give one table: checkpoints by rows, networks by columns."""
    head = ["checkpoint of ↓ into network of →", *NETWORKS]
    body = [[source, *(cell(found) for found in row.values())] for source, row in cells.items()]
    return "\n".join(f"| {' | '.join(line)} |" for line in [head, ["---"] * len(head), *body])


def cell(found: Outcome) -> str:
    """Say what became of one pair."""
    rows = [f"{found[what]} {what}" for what in ("loaded", "kept", "wrong") if found[what]]
    parts = [f"{found['tensors']} of {found['all_tensors']}"]
    parts += [f"rows: {', '.join(rows)}"] if rows else []
    parts += [f"`{found['error']}`"] if found["error"] else []
    return "; ".join(parts)


def page(outcomes: Outcomes, text: str) -> str:
    """Give the page with these tables in it."""
    before, _, rest = text.partition(BEGIN)
    return f"{before}{BEGIN}\n\n{tables(outcomes)}\n\n{END}{rest.partition(END)[2]}"


def main() -> None:
    """Write the page."""
    PAGE.write_text(page(measured(), PAGE.read_text(encoding="utf-8")), encoding="utf-8")


if __name__ == "__main__":
    main()

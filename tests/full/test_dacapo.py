"""DaCapo 0.3.5 itself: it stores a start of the zoo, reads it back, and trains from it; or says why not.

`make test-full` installs DaCapo without the forty packages that it needs for data, displays and clusters. Of
these, the ones that are not there are replaced by names that do nothing: its networks, configurations and
stores use none of them.
"""

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml  # type: ignore[import-untyped]

from cosemzoo.checkpoints.writer import write_safetensors
from cosemzoo.manifest import Architecture, Channel, HeadTensor, Manifest
from cosemzoo.nets import CosemUNet

pytestmark = pytest.mark.full

TENSORS = Path(__file__).parent.parent / "data" / "setup04_tensors.json"
SMALL: dict[str, Any] = {
    "widths_down": [2, 4, 8],
    "widths_up": [4, 4],
    "factors": [2, 2],
    "final_upsample": 2,
}
LABELS = ("ecs", "mito", "er")

DACAPO = """
import importlib.util, json, sys, warnings
from importlib.machinery import ModuleSpec
from types import ModuleType

NOT_NEEDED = {
    "augment", "bokeh", "boto3", "bson", "daisy", "dask", "fibsem_tools", "funlib.math", "funlib.persistence",
    "gunpowder", "lazy_property", "lsd", "matplotlib", "mwatershed", "neuroglancer", "numpy_indexed",
    "pymongo", "scipy", "SimpleITK", "skimage", "tifffile", "xarray", "zarr",
}


class Inert(ModuleType):
    __path__ = []

    def __getattr__(self, name):
        if name.startswith("__"):
            raise AttributeError(name)
        return type(name, (), {"__init__": lambda self, *arguments, **named: None})


class Finder:
    def find_spec(self, name, path=None, target=None):
        parts = name.split(".")
        if NOT_NEEDED & {parts[0], ".".join(parts[:2])}:
            return ModuleSpec(name, self, is_package=True)

    def create_module(self, spec):
        return Inert(spec.name)

    def exec_module(self, module):
        pass


# The last to be asked: what is installed is what is used.
sys.meta_path.append(Finder())
warnings.simplefilter("ignore")
import dacapo
from dacapo.experiments import Run, RunConfig
from dacapo.experiments.architectures import CNNectomeUNetConfig
from dacapo.experiments.datasplits import DummyDataSplitConfig
from dacapo.experiments.starts import StartConfig
from dacapo.experiments.tasks import DistanceTaskConfig, HotDistanceTaskConfig, OneHotTaskConfig
from dacapo.experiments.trainers import DummyTrainerConfig
from dacapo.store.converter import converter
from dacapo.store.create_store import create_config_store


def run_config(architecture, start, labels, task=DistanceTaskConfig):
    return RunConfig(
        task_config=task(name="task", channels=labels, clip_distance=50, tol_distance=10),
        architecture_config=architecture,
        trainer_config=DummyTrainerConfig(
            name="trainer", batch_size=1, learning_rate=1e-4, mirror_augment=False
        ),
        datasplit_config=DummyDataSplitConfig(name="data"),
        name="fine",
        repetition=0,
        num_iterations=10,
        start_config=start,
    )
"""

STORE = """
from cosemzoo.interop.dacapo import CosemStartConfig, architecture_config_for

start = CosemStartConfig("local:small", "1000", **json.loads(sys.argv[1]))
architecture = architecture_config_for("local:small@1000", input_shape=(44, 44, 44))
for _ in range(2):
    # The second time, DaCapo compares what is stored with what is given.
    create_config_store().store_run_config(run_config(architecture, start, ["er", "new"]))
"""

READ = """
import cosemzoo.interop.dacapo as interop

# A process may read runs first, and register later.
before = create_config_store().retrieve_run_config("fine").start_config
interop.register()
interop.register()
start = create_config_store().retrieve_run_config("fine").start_config
same = start == interop.CosemStartConfig("local:small", "1000", **json.loads(sys.argv[1]))
print(json.dumps([type(before).__name__, same, isinstance(start, StartConfig), start.run, start.criterion]))
"""

TRAIN = """
import torch
import cosemzoo.interop.dacapo

cosemzoo.interop.dacapo.register()
torch.manual_seed(4)
run = Run(create_config_store().retrieve_run_config("fine"))
torch.save(run.model.state_dict(), sys.argv[1])
report = run.start.report
print(json.dumps([[[row.label, row.source_row] for row in report.channels], report.coverage.tensors]))
"""

UNAWARE = """
config = create_config_store().retrieve_run_config("fine")
assert "cosemzoo" not in sys.modules
Run(config)
"""

MAIN = """
import torch
from cosemzoo.interop.dacapo import CosemStartConfig, architecture_config_for, task_labels_for

labels = task_labels_for("local:small@1000")
architecture = architecture_config_for("local:small@1000", input_shape=(44, 44, 44))
task = DistanceTaskConfig(name="task", channels=labels, clip_distance=50, tol_distance=10)
model = task.task_type(task).create_model(architecture.architecture_type(architecture))
own = {name: tensor.clone() for name, tensor in model.state_dict().items()}
config = CosemStartConfig("local:small", "1000", **json.loads(sys.argv[1]))
# As the `model` of main's RunConfig does it.
config.start_type(config).initialize_weights(model, None)
torch.save([own, model.state_dict()], sys.argv[2])
"""

FULL_SIZE = """
import torch
from cosemzoo.interop.dacapo import CosemStartConfig, architecture_config_for

config = architecture_config_for(sys.argv[1])
task = DistanceTaskConfig(name="task", channels=json.loads(sys.argv[2]), clip_distance=50, tol_distance=10)
with torch.device("meta"):
    model = task.task_type(task).create_model(config.architecture_type(config))
shapes = {name: list(tensor.shape) for name, tensor in model.state_dict().items()}
given = CosemStartConfig(*sys.argv[1].split("@"), new_head=json.loads(sys.argv[2]))
plan = given.start_type(given).plan(model)
planned = [plan.outcome, str(plan.model_coverage)]
print(json.dumps([config.name, list(config.input_shape), list(model.output_shape), shapes, planned]))
"""


@pytest.fixture
def places(tmp_path: Path) -> dict[str, str]:
    options = tmp_path / "dacapo.yaml"
    options.write_text(yaml.dump({"runs_base_dir": str(tmp_path / "dacapo")}))
    return {"DACAPO_OPTIONS_FILE": str(options), "COSEMZOO_LOCAL_DIR": str(tmp_path / "zoo")}


@pytest.fixture
def network(tmp_path: Path) -> CosemUNet:
    """Have a small network, stored in the local zoo as ``local:small@1000``."""
    network = CosemUNet(len(LABELS), **SMALL)
    folder = tmp_path / "zoo" / "small" / "1000"
    folder.mkdir(parents=True)
    write_safetensors(folder / "model.safetensors", network.state_dict())
    manifest = Manifest(
        run="small",
        iteration=1000,
        channels=tuple(Channel(label, "distance") for label in LABELS),
        head=(HeadTensor("prediction_head.weight"), HeadTensor("prediction_head.bias")),
        architecture=Architecture("cosem-unet", {"channels": len(LABELS), **SMALL}),
        input_range=(-1.0, 1.0),
        layout="cellmap-models",
        generated=True,
    )
    (folder / "config.json").write_text(manifest.to_json())
    return network


def write_empty(path: Path) -> None:
    """Write the weights of setup04, all of them 0 and none of them on the disk."""
    header, end = {}, 0
    with torch.device("meta"):
        tensors = CosemUNet(14).state_dict()
    for name, tensor in tensors.items():
        begin, end = end, end + tensor.nbytes
        header[name] = {"dtype": "F32", "shape": [*tensor.shape], "data_offsets": [begin, end]}
    text = json.dumps(header).encode()
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        file.truncate(8 + len(text) + end)


def run(script: str, places: Mapping[str, str], *arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", DACAPO + script, *map(str, arguments)],
        env={**os.environ, **places},
        capture_output=True,
        text=True,
        check=False,
    )


def last_line(done: subprocess.CompletedProcess[str]) -> str:
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()[-1]


ALL = {
    "new_head": [["er", "distance"], "new"],
    "label_map": {"new": "ecs"},
    "vocabulary": "cellmap-challenge",
    "head": "prediction_head",
    "strict": "never",
    "min_coverage": 0.25,
    "runs_base_dir": None,
}


@pytest.mark.parametrize("given", [{}, {"new_head": ["er", "new"]}, ALL], ids=["plain", "labels", "all"])
def test_a_run_is_stored_and_read_back_whole(
    network: CosemUNet, places: dict[str, str], given: dict[str, Any]
) -> None:
    done = run(STORE, places, json.dumps(given))
    assert done.returncode == 0, done.stderr
    read = json.loads(last_line(run(READ, places, json.dumps(given))))
    assert read == ["dict", True, True, "local:small", "1000"]


@pytest.mark.parametrize("given", [{}, {"new_head": ["er", "new"], "label_map": {"new": "ecs"}}])
def test_a_stored_run_starts_from_the_zoo(
    network: CosemUNet, places: dict[str, str], given: dict[str, Any], tmp_path: Path
) -> None:
    assert run(STORE, places, json.dumps(given)).returncode == 0
    rows, tensors = json.loads(last_line(run(TRAIN, places, tmp_path / "model.pt")))
    assert rows == [["er", 2], ["new", 0 if given else None]]
    state, stored = torch.load(tmp_path / "model.pt", weights_only=True), network.state_dict()
    backbone = [name for name in stored if name.startswith("backbone.")]
    assert tensors == len(backbone) > 0
    for name in backbone:
        for prefix in ("architecture.unet.", "chain.0.unet."):
            assert torch.equal(state[prefix + name.removeprefix("backbone.")], stored[name])
    assert torch.equal(state["prediction_head.weight"][0], stored["prediction_head.weight"][2])


def test_a_process_that_did_not_register_fails_before_it_trains(
    network: CosemUNet, places: dict[str, str], tmp_path: Path
) -> None:
    assert run(STORE, places, json.dumps({"new_head": ["er", "new"]})).returncode == 0
    # Weights that DaCapo's own start would take for those that are meant.
    iterations = tmp_path / "dacapo" / "local:small" / "checkpoints" / "iterations"
    iterations.mkdir(parents=True)
    torch.save({"model": network.state_dict(), "optimizer": {}}, iterations / "1000")
    done = run(UNAWARE, places)
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1] == "KeyError: 'run'"
    assert "cosemzoo.interop.dacapo.register(), called before DaCapo reads this" in done.stdout
    assert "name 'CosemZooStartConfig' is not defined" in done.stdout


def test_a_network_of_dacapo_takes_data_of_another_range(
    network: CosemUNet, places: dict[str, str], tmp_path: Path
) -> None:
    given = {"new_head": ["er", "mito", "ecs"], "input_range": [0, 1]}
    done = run(MAIN, places, json.dumps(given), tmp_path / "states")
    assert done.returncode == 0, done.stderr
    _, state = torch.load(tmp_path / "states", weights_only=True)
    stored, first = network.state_dict(), "l_conv.0.conv_pass.0"
    weight, bias = (stored[f"backbone.0.{first}.{leaf}"].double() for leaf in ("weight", "bias"))
    for prefix in ("architecture.unet.0.", "chain.0.unet.0."):
        assert torch.equal(state[f"{prefix}{first}.weight"], (2 * weight).float())
        assert torch.equal(state[f"{prefix}{first}.bias"], (bias - weight.sum(dim=(1, 2, 3, 4))).float())


@pytest.mark.parametrize(
    ("given", "rows"),
    [
        ({"new_head": ["er", "mito", "ecs"]}, [2, 1, 0]),
        ({}, [None, None, None]),
        ({"strict": "require"}, [0, 1, 2]),
    ],
    ids=["labels", "none", "the very network"],
)
def test_without_the_channels_of_the_task_only_the_labels_of_the_start_count(
    network: CosemUNet, places: dict[str, str], given: dict[str, Any], rows: list[int | None], tmp_path: Path
) -> None:
    done = run(MAIN, places, json.dumps(given), tmp_path / "states")
    assert done.returncode == 0, done.stderr
    own, state = torch.load(tmp_path / "states", weights_only=True)
    stored = network.state_dict()["prediction_head.weight"]
    for row, source in enumerate(rows):
        expected = own["prediction_head.weight"][row] if source is None else stored[source]
        assert torch.equal(state["prediction_head.weight"][row], expected)
    first = "l_conv.0.conv_pass.0.weight"
    assert torch.equal(state[f"chain.0.unet.0.{first}"], network.state_dict()[f"backbone.0.{first}"])


def test_the_architecture_of_setup04_is_that_of_its_checkpoints(
    places: dict[str, str], tmp_path: Path
) -> None:
    published = json.loads(TENSORS.read_text())
    folder = tmp_path / "zoo" / "setup04" / "1820500"
    folder.mkdir(parents=True)
    write_empty(folder / "model.safetensors")
    manifest = Manifest(
        run="setup04",
        channels=tuple(Channel(label, "distance") for label in published["labels"]),
        head=(HeadTensor("prediction_head.weight"), HeadTensor("prediction_head.bias")),
        architecture=Architecture("cosem-unet", {"factors": [2, 3, 3], "upsampling": "constant"}),
    )
    (folder / "config.json").write_text(manifest.to_json())
    done = run(FULL_SIZE, places, "local:setup04@1820500", json.dumps(published["labels"]))
    name, input_shape, output_shape, found, plan = json.loads(last_line(done))
    assert plan == ["strict", "42 of 42 tensors, 234,967,826 of 234,967,826 parameters"]
    assert (name, input_shape, output_shape) == ("setup04", [216] * 3, [68] * 3)
    expected = {
        name: tensor["shape"] for tensor in published["layouts"]["dacapo 0.3"] for name in tensor["names"]
    }
    assert found == expected
    assert len(found) == 84

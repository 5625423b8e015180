"""A start for DaCapo's configurations, beside a stand-in for the parts of DaCapo 0.3.5 that it meets.

The stand-in's `StartConfig` and converter do what DaCapo's do; tests/full has DaCapo itself.
"""

import importlib
import json
import sys
from collections.abc import Callable, Iterator
from enum import Enum, StrEnum
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml  # type: ignore[import-untyped]
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from cosemzoo.errors import (
    InvalidHead,
    InvalidOption,
    InvalidReference,
    PartialLoad,
    UnknownNetwork,
)
from cosemzoo.interop import dacapo as interop
from cosemzoo.manifest import Architecture, Channel, HeadTensor, Manifest
from cosemzoo.models import PlanOptions
from cosemzoo.nets.arguments import read_arguments

WriteCheckpoint = Callable[..., Path]
MODULES = {
    "__init__.py": "",
    "experiments/__init__.py": "",
    "experiments/starts.py": """
import attr

@attr.s
class StartConfig:
    start_type = dict
    run: str = attr.ib(metadata={"help_text": "The Run to use as a starting point."})
    criterion: str = attr.ib(metadata={"help_text": "The criterion for choosing weights from run."})

@attr.s
class CosemStartConfig(StartConfig):
    pass
""",
    "experiments/architectures.py": """
from types import SimpleNamespace

class CNNectomeUNetConfig(SimpleNamespace):
    pass
""",
    "store/__init__.py": "",
    "store/conversion_hooks.py": """
from dacapo.experiments.starts import *

def cls_fun(typ):
    return eval(typ)
""",
    "store/converter.py": """
from cattr import Converter
from cattr.gen import make_dict_structure_fn, make_dict_unstructure_fn
from dacapo.store.conversion_hooks import StartConfig, cls_fun

def unstructure(obj):
    return {"__type__": type(obj).__name__, **make_dict_unstructure_fn(type(obj), converter)(obj)}

def structure(data, _):
    try:
        cls = cls_fun(data["__type__"])
        return make_dict_structure_fn(cls, converter)(data, cls)
    except Exception:
        return data

converter = Converter()
converter.register_unstructure_hook(StartConfig, unstructure)
converter.register_structure_hook(StartConfig, structure)
""",
}


def forget() -> None:
    for name in [name for name in sys.modules if name.partition(".")[0] == "dacapo"]:
        del sys.modules[name]
    sys.modules.pop("cosemzoo.interop.dacapo.start", None)
    for name in ("CosemStartConfig", "register", "start"):
        vars(interop).pop(name, None)


@pytest.fixture(scope="module")
def dacapo(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    root = tmp_path_factory.mktemp("peer")
    for name, text in MODULES.items():
        path = root / "dacapo" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    forget()
    sys.path.insert(0, str(root))
    yield importlib.import_module("dacapo.store.converter")
    sys.path.remove(str(root))
    forget()


class Net(nn.Module):
    """A model for the checkpoints of these tests."""

    def __init__(self, rows: int = 3) -> None:
        super().__init__()
        self.backbone = nn.Module()
        self.backbone.conv = nn.Conv1d(2, 4, 3, bias=False)
        self.prediction_head = nn.Linear(4, rows)


@pytest.fixture
def stored(tmp_path: Path, write_folder: WriteCheckpoint, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    monkeypatch.setenv("COSEMZOO_LOCAL_DIR", str(tmp_path / "zoo"))
    write_folder(tmp_path / "zoo" / "run_1" / "1000")
    write_folder(tmp_path / "zoo" / "plain" / "1000", manifest=False)
    return {}


def start_of(run: str = "local:run_1", **given: Any) -> Any:
    config = interop.CosemStartConfig(run, "1000", **given)
    return config.start_type(config)


def rows_of(start: Any, model: nn.Module, new_head: Any) -> list[int | None]:
    start.initialize_weights(model, new_head)
    return [row.source_row for row in start.report.channels]


# --- what is stored ----------------------------------------------------------------------------------------

labels = st.text(min_size=1).filter(str.strip)
channels = labels | st.tuples(labels, labels)
options = st.fixed_dictionaries(
    {},
    optional={
        "new_head": st.none() | st.lists(channels, unique_by=str),
        "label_map": st.none() | st.dictionaries(labels, st.none() | channels),
        "vocabulary": st.none() | st.text(),
        "rename": st.none() | st.dictionaries(labels, labels),
        "head": st.none() | labels | st.lists(labels) | st.dictionaries(labels, labels),
        "in_channels": st.sampled_from(["error", "repeat"]),
        "input_channels": st.none() | st.lists(labels),
        "input_range": st.none() | st.just((0.0, 1.0)) | st.just([-1, 1]),
        "voxel_size": st.none() | st.just(8.0) | st.just((4, 4, 4)),
        "strict": st.sampled_from(["auto", "require", "never"]),
        "min_coverage": st.floats(0, 1),
        "runs_base_dir": st.none() | st.just("/data/dacapo"),
    },
)


@given(options, st.sampled_from(["best", "1820500", 1820500, "jrc_hela-2/f1_score", None]))
def test_no_field_is_lost_on_the_way_to_a_file_and_back(dacapo: Any, given: Any, criterion: Any) -> None:
    interop.register()
    config = interop.CosemStartConfig("setup04", criterion, **given)
    text = yaml.dump(dacapo.converter.unstructure(config))
    read = dacapo.converter.structure(yaml.full_load(text), base_of(config))
    assert read == config
    assert type(read) is type(config)
    assert (
        (read.run, read.criterion) == (config.run, config.criterion) == ("setup04", str(criterion or "best"))
    )
    # DaCapo's other store keeps JSON.
    assert json.loads(json.dumps(dacapo.converter.unstructure(config))) == dacapo.converter.unstructure(read)


def base_of(config: Any) -> Any:
    return type(config).__mro__[1]


def test_it_is_a_start_config_of_dacapos(dacapo: Any) -> None:
    starts = importlib.import_module("dacapo.experiments.starts")
    assert issubclass(interop.CosemStartConfig, starts.StartConfig)


def test_whoever_did_not_register_gets_nothing_that_dacapo_could_start_from(dacapo: Any) -> None:
    hooks = importlib.import_module("dacapo.store.conversion_hooks")
    vars(hooks).pop("CosemZooStartConfig", None)
    config = interop.CosemStartConfig("setup04", "1820500", new_head=["mito"])
    read = dacapo.converter.structure(dacapo.converter.unstructure(config), base_of(config))
    assert type(read) is dict
    assert not {"run", "criterion"} & read.keys()
    assert "cosemzoo.interop.dacapo.register()" in read["read_with"]


class Label(StrEnum):
    """Labels, as somebody else's program has them."""

    MITO = "mito"


class Share(float, Enum):
    """Numbers, as somebody else's program has them."""

    HALF = 0.5


@pytest.mark.parametrize(
    "new_head",
    [("mito",), np.array(["mito"]), [Label.MITO], ["mito"]],
    ids=["tuple", "array", "enum", "list"],
)
def test_labels_are_stored_as_plain_texts(dacapo: Any, new_head: Any) -> None:
    stored = interop.CosemStartConfig("setup04", new_head=new_head).new_head
    assert stored == ["mito"]
    assert type(stored[0]) is str


@pytest.mark.parametrize("number", [np.float64(0.5), np.float32(0.5), np.int64(1), 0.5, Share.HALF])
def test_numbers_are_stored_as_plain_numbers(dacapo: Any, number: Any) -> None:
    config = interop.CosemStartConfig("setup04", min_coverage=number, input_range=(number, 2))
    stored = dacapo.converter.unstructure(config)
    assert yaml.safe_load(yaml.safe_dump(stored)) == stored
    assert (stored["min_coverage"], stored["input_range"]) == (number, [number, 2])


def test_a_folder_is_stored_as_the_text_that_means_it(dacapo: Any, tmp_path: Path) -> None:
    config = interop.CosemStartConfig(tmp_path / "run")
    assert config.run == config.from_run == str(tmp_path / "run")
    assert interop.CosemStartConfig(Path("run")).run == "./run"


def test_every_option_of_a_plan_is_one_of_the_configuration(dacapo: Any) -> None:
    from cosemzoo.interop.dacapo.start import _DEFAULT

    assert _DEFAULT.keys() == PlanOptions.__optional_keys__
    plain = interop.CosemStartConfig("setup04")
    assert {name: getattr(plain, name) for name in _DEFAULT} == _DEFAULT


@pytest.mark.parametrize(
    ("option", "value"), [("strict", "requre"), ("min_coverage", "half"), ("vocabulary", ["cosem"])]
)
def test_an_option_that_no_load_has_is_read_back_and_refused_by_the_load(
    dacapo: Any, stored: dict[str, Any], option: str, value: Any
) -> None:
    interop.register()
    config = interop.CosemStartConfig("local:run_1", "1000", **{option: value})
    read = dacapo.converter.structure(dacapo.converter.unstructure(config), base_of(config))
    assert read == config
    with pytest.raises(InvalidOption, match=option):
        read.start_type(read).initialize_weights(Net(), ["ecs", "mito", "er"])


def test_channels_are_stored_as_label_and_kind(dacapo: Any) -> None:
    config = interop.CosemStartConfig("setup04", new_head=[Channel("mito", "distance"), ("er", "one-hot")])
    assert config.new_head == [["mito", "distance"], ["er", "one-hot"]]


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"new_head": {"mito": "er"}}, "use label_map"),
        ({"label_map": {("mito", "distance"): "er"}}, "label_map is"),
        ({"head": object()}, "what DaCapo can store"),
    ],
)
def test_what_dacapo_could_not_store_is_refused(dacapo: Any, given: Any, said: str) -> None:
    with pytest.raises(InvalidOption, match=said):
        interop.CosemStartConfig("setup04", **given)


def test_what_could_never_be_loaded_is_refused_at_once(dacapo: Any) -> None:
    with pytest.raises(InvalidReference):
        interop.CosemStartConfig("setup04/1820500", "best")
    with pytest.raises(InvalidHead):
        interop.CosemStartConfig("setup04", new_head="mito")


# --- what it does to a model -------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore::cosemzoo.errors.PartialLoad")
@pytest.mark.parametrize(
    ("own", "task", "rows"),
    [
        (None, ["er", "mito", "ecs"], [2, 1, 0]),
        (["er", "mito", "ecs"], None, [2, 1, 0]),
        (["er", "mito", "ecs"], ["er", "mito", "ecs"], [2, 1, 0]),
        ([["er", "distance"], ["mito", "distance"], "ecs"], ["er", "mito", "ecs"], [2, 1, 0]),
        (None, None, [None, None, None]),
    ],
    ids=["the task's", "the start's", "both", "both, with kinds", "neither"],
)
def test_rows_go_by_the_labels_that_are_said(
    dacapo: Any, stored: dict[str, Any], own: Any, task: Any, rows: list[int | None]
) -> None:
    assert rows_of(start_of(new_head=own), Net(), task) == rows


def test_labels_of_start_and_task_that_differ_are_refused(dacapo: Any, stored: dict[str, Any]) -> None:
    model = Net()
    before = [value.clone() for value in model.parameters()]
    with pytest.raises(InvalidHead, match="make them the same"):
        start_of(new_head=["er", "mito", "ecs"]).initialize_weights(model, ["ecs", "mito", "er"])
    assert all(torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))


def test_a_head_of_no_known_labels_stays_as_it_was(dacapo: Any, stored: dict[str, Any]) -> None:
    model, start = Net(), start_of()
    own = model.prediction_head.weight.clone()
    with pytest.warns(PartialLoad):
        start.initialize_weights(model, None)
    assert torch.equal(model.prediction_head.weight, own)
    assert start.report.coverage.tensors == 1
    assert [row.status for row in start.plan(Net()).channels] == ["kept"] * 3


def test_the_very_network_is_loaded_with_its_head(dacapo: Any, stored: dict[str, Any]) -> None:
    assert rows_of(start_of(strict="require"), Net(), None) == [0, 1, 2]


def test_a_checkpoint_that_does_not_name_its_head_is_not_guessed_at(
    dacapo: Any, stored: dict[str, Any]
) -> None:
    model = Net()
    with pytest.raises(InvalidHead, match="what the rows of the head are"):
        start_of("local:plain").initialize_weights(model, None)
    start = start_of("local:plain", strict="require")
    assert start.initialize_weights(model, None) is model


@pytest.mark.filterwarnings("ignore::cosemzoo.errors.PartialLoad")
def test_the_options_of_the_configuration_reach_the_load(dacapo: Any, stored: dict[str, Any]) -> None:
    model = nn.Module()
    model.out = nn.Linear(4, 2)
    start = start_of(
        new_head=["er", "new"], label_map={"new": "ecs"}, head="out", min_coverage=0.0, strict="never"
    )
    assert rows_of(start, model, ["er", "new"]) == [2, 0]


def test_the_range_of_the_input_is_given_as_the_load_takes_it(dacapo: Any) -> None:
    start = start_of(input_range=[0, 1])
    assert start._options == {"input_range": (0, 1)}


# --- networks ----------------------------------------------------------------------------------------------


def described(
    write_folder: WriteCheckpoint, folder: Path, arguments: dict[str, Any] | None, name: str = "cosem-unet"
) -> Path:
    write_folder(folder)
    manifest = Manifest(
        run="run_1",
        channels=tuple(Channel(label, "distance") for label in ("ecs", "mito", "er")),
        head=(HeadTensor("prediction_head.weight"), HeadTensor("prediction_head.bias")),
        architecture=None if arguments is None else Architecture(name, arguments),
    )
    (folder / "config.json").write_text(manifest.to_json())
    return folder


def test_the_published_networks_are_said_in_dacapos_words(
    dacapo: Any, write_folder: WriteCheckpoint, tmp_path: Path
) -> None:
    folder = described(write_folder, tmp_path / "run", {})
    config = interop.architecture_config_for(folder, name="unet")
    usual = [(3, 3, 3), (3, 3, 3)]
    assert vars(config) == {
        "name": "unet",
        "input_shape": (216, 216, 216),
        "fmaps_out": 72,
        "fmaps_in": 1,
        "num_fmaps": 12,
        "fmap_inc_factor": 6,
        "downsample_factors": [(2, 2, 2), (3, 3, 3), (3, 3, 3)],
        "kernel_size_down": [usual] * 4,
        "kernel_size_up": [usual] * 3,
        "upsample_factors": [(2, 2, 2)],
        "constant_upsample": True,
        "padding": "valid",
    }
    assert interop.task_labels_for(folder) == ["ecs", "mito", "er"]


def test_a_shape_that_does_not_fit_is_refused_with_those_that_do(
    dacapo: Any, write_folder: WriteCheckpoint, tmp_path: Path
) -> None:
    folder = described(write_folder, tmp_path / "run", {})
    assert interop.architecture_config_for(folder, input_shape=[198, 216, 234]).input_shape == (198, 216, 234)
    with pytest.raises(InvalidOption, match="198 and 216"):
        interop.architecture_config_for(folder, input_shape=(200, 216, 216))


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"activation_on_upsample": False}, "an activation after each upsampling"),
        ({"widths_down": [12, 72, 430, 2592]}, "grow by one factor"),
        ({"widths_up": [71, 72, 432], "final_width": 72}, "last convolutions have 71"),
        ({"widths_up": [72, 71, 432]}, "after the bottom"),
        ({"upsampling": "transposed"}, "transposed"),
        ({"padding": "same"}, "padded"),
        ({"kernel_sizes_final": [[[1, 3, 3]]]}, "last kernel sizes"),
        ({"widths_down": "unknown"}, "widths_down"),
    ],
)
def test_a_network_that_dacapo_cannot_build_is_refused_with_the_reason(
    dacapo: Any, write_folder: WriteCheckpoint, tmp_path: Path, arguments: dict[str, Any], said: str
) -> None:
    folder = described(write_folder, tmp_path / "run", arguments)
    with pytest.raises(UnknownNetwork, match=said):
        interop.architecture_config_for(folder)


def test_a_plain_network_has_no_last_upsampling() -> None:
    from cosemzoo.interop.dacapo.architecture import unet_settings

    settings, problems = unet_settings(read_arguments({"channels": 2, "final_upsample": None}))
    assert (settings["upsample_factors"], [*problems]) == (None, [])


def test_a_checkpoint_that_does_not_say_its_network_or_labels_is_refused(
    dacapo: Any, write_folder: WriteCheckpoint, tmp_path: Path
) -> None:
    with pytest.raises(UnknownNetwork, match="does not say which network"):
        interop.architecture_config_for(described(write_folder, tmp_path / "none", None))
    with pytest.raises(UnknownNetwork, match="no COSEM U-Net"):
        interop.architecture_config_for(described(write_folder, tmp_path / "other", {}, "vit"))
    with pytest.raises(UnknownNetwork, match="does not name its channels"):
        interop.task_labels_for(write_folder(tmp_path / "plain", manifest=False))


# --- without DaCapo ----------------------------------------------------------------------------------------


def test_without_dacapo_the_extra_is_named(run_python: Callable[..., str]) -> None:
    script = """
import sys
sys.modules["dacapo"] = None
import cosemzoo.interop.dacapo as interop
from cosemzoo.errors import ExtraMissing
for name in ("CosemStartConfig", "register", "nothing"):
    try:
        getattr(interop, name)
    except (ExtraMissing, AttributeError) as error:
        print(type(error).__name__, "cosemzoo[dacapo]" in str(error))
"""
    assert run_python(script) == "ExtraMissing True\nExtraMissing True\nAttributeError False\n"


def test_the_command_without_dacapo_says_what_to_install(run_python: Callable[..., str]) -> None:
    script = """
import runpy, sys
sys.modules["dacapo"] = None
try:
    runpy.run_module("cosemzoo.interop.dacapo", run_name="__main__")
except SystemExit as end:
    print(end.code)
"""
    assert run_python(script).startswith("Error: ")


def test_reading_a_store_does_not_need_dacapo(run_python: Callable[..., str]) -> None:
    script = "import cosemzoo.interop.dacapo as d, sys; d.DacapoStore('/x'); print('dacapo' in sys.modules)"
    assert run_python(script) == "False\n"

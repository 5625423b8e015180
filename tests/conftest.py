"""What the tests share: a Hub of their own, checkpoints to put on it, and nothing from the environment."""

import atexit
import itertools
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

# The client reads these once, when it is first imported: no token, cache or Hub of the machine's user.
os.environ.pop("HF_TOKEN", None)
os.environ.pop("HUGGING_FACE_HUB_TOKEN", None)
os.environ.pop("HF_HUB_CACHE", None)
os.environ.pop("HF_HUB_OFFLINE", None)
os.environ.pop("COSEMZOO_NAMESPACE", None)
os.environ.pop("COSEMZOO_LOCAL_DIR", None)
os.environ["HF_HOME"] = tempfile.mkdtemp(prefix="cosemzoo-tests-")
os.environ["HF_ENDPOINT"] = "http://127.0.0.1:9"
os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"
os.environ["HF_HUB_DISABLE_PROGRESS_BARS"] = "1"

import hypothesis
import pytest
import torch
from huggingface_hub import HfApi

from cosemzoo.checkpoints.writer import write_safetensors
from cosemzoo.localhub import LocalHub
from cosemzoo.manifest import Channel, HeadTensor, Manifest
from cosemzoo.nets import CosemUNet
from cosemzoo.zoo import Zoo

atexit.register(shutil.rmtree, os.environ["HF_HOME"], ignore_errors=True)
# Nothing here depends on how fast the machine is.
hypothesis.settings.register_profile("cosemzoo", deadline=None)
hypothesis.settings.load_profile("cosemzoo")
# A shell gives a job in the background an ignored SIGINT, which the tests of interruption need.
signal.signal(signal.SIGINT, signal.default_int_handler)

LABELS = ("ecs", "mito", "er")

WriteCheckpoint = Callable[..., Path]


@pytest.fixture(scope="session")
def allow_uploads() -> Callable[[], None]:
    """Make uploads possible where warnings are errors; pytest forgets this after each test."""

    def allow() -> None:
        # The client itself sends LFS content in a way that its HTTP library calls deprecated.
        warnings.filterwarnings("ignore", message="Use 'content=<...>'", category=DeprecationWarning)

    return allow


@pytest.fixture(autouse=True)
def _isolated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, allow_uploads: Callable[[], None]) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    monkeypatch.setenv("COLUMNS", "110")
    allow_uploads()


@pytest.fixture
def hub_root(tmp_path: Path) -> Path:
    return tmp_path / "hub"


@pytest.fixture
def hub(hub_root: Path) -> Iterator[LocalHub]:
    with LocalHub(hub_root) as running:
        yield running


@pytest.fixture
def api(hub: LocalHub) -> HfApi:
    return HfApi(endpoint=hub.endpoint, token=False)


@pytest.fixture
def make_zoo(hub: LocalHub, tmp_path: Path) -> Callable[..., Zoo]:
    """Make a zoo of the Hub; all of them share one cache."""

    def make(**arguments: Any) -> Zoo:
        return Zoo(**{"endpoint": hub.endpoint, "cache_dir": tmp_path / "cache", "token": False, **arguments})

    return make


@pytest.fixture
def zoo(make_zoo: Callable[..., Zoo]) -> Zoo:
    return make_zoo()


@pytest.fixture
def run_python(hub: LocalHub, tmp_path: Path) -> Callable[..., str]:
    """Run a script in a fresh process, the Hub and the cache its defaults; give what it prints."""

    def run(script: str, **environment: str) -> str:
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("HF_")}
        own = {
            "HF_ENDPOINT": hub.endpoint,
            "HF_HOME": str(tmp_path / "home"),
            "HF_HUB_CACHE": str(tmp_path / "cache"),
            "HF_HUB_DISABLE_PROGRESS_BARS": "1",
            "PYTHONPATH": os.pathsep.join(sys.path),
        }
        done = subprocess.run(
            [sys.executable, "-c", script],
            env={**inherited, **own, **environment},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    return run


@pytest.fixture
def write_training(tmp_path: Path) -> Callable[..., Path]:
    """Write a file as the COSEM bucket has them, with made-up numbers: every tensor under two names."""
    return partial(write_pickle, tmp_path)


def write_pickle(folder: Path, name: str = "checkpoint", *, channels: int = 14, seed: int = 0) -> Path:
    """Write it into a folder and give its path; the network is reduced in width."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = CosemUNet(channels, widths_down=(1, 2, 3, 4), widths_up=(2, 2, 3))
    state = {}
    for prefix, names in {
        "backbone.": ("architecture.unet.", "chain.0.unet."),
        "prediction_head.": ("prediction_head.", "chain.1."),
    }.items():
        for tensor, values in network.state_dict().items():
            if tensor.startswith(prefix):
                state.update({other + tensor.removeprefix(prefix): values for other in names})
    path = folder / name
    moments = {0: {"step": torch.tensor(1.0), "exp_avg": torch.zeros(3)}}
    torch.save({"model": state, "optimizer": {"state": moments, "param_groups": []}}, path)
    return path


@pytest.fixture(scope="session")
def memory_watch() -> str:
    """Give the beginning of a script that watches its own anonymous memory: ``with MemoryWatch() as memory``.

    ``memory.added`` is then the most at any moment beyond that before, in bytes; ``memory.look()`` looks at a
    moment that must not be missed.
    """
    return MEMORY_WATCH


MEMORY_WATCH = """
import threading, time
from pathlib import Path


class MemoryWatch:
    def __enter__(self):
        self.lock, self.watching = threading.Lock(), True
        self.before = self.peak = self.now()
        self.thread = threading.Thread(target=self.watch)
        self.thread.start()
        return self

    def __exit__(self, *_):
        self.watching = False
        self.thread.join()
        self.look()
        self.added = self.peak - self.before

    def watch(self):
        while self.watching:
            self.look()
            time.sleep(0.0005)

    def look(self):
        with self.lock:
            self.peak = max(self.peak, self.now())

    def now(self):
        (line,) = [line for line in Path("/proc/self/status").read_text().splitlines() if "RssAnon" in line]
        return int(line.split()[1]) * 1024
"""


@pytest.fixture
def write_checkpoint(tmp_path: Path) -> WriteCheckpoint:
    """Write a small checkpoint into a folder of its own, as `write_folder` does, and give the folder."""
    numbers = itertools.count(1)

    def write(**arguments: Any) -> Path:
        return write_folder(tmp_path / f"checkpoint-{next(numbers)}", **arguments)

    return write


@pytest.fixture(scope="session", name="write_folder")
def _write_folder() -> WriteCheckpoint:
    return write_folder


def write_folder(
    folder: Path,
    *,
    seed: int = 0,
    run: str = "setup04",
    iteration: int | None = 1820500,
    files: int = 1,
    padding: int = 0,
    note: str = "",
    manifest: bool = True,
) -> Path:
    """Write a small checkpoint: a backbone, and a head of one row for each label.

    ``files`` writes the weights in that many shards, ``padding`` makes them larger by so many bytes, ``note``
    is written into the header of a single file.
    """
    folder.mkdir(parents=True, exist_ok=True)
    _write_weights(folder, _tensors(seed, padding), files, {"note": note} if note else {})
    if manifest:
        (folder / "config.json").write_text(_manifest(run, iteration).to_json(), encoding="utf-8")
    return folder


def _tensors(seed: int, padding: int) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    tensors = {
        "backbone.conv.weight": torch.rand(4, 2, 3, generator=generator),
        "prediction_head.weight": torch.rand(len(LABELS), 4, generator=generator),
        "prediction_head.bias": torch.rand(len(LABELS), generator=generator),
    }
    if padding:
        tensors["backbone.padding"] = torch.full((padding,), seed % 256, dtype=torch.uint8)
    return tensors


def _write_weights(
    folder: Path, tensors: Mapping[str, torch.Tensor], files: int, metadata: Mapping[str, str]
) -> None:
    if files == 1:
        write_safetensors(folder / "model.safetensors", tensors, metadata)
        return
    weight_map: dict[str, str] = {}
    for number in range(files):
        name = f"model-{number + 1:05}-of-{files:05}.safetensors"
        part = dict(list(tensors.items())[number::files])
        write_safetensors(folder / name, part)
        weight_map |= dict.fromkeys(part, name)
    index = {"metadata": {}, "weight_map": weight_map}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index), encoding="utf-8")


def _manifest(run: str, iteration: int | None) -> Manifest:
    return Manifest(
        run=run,
        iteration=iteration,
        channels=tuple(Channel(label, "distance") for label in LABELS),
        head=(HeadTensor("prediction_head.weight"), HeadTensor("prediction_head.bias")),
        generated=True,
    )

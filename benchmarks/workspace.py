"""The files that the contestants load, and the Hub that they are on. All numbers in them are generated."""

import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from attrs import field, frozen
from safetensors.torch import load_file

from benchmarks import peers
from benchmarks.children import Child, clean_environment
from benchmarks.network import ITERATION, LABELS, RUN, SIZES
from benchmarks.timing import say
from cosemzoo.checkpoints.writer import write_safetensors
from cosemzoo.localhub import LocalHub
from cosemzoo.manifest import MANIFEST_FILE, Architecture, Channel, HeadTensor, Manifest
from cosemzoo.nets import CosemUNet
from cosemzoo.publishing.publish import publish
from cosemzoo.reference import known_runs
from cosemzoo.zoo import Zoo
from cosemzoo.zoo.weights import SINGLE_FILE


@frozen
class Workspace:
    """A folder with everything in it, made when it is first asked for.

    Attributes
    ----------
    folder : Path
    size : {"small", "full"}
    hub : LocalHub
        Running.
    """

    folder: Path
    size: str
    hub: LocalHub
    _made: dict[str, Any] = field(factory=dict, init=False)

    @property
    def environment(self) -> dict[str, str]:
        """What processes of the run are given."""
        own = {
            "HF_ENDPOINT": self.hub.endpoint,
            "HF_HUB_CACHE": str(self.cache),
            "HF_HUB_DISABLE_PROGRESS_BARS": "1",
            # The Hub of the run takes uploads as LFS only.
            "HF_HUB_DISABLE_XET": "1",
            "PYTHONWARNINGS": "ignore",
        }
        return clean_environment(self.folder, **own)

    @property
    def cache(self) -> Path:
        """The client's cache, which has the checkpoint, verified."""
        return self.folder / "cache"

    @property
    def safetensors(self) -> Path:
        """The weights: 42 tensors by their canonical names."""
        return self._files / SINGLE_FILE

    @property
    def state_dict(self) -> Path:
        """The same as torch saves a state dict."""
        path = self._file("state_dict.pt")
        if not path.exists():
            torch.save(self._tensors(), path)
        return path

    @property
    def aliased(self) -> Path:
        """The same as in the bucket of COSEM: under ``model``, every tensor under two names."""
        path = self._file("aliased.pth")
        if not path.exists():
            torch.save({"model": peers.aliased(self._tensors())}, path)
        return path

    @property
    def training(self) -> Path:
        """The same with the state of an optimizer, as a training leaves it."""
        path = self._file("training")
        if not path.exists():
            tensors = self._tensors()
            state = {
                number: {
                    "step": torch.tensor(float(ITERATION)),
                    "exp_avg": torch.full(tensor.shape, 1e-4),
                    "exp_avg_sq": torch.full(tensor.shape, 1e-4),
                }
                for number, tensor in enumerate(tensors.values())
            }
            optimizer = {"state": state, "param_groups": [{"lr": 5e-5, "params": [*state]}]}
            torch.save({"model": peers.aliased(tensors), "optimizer": optimizer}, path)
        return path

    @property
    def commit(self) -> str:
        """The commit of the checkpoint on the Hub; it is in the cache, and verified."""
        if "commit" not in self._made:
            say("publishing the checkpoint")
            zoo = Zoo(endpoint=self.hub.endpoint, cache_dir=self.cache, token=False)
            with warnings.catch_warnings():
                # The client sends LFS content in a way that its HTTP library calls deprecated.
                warnings.simplefilter("ignore", DeprecationWarning)
                publish(self._files, f"{RUN}@{ITERATION}", zoo=zoo, aliases=["best"])
            checkpoint = zoo.resolve(RUN)
            (path,) = zoo.fetch(checkpoint).values()
            self._made.update(commit=checkpoint.commit, weights=path.resolve())
        return str(self._made["commit"])

    @property
    def repository(self) -> str:
        """Where it is on the Hub."""
        return known_runs()[RUN]

    @property
    def cached_weights(self) -> Path:
        """The file in the cache."""
        assert self.commit
        return Path(self._made["weights"])

    @property
    def pinned(self) -> str:
        """The reference of the checkpoint, by its commit."""
        return f"{RUN}@{self.commit}"

    @property
    def peers(self) -> Path:
        """A folder to import cellmap-models from: a copy that finds the weights where it would put them."""
        folder = self.folder / "peers"
        if not folder.exists():
            peers.copy_cellmap_models(folder, self.aliased, SIZES[self.size])
        return folder

    def child(self, function: str, **arguments: str | int | bool) -> Child:
        """Start a process of the run."""
        return Child(function, self.environment, **arguments)

    @property
    def _files(self) -> Path:
        folder = self.folder / "checkpoint"
        if not folder.exists():
            say(f"making the checkpoint ({self.size}, generated numbers)")
            folder.mkdir(parents=True)
            torch.manual_seed(4)
            arguments = {"channels": len(LABELS), **SIZES[self.size]}
            write_safetensors(folder / SINGLE_FILE, CosemUNet(**arguments).state_dict())
            manifest = Manifest(
                run=RUN,
                iteration=ITERATION,
                channels=tuple(Channel(label, "distance") for label in LABELS),
                head=(HeadTensor("prediction_head.weight"), HeadTensor("prediction_head.bias")),
                architecture=Architecture("cosem-unet", arguments),
                generated=True,
            )
            (folder / MANIFEST_FILE).write_text(manifest.to_json(), encoding="utf-8")
        return folder

    def _file(self, name: str) -> Path:
        folder = self.folder / "others"
        folder.mkdir(exist_ok=True)
        return folder / name

    def _tensors(self) -> dict[str, torch.Tensor]:
        return load_file(self.safetensors)


@contextmanager
def workspace(parent: Path | None, size: str) -> Iterator[Workspace]:
    """Have a workspace in a new folder, and remove it afterwards."""
    with tempfile.TemporaryDirectory(prefix="cosemzoo-bench-", dir=parent) as name:
        folder = Path(name)
        with LocalHub(folder / "hub") as hub:
            yield Workspace(folder, size, hub)

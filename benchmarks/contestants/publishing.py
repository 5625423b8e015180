"""A training's checkpoint, converted and put on the Hub."""

import hashlib
import uuid
from collections.abc import Callable
from pathlib import Path

import torch
from huggingface_hub import HfApi
from safetensors.torch import save_file

from benchmarks.network import ITERATION, LABELS
from cosemzoo import Zoo
from cosemzoo.manifest import Channel
from cosemzoo.publishing.conversion import convert
from cosemzoo.publishing.push import PushOptions, push

#: DaCapo's second names of the tensors.
_SECOND = "chain."


def converting(training: str, folder: str) -> Callable[[], object]:
    """Let cosemzoo convert into a folder."""
    return lambda: convert(Path(training), _target(folder))


def converting_by_hand(training: str, folder: str) -> Callable[[], object]:
    """Load, drop the second names, save, and read the file once for its SHA-256."""
    return lambda: _convert_by_hand(training, _target(folder))


def pushing(training: str, folder: str) -> Callable[[], object]:
    """Let cosemzoo convert, describe and publish in a new repository."""
    channels = [Channel(label, "distance") for label in LABELS]
    zoo = Zoo(cache_dir=Path(folder, "cache"), token=False)
    options = PushOptions(channels=channels, generated=True)
    return lambda: push(f"bench/{_new()}@{ITERATION}", Path(training), zoo=zoo, options=options)


def pushing_by_hand(training: str, folder: str) -> Callable[[], object]:
    """Convert by hand, and upload the file to a new repository."""
    api = HfApi(token=False)

    def act() -> object:
        target = _target(folder)
        _convert_by_hand(training, target)
        repository = f"bench/{_new()}"
        api.create_repo(repository)
        return api.upload_file(path_or_fileobj=target, path_in_repo="model.safetensors", repo_id=repository)

    return act


def _convert_by_hand(training: str, target: Path) -> str:
    model = torch.load(training, weights_only=True, mmap=True)["model"]
    save_file({name: tensor for name, tensor in model.items() if not name.startswith(_SECOND)}, target)
    with target.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _target(folder: str) -> Path:
    return Path(folder, f"{_new()}.safetensors")


def _new() -> str:
    return f"run-{uuid.uuid4().hex}"

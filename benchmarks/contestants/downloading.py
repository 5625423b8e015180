"""Downloads of the weights into an empty cache, and their SHA-256."""

import hashlib
import uuid
from collections.abc import Callable
from pathlib import Path

from huggingface_hub import hf_hub_download

from benchmarks.network import RUN
from cosemzoo import Zoo


def cosemzoo(repository: str, folder: str) -> Callable[[], object]:
    """Let cosemzoo resolve, download and verify; each time into a new cache in a folder."""
    del repository

    def act() -> object:
        return Zoo(cache_dir=Path(folder, uuid.uuid4().hex), token=False).fetch(RUN)

    return act


def raw(repository: str, folder: str) -> Callable[[], object]:
    """Let the client download, and read the file once for its SHA-256."""

    def act() -> object:
        cache = Path(folder, uuid.uuid4().hex)
        path = hf_hub_download(repository, "model.safetensors", cache_dir=cache, token=False)
        with Path(path).open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()

    return act

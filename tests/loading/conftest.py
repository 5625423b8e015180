"""Checkpoints made from state dicts, and a way to see that a model is exactly as it was."""

import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from cosemzoo.checkpoints.entries import TensorEntry
from cosemzoo.checkpoints.shards import StoredTensor, WeightsTable
from cosemzoo.checkpoints.writer import write_safetensors
from cosemzoo.errors import PartialLoad
from cosemzoo.loading.report import LoadReport
from cosemzoo.manifest import Channel, HeadTensor, Manifest
from cosemzoo.models import load_into
from cosemzoo.zoo import Zoo


@pytest.fixture
def save(tmp_path: Path) -> Callable[..., Path]:
    """Write a state dict as a checkpoint; with ``channels`` it has a manifest.

    A channel is a label, whose kind is then "distance", or a pair; a head tensor is a name or a `HeadTensor`.
    """
    made = 0

    def save(
        state: Mapping[str, torch.Tensor],
        channels: Sequence[str | tuple[str, str]] = (),
        head: Sequence[str | HeadTensor] = (),
        layout: str | None = None,
    ) -> Path:
        nonlocal made
        made += 1
        folder = tmp_path / f"saved-{made}"
        folder.mkdir()
        write_safetensors(folder / "model.safetensors", state)
        if channels:
            manifest = Manifest(
                run="setup04",
                channels=tuple(Channel(*((c, "distance") if isinstance(c, str) else c)) for c in channels),
                head=tuple(HeadTensor(name) if isinstance(name, str) else name for name in head),
                layout=layout,
            )
            (folder / "config.json").write_text(manifest.to_json(), encoding="utf-8")
        return folder

    return save


@pytest.fixture
def load() -> Callable[..., LoadReport]:
    """Load a folder; that it is in part is not said here."""

    def load(model: nn.Module, folder: Path, **options: Any) -> LoadReport:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", PartialLoad)
            return load_into(model, folder, zoo=Zoo(offline=True), **options)

    return load


@pytest.fixture
def state_of() -> Callable[[nn.Module], Mapping[str, Any]]:
    """Give everything that a failed load must leave as it was: values, identities, versions, random state."""

    def describe(tensor: torch.Tensor) -> tuple[Any, ...]:
        version = None if tensor.is_inference() else tensor._version
        values = (
            None if tensor.is_meta else bytes(tensor.detach().clone().flatten().view(torch.uint8).numpy())
        )
        where = tensor.device, tensor.dtype, tensor.shape, tensor.stride(), tensor.storage_offset()
        return id(tensor), id(tensor.grad), tensor.requires_grad, version, where, values

    def state_of(model: nn.Module) -> Mapping[str, Any]:
        state: dict[str, Any] = {"random": bytes(torch.get_rng_state().numpy())}
        for path, module in model.named_modules(remove_duplicate=False):
            for name, tensor in (module._parameters | module._buffers).items():
                state[f"{path}.{name}"] = None if tensor is None else describe(tensor)
        return state

    return state_of


@pytest.fixture
def table() -> Callable[..., WeightsTable]:
    """Make the table of a file from names and shapes: float32 where no dtype is given."""

    def table(
        shapes: Mapping[str, Sequence[int]],
        aliases: Mapping[str, str] | None = None,
        dtypes: Mapping[str, str] | None = None,
    ) -> WeightsTable:
        tensors = {
            name: StoredTensor(
                "model.safetensors",
                TensorEntry(name, (dtypes or {}).get(name, "F32"), tuple(shape), 0, 0),
            )
            for name, shape in shapes.items()
        }
        return WeightsTable(tensors, aliases or {}, ("model.safetensors",))

    return table

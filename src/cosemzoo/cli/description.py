"""A checkpoint in words, and as JSON values."""

import json
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from cosemzoo.manifest import Index, Lineage, Manifest, Target
    from cosemzoo.zoo import Checkpoint

Pair = tuple[str, str]

_NOT_STATED: Final = "not stated"
_SHORT: Final = 8


def identity_values(checkpoint: "Checkpoint") -> dict[str, Any]:
    """Give what was asked and what it means, as JSON values."""
    return {
        "reference": str(checkpoint.reference),
        "criterion": checkpoint.criterion,
        "repository": checkpoint.repository,
        "endpoint": checkpoint.endpoint,
        "commit": checkpoint.commit,
        "folder": None if checkpoint.folder is None else str(checkpoint.folder),
        "content_hash": checkpoint.content_hash,
    }


def identity_pairs(checkpoint: "Checkpoint") -> Iterator[Pair]:
    """Give what was asked and what it means, in words."""
    yield "reference", str(checkpoint.reference)
    if checkpoint.folder is None:
        yield "repository", f"{checkpoint.repository} on {checkpoint.endpoint}"
        yield "criterion", checkpoint.criterion
        yield "commit", checkpoint.identity
    else:
        yield "folder", str(checkpoint.folder)
        yield "content", checkpoint.identity


def weights_values(checkpoint: "Checkpoint") -> dict[str, Any]:
    """Give the size of the weights, and their files as they were published, as JSON values."""
    return {
        "tensors": len(checkpoint.weights.tensors),
        "parameters": checkpoint.weights.parameters,
        "bytes": sum(file.size for file in checkpoint.files),
        "files": [
            {"name": file.name, "bytes": file.size, "sha256": file.sha256} for file in checkpoint.files
        ],
    }


def weights_pair(checkpoint: "Checkpoint") -> Pair:
    """Give the size of the weights in words."""
    size = weights_values(checkpoint)
    files = len(checkpoint.files)
    return "weights", (
        f"{size['tensors']:,} tensors, {size['parameters']:,} parameters, {size['bytes']:,} bytes in "
        f"{files} file{'s' if files > 1 else ''}"
    )


def manifest_pairs(manifest: "Manifest") -> Iterator[Pair]:
    """Give what a manifest says, in words, all but the channels."""
    if manifest.generated:
        yield "GENERATED", "made-up numbers in the network's shapes, not a trained network"
    yield "run", manifest.run
    yield "iteration", _NOT_STATED if manifest.iteration is None else str(manifest.iteration)
    yield "input voxel", _voxel_size(manifest.input_voxel_size)
    yield "output voxel", _voxel_size(manifest.output_voxel_size)
    yield "input range", _interval(manifest.input_range)
    yield "input sampling", manifest.input_sampling or _NOT_STATED
    yield "target", _target(manifest.target)
    architecture = manifest.architecture
    yield "architecture", architecture.name if architecture else _NOT_STATED
    for name, value in architecture.arguments.items() if architecture else ():
        yield "", f"{name} = {json.dumps(value, ensure_ascii=False)}"
    yield "layout", manifest.layout or _NOT_STATED
    yield "head", ", ".join(tensor.name for tensor in manifest.head)
    yield "lineage", "; ".join(_lineage(manifest.lineage)) or _NOT_STATED
    yield "written by", f"cosemzoo {manifest.tool_version}" if manifest.tool_version else _NOT_STATED


def channel_rows(manifest: "Manifest") -> Iterator[Sequence[str]]:
    """Give the row, label and kind of every channel."""
    for row, channel in enumerate(manifest.channels):
        yield str(row), channel.label, channel.kind


def criteria_rows(index: "Index") -> Iterator[Sequence[str]]:
    """Give every criterion of a run, its other names, state, date and commit."""
    for criterion, release in index.criteria.items():
        names = [name for name, meant in index.aliases.items() if meant == criterion]
        state = f"{release.state}: {release.reason}" if release.reason else release.state
        yield criterion, ", ".join(names), state, release.date, release.commit[:_SHORT]


def _voxel_size(size: tuple[float, float, float] | None) -> str:
    return _NOT_STATED if size is None else f"{' x '.join(f'{length:g}' for length in size)} nm (z, y, x)"


def _interval(ends: tuple[float, float] | None) -> str:
    return _NOT_STATED if ends is None else f"{ends[0]:g} to {ends[1]:g}"


def _target(target: "Target | None") -> str:
    if target is None:
        return _NOT_STATED
    parts = [target.description]
    parts += [] if target.scale is None else [f"scale {target.scale:g} nm"]
    parts += [] if target.threshold is None else [f"threshold {target.threshold:g}"]
    return "; ".join(parts)


def _lineage(lineage: "Lineage | None") -> Iterator[str]:
    if lineage is None:
        return
    if lineage.base_repository:
        commit = f" at commit {lineage.base_commit}" if lineage.base_commit else ""
        yield f"fine-tuned from {lineage.base_repository}{commit}"
    if lineage.source_url or lineage.source_sha256:
        yield f"converted from {lineage.source_url or 'a file'}"
    if lineage.source_sha256:
        yield f"SHA-256 {lineage.source_sha256}"

"""A checkpoint in words, and as JSON values."""

import json
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from cosemzoo.manifest import Index, Manifest, Target
    from cosemzoo.publishing.chain import LineageStep
    from cosemzoo.zoo import Checkpoint

Pair = tuple[str, str]

_NOT_STATED: Final = "not stated"
_NEW: Final = "new"
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


def manifest_pairs(manifest: "Manifest", chain: "Sequence[LineageStep]") -> Iterator[Pair]:
    """Give what a manifest says, and the chain of its bases, in words; all but the channels."""
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
    yield "vocabulary", manifest.vocabulary or _NOT_STATED
    yield from _lineage_pairs(chain)
    yield "written by", f"cosemzoo {manifest.tool_version}" if manifest.tool_version else _NOT_STATED


def lineage_values(chain: "Sequence[LineageStep]") -> list[dict[str, Any]]:
    """Give the chain of a checkpoint's bases as JSON values, the checkpoint itself first."""
    from attrs import asdict  # noqa: PLC0415 - the help needs no records

    return [asdict(step) for step in chain]


def channel_columns(manifest: "Manifest") -> Sequence[str]:
    """Give the names of what `channel_rows` gives."""
    inherited = manifest.lineage is not None and manifest.lineage.channels is not None
    return ("row", "label", "kind", "from") if inherited else ("row", "label", "kind")


def channel_rows(manifest: "Manifest") -> Iterator[Sequence[str]]:
    """Give the row, label and kind of every channel, and what it started from, where that is known."""
    inherited = None if manifest.lineage is None else manifest.lineage.channels
    for row, channel in enumerate(manifest.channels):
        source = () if inherited is None else (inherited[row].source or _NEW,)
        yield str(row), channel.label, channel.kind, *source


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


def _lineage_pairs(chain: "Sequence[LineageStep]") -> Iterator[Pair]:
    own, *bases = chain
    converted = _converted(own)
    if not bases:
        yield "lineage", converted or _NOT_STATED
        return
    yield "lineage", f"this checkpoint{f', {converted}' if converted else ''}"
    for base in bases:
        parts = [base.reference]
        if base.repository and base.commit:
            parts.append(f"{base.repository} at commit {base.commit}")
        elif base.content_hash:
            parts.append(f"content {base.content_hash}")
        parts += [converted] if (converted := _converted(base)) else []
        yield "", f"← {', '.join(parts)}{f'; not followed: {base.problem}' if base.problem else ''}"


def _converted(step: "LineageStep") -> str:
    if not (step.source_url or step.source_sha256):
        return ""
    digest = f" (SHA-256 {step.source_sha256})" if step.source_sha256 else ""
    return f"converted from {step.source_url or 'a file'}{digest}"

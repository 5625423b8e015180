"""The text of a card that nobody wrote: what a manifest says of its run, and what it does not."""

import json
from collections.abc import Iterator, Sequence
from typing import Final

from cosemzoo.manifest import Manifest
from cosemzoo.reference import known_runs, parse_reference

#: What a card says that nobody wrote, by which it is known again.
NOBODY_WROTE_IT: Final = "This card was made from the manifest of a checkpoint; nobody has written one yet."
_NOT_STATED: Final = "not stated"


def plain_body(manifest: Manifest, repository: str) -> str:
    """Give the text.

    Parameters
    ----------
    manifest : Manifest
    repository : str
        ``namespace/repo`` that it is for.
    """
    return "\n".join(["", *_lines(manifest, repository)])


def _lines(manifest: Manifest, repository: str) -> Iterator[str]:
    yield from (f"# {manifest.run}", "")
    yield from (NOBODY_WROTE_IT, "")
    yield from ("## Loading", "", "```python", "from cosemzoo import CosemStart", "")
    labels = json.dumps(list(manifest.labels[:3]), ensure_ascii=False)
    yield f'start = CosemStart("{_reference(manifest, repository)}")'
    yield f"model = start.initialize_weights(model, new_head={labels})"
    yield from ("print(start.report)", "```", "")
    yield from ("`new_head` names the rows of the model's own head, in their order.", "")
    yield from ("## Channels", "", "| row | label | kind |", "|---|---|---|")
    for row, channel in enumerate(manifest.channels):
        yield f"| {row} | `{cell(channel.label)}` | {cell(channel.kind)} |"
    yield from ("", "## What the manifest says", "", "| | |", "|---|---|")
    yield from (f"| {cell(name)} | {cell(value)} |" for name, value in _facts(manifest))
    yield from ("", "## Not stated", "")
    yield "Training data, evaluation, limits, licence and citation."
    yield ""


def _reference(manifest: Manifest, repository: str) -> str:
    known = known_runs().get(manifest.run) == repository
    return manifest.run if known else str(parse_reference(f"hf://{repository}"))


def _facts(manifest: Manifest) -> Iterator[tuple[str, str]]:
    yield "input voxel (nm, z y x)", _numbers(manifest.input_voxel_size)
    yield "output voxel (nm, z y x)", _numbers(manifest.output_voxel_size)
    yield "smallest and largest input value", _numbers(manifest.input_range)
    yield "input sampling", manifest.input_sampling or _NOT_STATED
    target = manifest.target
    yield "target", target.description if target else _NOT_STATED
    if target is not None:
        yield "target's scale (nm)", _NOT_STATED if target.scale is None else f"{target.scale:g}"
        yield "threshold", _NOT_STATED if target.threshold is None else f"{target.threshold:g}"
    architecture = manifest.architecture
    yield "architecture", architecture.name if architecture else _NOT_STATED
    for name, value in architecture.arguments.items() if architecture else ():
        yield name, f"`{json.dumps(value, ensure_ascii=False)}`"


def cell(text: str) -> str:
    """Give a text as it can stand in a table of a README."""
    return " ".join(text.split()).replace("|", "\\|")


def _numbers(values: Sequence[float] | None) -> str:
    return _NOT_STATED if values is None else ", ".join(f"{value:g}" for value in values)

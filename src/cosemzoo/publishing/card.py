"""A run's card: the one Markdown file from which its README and each checkpoint's `config.json` are made."""

import json
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from attrs import frozen
from huggingface_hub import ModelCard, ModelCardData

from cosemzoo._version import __version__
from cosemzoo.document import Problem
from cosemzoo.errors import InvalidCard, InvalidManifest
from cosemzoo.loading.layouts import AS_IS, HEAD_PREFIX, detect_layout
from cosemzoo.manifest import Architecture, HeadTensor, Lineage, Manifest, check_manifest
from cosemzoo.nets.arguments import UNKNOWN
from cosemzoo.publishing.card_block import BLOCK, RunDescription, read_description
from cosemzoo.publishing.card_front import LIBRARY, missing_from, read_front_matter
from cosemzoo.publishing.card_text import (
    Line,
    at_repository,
    code_problems,
    contradictions,
    missing,
    read_lines,
    scores,
    title_line,
)
from cosemzoo.publishing.plain_text import plain_body
from cosemzoo.reference import known_runs, parse_reference
from cosemzoo.strict_json import show

#: The network whose arguments are found in the tensors.
COSEM_UNET: Final = "cosem-unet"

_HEAD: Final = (f"{HEAD_PREFIX}weight", f"{HEAD_PREFIX}bias")
# What the Hub calls that a run was fine-tuned from its base.
_RELATION: Final = "finetune"
_GENERATED_TAG: Final = "generated-weights"
_GENERATED: Final = (
    "**The weights are made-up numbers** in the shapes of this network. They were generated for tests and "
    "demonstrations, and predict nothing: whatever is said below of training is not said of them."
)


@frozen
class RunCard:
    """A run's card, read.

    Attributes
    ----------
    source : str
        Where it is from.
    data : huggingface_hub.ModelCardData
        The front matter that the Hub reads.
    body : str
        The text.
    description : RunDescription
        What `config.json` is made from.
    """

    source: str
    data: ModelCardData
    body: str
    description: RunDescription

    def manifest(
        self,
        shapes: Mapping[str, tuple[int, ...]] | None,
        *,
        iteration: int | None,
        architecture: Mapping[str, Any] | None = None,
        lineage: Lineage | None = None,
        generated: bool = False,
    ) -> Manifest:
        """Make the manifest of a checkpoint of the run.

        Parameters
        ----------
        shapes : mapping of str to tuple of int, or None
            The shape of every tensor; None says only what the card says.
        iteration : int or None
        architecture : mapping, optional
            What the network is built from, as far as the tensors say it.
        lineage : Lineage, optional
        generated : bool
            Whether the weights are made-up numbers.

        Raises
        ------
        InvalidCard
            With everything that card and checkpoint do not agree on.
        """
        run = self.description
        network, problems = _merged(run.architecture, architecture)
        if iteration is not None and run.iterations and iteration not in run.iterations:
            listed = ", ".join(map(str, run.iterations))
            problems.append((f"$.{BLOCK}.iterations", f"do not have {iteration}; there are: {listed}"))
        head = run.head or _usual_head(shapes)
        if shapes is not None and not head:
            found = _candidates(shapes, len(run.channels)) or "none has a slice for each channel"
            what = f"is missing, and the weights have neither {_HEAD[0]} nor {_HEAD[1]}; name its tensors"
            problems.append((f"$.{BLOCK}.head", f"{what} ({found})"))
        problems.extend(_size_problem(run, network))
        manifest = Manifest(
            run=run.run,
            iteration=iteration,
            channels=run.channels,
            head=head,
            vocabulary=run.vocabulary,
            input_voxel_size=run.input_voxel_size,
            output_voxel_size=run.output_voxel_size,
            input_range=run.input_range,
            input_sampling=run.input_sampling,
            target=run.target,
            architecture=network,
            layout=_layout(shapes),
            lineage=lineage,
            generated=generated,
            tool_version=__version__,
        )
        if shapes is not None and head:
            problems.extend(_contradictions_of_tensors(manifest, shapes))
        if problems:
            raise InvalidCard(self.source, problems)
        return manifest

    def render(
        self,
        manifest: Manifest | None = None,
        *,
        repository: str | None = None,
        base_model: str | None = None,
    ) -> str:
        """Give the README that is pushed; the same card and manifest always give the same text.

        Parameters
        ----------
        manifest : Manifest, optional
            Says what the run was fine-tuned from, and whether the weights are made-up numbers.
        repository : str, optional
            ``namespace/repo`` that it is pushed to: code that names the run alone then names the repository,
            unless the name alone means it.
        base_model : str, optional
            The repository of the run that it was fine-tuned from, instead of the manifest's.

        Raises
        ------
        InvalidCard
            If the manifest is another run's, or the card names another base or another relation to it.
        """
        lineage = manifest.lineage if manifest is not None else None
        base = base_model or (lineage.base_repository if lineage is not None else None)
        generated = manifest is not None and manifest.generated
        problems = [*_manifest_differences(self.description, manifest), *_base_problems(self.data, base)]
        if problems:
            raise InvalidCard(self.source, problems)
        front: dict[str, Any] = {**self.data.to_dict(), "library_name": LIBRARY}  # type: ignore[no-untyped-call]
        if base:
            # A card may name further bases.
            front = {"base_model": base, **front, "base_model_relation": _RELATION}
        if generated:
            front["tags"] = [*(front.get("tags") or []), _GENERATED_TAG]
        body = self.body
        if repository is not None and known_runs().get(self.description.run) != repository:
            body = at_repository(body, self.description.run, str(parse_reference(f"hf://{repository}")))
        if generated:
            body = _with_warning(body)
        return str(ModelCard(f"---\n{ModelCardData(**front).to_yaml()}\n---\n{body}"))


def read_card(path: str | os.PathLike[str]) -> RunCard:
    """Read a card.

    Raises
    ------
    InvalidCard
        With every problem: a file that cannot be read, front matter that the Hub or this package does not
        know, a text that contradicts it.
    """
    return _read(path, complete=False)


def check_card(path: str | os.PathLike[str]) -> RunCard:
    """Read a card that others are to find a network by.

    Raises
    ------
    InvalidCard
        As `read_card` does, and with everything that is missing: licence, tags, title, table of channels,
        iterations, code that loads it, DOI; and where scores stand in the text alone.
    """
    return _read(path, complete=True)


def plain_card(manifest: Manifest, repository: str) -> RunCard:
    """Give a card for a run whose maintainer gave none: what the manifest says, and what is not stated."""
    return RunCard(
        source=f"the card made for {repository}",
        data=ModelCardData(library_name=LIBRARY, tags=["safetensors"]),
        body=plain_body(manifest, repository),
        description=RunDescription.of(manifest),
    )


def _read(path: str | os.PathLike[str], *, complete: bool) -> RunCard:
    source = os.fspath(path)
    front = read_front_matter(_text(source))
    problems = list(front.problems)
    lines = read_lines(front.body, front.line)
    run: RunDescription | None = None
    if front.values is not None:
        run, wrong = read_description(front.block, source)
        problems.extend(wrong)
    problems.extend(code_problems(lines))
    if run is not None:
        problems.extend(contradictions(lines, run))
    if complete:
        problems.extend(_missing(front.values, lines, run, source))
    if problems or front.data is None or run is None:
        raise InvalidCard(source, problems)
    return RunCard(source=source, data=front.data, body=front.body, description=run)


def _text(source: str) -> str:
    try:
        return Path(source).read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise InvalidCard(source, [("$", f"is not UTF-8 (byte {error.start})")]) from error
    except OSError as error:
        raise InvalidCard(source, [("$", f"cannot be read: {error.strerror or error}")]) from error


def _missing(
    values: Mapping[str, Any] | None, lines: Sequence[Line], run: RunDescription | None, source: str
) -> Iterator[Problem]:
    if values is not None:
        yield from missing_from(values)
        if "model-index" not in values:
            yield from scores(lines)
    if run is not None:
        yield from missing(lines, run)
        file = Path(source).stem
        if run.run != file and {run.run, file} & set(known_runs()):
            yield f"$.{BLOCK}.run", f"is {run.run!r}, and the file is called {file!r}"


# --- card and checkpoint -----------------------------------------------------------------------------------


def _merged(
    stated: Architecture | None, found: Mapping[str, Any] | None
) -> tuple[Architecture | None, list[Problem]]:
    if found is None:
        return stated, []
    network = stated or Architecture(COSEM_UNET)
    # As JSON has them: tuples are lists there.
    tensors = json.loads(json.dumps(dict(found)))
    path = f"$.{BLOCK}.architecture.arguments"
    said = {name: value for name, value in network.arguments.items() if value != UNKNOWN}
    problems = [
        (f"{path}.{name}", f"is {show(value)}; by the tensors it is {show(tensors[name])}")
        for name, value in said.items()
        if tensors.get(name, UNKNOWN) != UNKNOWN and _as_short(tensors[name]) != _as_short(value)
    ]
    return Architecture(network.name, {**tensors, **said}), problems


def _as_short(value: Any) -> Any:
    """Write three equal numbers, for z, y and x, as the one that may be given for them."""
    if not isinstance(value, list):
        return value
    short = [_as_short(one) for one in value]
    alike = len(short) == 3 and short[0] == short[1] == short[2]
    return short[0] if alike and isinstance(short[0], int) else short


def _size_problem(run: RunDescription, network: Architecture | None) -> list[Problem]:
    before, after, factors = run.input_voxel_size, run.output_voxel_size, _enlargement(network)
    if before is None or after is None or factors is None:
        return []
    if all(map(math.isclose, before, (size * factor for size, factor in zip(after, factors, strict=True)))):
        return []
    there, made = (", ".join(f"{length:g}" for length in size) for size in (before, after))
    network_says = " x ".join(map(str, factors))
    what = f"is {made} nm for {there} nm of input; the network makes voxels smaller by {network_says}"
    return [(f"$.{BLOCK}.output_voxel_size", f"{what} (final_upsample)")]


def _enlargement(network: Architecture | None) -> list[int] | None:
    """Give how many voxels a COSEM U-Net makes of one along z, y and x; None where nothing says it."""
    if network is None or network.name != COSEM_UNET:
        return None
    match network.arguments:
        case {"final_upsample": None}:
            return [1, 1, 1]
        case {"final_upsample": int(factor)}:
            return [factor] * 3
        case {"final_upsample": [int(z), int(y), int(x)]}:
            return [z, y, x]
    return None


def _usual_head(shapes: Mapping[str, tuple[int, ...]] | None) -> tuple[HeadTensor, ...]:
    return tuple(HeadTensor(name) for name in _HEAD if name in (shapes or {}))


def _candidates(shapes: Mapping[str, tuple[int, ...]], rows: int) -> str:
    return ", ".join(name for name, shape in shapes.items() if shape and shape[0] == rows)


def _layout(shapes: Mapping[str, tuple[int, ...]] | None) -> str | None:
    layout = detect_layout(shapes or {})
    return None if layout is AS_IS else layout.name


def _contradictions_of_tensors(manifest: Manifest, shapes: Mapping[str, tuple[int, ...]]) -> list[Problem]:
    try:
        check_manifest(manifest, shapes, manifest.run)
    except InvalidManifest as error:
        return [(f"$.{BLOCK}{path.removeprefix('$')}", problem) for path, problem in error.problems]
    return []


# --- what is pushed ----------------------------------------------------------------------------------------


def _manifest_differences(run: RunDescription, manifest: Manifest | None) -> list[Problem]:
    if manifest is None:
        return []
    problems = []
    if manifest.run != run.run:
        problems.append((f"$.{BLOCK}.run", f"is {run.run!r}; the manifest's is {manifest.run!r}"))
    if manifest.channels != run.channels:
        listed = ", ".join(map(str, manifest.channels))
        problems.append((f"$.{BLOCK}.channels", f"are not the manifest's, which are: {listed}"))
    return problems


def _base_problems(data: ModelCardData, base: str | None) -> list[Problem]:
    if base is None:
        return []
    problems = []
    stated = [data.base_model] if isinstance(data.base_model, str) else data.base_model
    if stated and base not in stated:
        problems.append(("$.base_model", f"is {', '.join(stated)}; it was fine-tuned from {base}"))
    relation = data.get("base_model_relation", _RELATION)
    if relation != _RELATION:
        problems.append(("$.base_model_relation", f"is {relation}; to {base} it is {_RELATION}"))
    return problems


def _with_warning(body: str) -> str:
    """Put the warning right below the title, or first where there is none."""
    title = title_line(read_lines(body))
    lines = body.split("\n")
    at = 0 if title is None else title.number
    return "\n".join([*lines[:at], "", _GENERATED, *([] if title else [""]), *lines[at:]])

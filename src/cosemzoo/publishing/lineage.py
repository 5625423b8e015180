"""What a fine-tuned run records of its base: which checkpoint it was, and what each channel started from."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, Literal

from attrs import Factory, frozen

from cosemzoo.document import Problem, read_document
from cosemzoo.errors import InvalidLineage
from cosemzoo.loading.labels import UNKNOWN_KIND
from cosemzoo.loading.report import LoadReport
from cosemzoo.manifest import Channel, InheritedChannel, Lineage
from cosemzoo.reference import Reference, known_runs
from cosemzoo.zoo import Checkpoint

_REPORT: Final = "the report"


@frozen(kw_only=True)
class _Row:
    """What `cosemzoo.loading.account.ChannelRow` is in a report's JSON."""

    head: str
    row: int
    status: Literal["loaded", "assumed", "kept"]
    label: str | None = None
    kind: str | None = None
    source_row: int | None = None
    source_label: str | None = None
    source_kind: str | None = None
    extra: dict[str, Any] = Factory(dict)


@frozen(kw_only=True)
class _Report:
    """What is needed of a report's JSON; the rest is `extra`."""

    reference: str
    commit: str | None
    outcome: str
    channels: tuple[_Row, ...]
    bytes: int
    extra: dict[str, Any] = Factory(dict)


def read_lineage(report: Path | LoadReport | None, base: Checkpoint, channels: Sequence[Channel]) -> Lineage:
    """Say what a run was fine-tuned from.

    Parameters
    ----------
    report : Path, LoadReport or None
        The report of the load from the base, or a file with its `to_json`. Without one, what the channels
        started from is not recorded.
    base : Checkpoint
    channels : sequence of Channel
        The channels of the fine-tuned run, in the order of its rows.

    Returns
    -------
    Lineage
        The base by repository and commit, or by content hash where it is a folder. It has no channels where
        the report has none: the load did not know which tensors were the head.

    Raises
    ------
    InvalidLineage
        With every problem: a file that is no report, a load from another checkpoint or of nothing, channels
        that are not those of the run or of the base.
    """
    inherited = None
    if report is not None:
        source, text = _text_of(report)
        values, problems = read_document(_Report, text)
        problems += _problems(values, base)
        if "channels" in values:
            inherited, wrong = _inherited(values["channels"], base, channels)
            problems += wrong
        if problems:
            raise InvalidLineage(source, problems)
    return Lineage(
        base_repository=base.repository,
        base_commit=base.commit,
        base_reference=name_of(base),
        base_content_hash=base.content_hash,
        channels=inherited,
    )


def name_of(checkpoint: Checkpoint) -> str:
    """Give the run and the criterion of a checkpoint: never a name that can move, or a path of this machine.

    Examples
    --------
    ``setup04@1820500``, ``my-lab/run_1@1000``, ``local:run_1@1000``
    """
    if checkpoint.repository is not None:
        namespace, _, run = checkpoint.repository.partition("/")
        known = known_runs().get(run) == checkpoint.repository
        reference = Reference("hub", run, None if known else namespace)
        return str(reference.at(checkpoint.criterion))
    if checkpoint.reference.place == "local":
        return str(checkpoint.reference.at(checkpoint.criterion))
    manifest = checkpoint.manifest
    if manifest is None:
        return checkpoint.criterion
    return manifest.run if manifest.iteration is None else f"{manifest.run}@{manifest.iteration}"


def _text_of(report: Path | LoadReport) -> tuple[str, bytes]:
    if isinstance(report, LoadReport):
        return _REPORT, report.to_json().encode()
    try:
        return str(report), report.read_bytes()
    except OSError as error:
        raise InvalidLineage(str(report), [("$", f"cannot be read ({error.strerror})")]) from error


def _problems(values: dict[str, Any], base: Checkpoint) -> Iterator[Problem]:
    commit = values.get("commit", base.identity)
    if commit != base.identity:
        problem = f"is {commit or 'not recorded'}: that load was not from {base}, {base.identity}"
        # A name can have moved since, or its description was amended: the commit is still there.
        if base.repository and commit:
            problem += (
                f"; if it was from {base.repository} all the same, give --base {base.repository}@{commit}"
            )
        yield "$.commit", problem
    if values.get("outcome", "strict") not in {"strict", "partial"}:
        yield "$.outcome", f"is {values['outcome']!r}, neither strict nor partial"
    if values.get("bytes", 1) <= 0:
        yield "$.bytes", f"is {values['bytes']}: nothing was loaded"


def _inherited(
    rows: Sequence[_Row], base: Checkpoint, channels: Sequence[Channel]
) -> tuple[tuple[InheritedChannel, ...] | None, list[Problem]]:
    if not rows:
        return None, []
    heads: dict[str, list[tuple[int, _Row]]] = {}
    for place, row in enumerate(rows):
        heads.setdefault(row.head, []).append((place, row))
    # A manifest lists the channels of several heads one after another, or once where they are the same.
    readings = [list(enumerate(rows))] if len(rows) == len(channels) else list(heads.values())
    if any(len(reading) != len(channels) for reading in readings):
        counts = ", ".join(f"{head or 'the head'} {len(members)}" for head, members in heads.items())
        problem = f"has {len(rows)} rows ({counts}), but the run has {len(channels)} channels"
        return None, [("$.channels", problem)]
    problems = list(_order_problems(heads))
    mappings = []
    for reading in readings:
        pairs = list(zip(reading, channels, strict=True))
        for (place, row), channel in pairs:
            problems += [(f"$.channels[{place}]", problem) for problem in _row_problems(row, channel, base)]
        mappings.append(tuple(_from(row, channel) for (_, row), channel in pairs))
    if any(mapping != mappings[0] for mapping in mappings):
        both = " and ".join(heads)
        problems.append(("$.channels", f"says other sources for {both}, which share the run's channels"))
    return mappings[0], problems


def _order_problems(heads: Mapping[str, Sequence[tuple[int, _Row]]]) -> Iterator[Problem]:
    for head, members in heads.items():
        for expected, (place, row) in enumerate(members):
            if row.row != expected:
                what = f"is row {row.row} of {head or 'the head'} where row {expected} is expected"
                yield f"$.channels[{place}].row", what


def _row_problems(row: _Row, channel: Channel, base: Checkpoint) -> Iterator[str]:
    kind = _known(row.kind)
    if row.label not in {None, channel.label} or kind not in {None, channel.kind}:
        said = row.label or "a channel"
        yield f"is {said}{f' ({kind})' if kind else ''}, but that channel of the run is {channel}"
    if row.status == "kept":
        if (row.source_row, row.source_label, row.source_kind) != (None, None, None):
            yield f"is kept, and yet says that it comes from {_source_of(row)}"
        return
    offered = base.manifest.channels if base.manifest else ()
    if not offered:
        return
    if row.source_row is None or row.source_label is None:
        yield f"is {row.status} from {_source_of(row)}, which is not both a row and a label of the base"
        return
    source = offered[row.source_row] if 0 <= row.source_row < len(offered) else None
    kind = _known(row.source_kind)
    if source is None or source.label != row.source_label or kind not in {None, source.kind}:
        yield f"comes from {_source_of(row)}, but the base has {source or 'no such row'} there"


def _source_of(row: _Row) -> str:
    number = "no row" if row.source_row is None else f"row {row.source_row}"
    return f"{number}, {row.source_label or 'no label'} ({_known(row.source_kind) or 'no kind'})"


def _from(row: _Row, channel: Channel) -> InheritedChannel:
    # A base that does not name its channels has rows all the same: they were taken by position.
    unnamed = row.status == "assumed" and row.source_label is None
    return InheritedChannel(
        channel.label,
        channel.kind,
        source_label=row.source_label,
        source_kind=_known(row.source_kind),
        source_row=row.row if unnamed else None,
    )


def _known(kind: str | None) -> str | None:
    return None if kind == UNKNOWN_KIND else kind

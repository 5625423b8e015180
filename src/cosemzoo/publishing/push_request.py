"""What is asked of a push: as what, to where, and what else there is to say of it."""

from collections.abc import Callable, Sequence
from pathlib import Path

from attrs import frozen

from cosemzoo.errors import PublicationRefused
from cosemzoo.manifest import Channel
from cosemzoo.reference import Reference
from cosemzoo.zoo import Zoo

Progress = Callable[[int, int], None]


@frozen(kw_only=True)
class PushOptions:
    """What there is to say of a push besides the reference and the weights.

    Attributes
    ----------
    card : Path or None
        The run's card; by default that of a COSEM run, else a plain one.
    channels : sequence of Channel
        Those of the head, in the order of its rows, where there is no card.
    aliases : sequence of str
        Other names that are to mean the checkpoint.
    move_aliases, amend, private, rehearse : bool
        As for `publish`.
    dtype : str or None
        To which the weights are cast; None keeps theirs.
    allow_nonfinite : bool
        Whether NaN and infinities are published.
    base : str or None
        The checkpoint that the run was fine-tuned from.
    report : Path or None
        The JSON of the report that the load from the base returned.
    generated : bool
        Whether the weights are made-up numbers.
    golden : bool
        Whether a golden sample is stored with an iteration that is published for the first time.
    progress : callable or None
        Called with bytes done and all bytes, of downloading and of converting.
    """

    card: Path | None = None
    channels: Sequence[Channel] = ()
    aliases: Sequence[str] = ()
    move_aliases: bool = False
    amend: bool = False
    private: bool = False
    rehearse: bool = False
    dtype: str | None = None
    allow_nonfinite: bool = False
    base: str | None = None
    report: Path | None = None
    generated: bool = False
    golden: bool = True
    progress: Progress | None = None


@frozen(kw_only=True)
class PushRequest:
    """One push.

    Attributes
    ----------
    asked : Reference
        As what the weights are published.
    repository : str
        The run's repository, ``namespace/name``.
    zoo : Zoo
    options : PushOptions
    """

    asked: Reference
    repository: str
    zoo: Zoo
    options: PushOptions

    def refused(self, problem: str, step: str) -> PublicationRefused:
        """Give the error that says why this cannot be done, and what to type instead."""
        return PublicationRefused(str(self.asked), problem, step)

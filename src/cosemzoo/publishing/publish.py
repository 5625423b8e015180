"""Publishing one checkpoint: its files, its tag, its place in the run's index of criteria.

A reader sees a run before or after, never between: the files are committed beside main, tagged and read back
first; then one commit moves main, and is refused if main has moved. Publishing again after an interruption
completes it.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from os import PathLike

from cosemzoo.errors import AccessDenied, HubUnavailable, PublicationFailed, WriteDenied
from cosemzoo.publishing.publication import CARD_FILE, Publication, prepare_folder
from cosemzoo.publishing.publisher import Published, Publisher
from cosemzoo.publishing.run_repository import RunRepository
from cosemzoo.reference import parse_reference
from cosemzoo.zoo import Zoo
from cosemzoo.zoo.failures import Asked


def publish(
    folder: str | PathLike[str],
    reference: str,
    *,
    zoo: Zoo,
    aliases: Sequence[str] = (),
    move_aliases: bool = False,
    amend: bool = False,
    private: bool = False,
    rehearse: bool = False,
    date: str | None = None,
) -> Published:
    """Publish the checkpoint in a folder.

    Parameters
    ----------
    folder : str or os.PathLike
        Holds the weights, their manifest and, if the card is to change, a ``README.md``.
    reference : str
        As what: ``run``, or ``run@iteration`` with the manifest's iteration; a name only where the manifest
        gives no iteration.
    zoo : Zoo
        Says to which Hub, and with which token.
    aliases : sequence of str
        Other names that are to mean this checkpoint from now on, such as ``best``.
    move_aliases : bool
        Whether they may be names that mean another checkpoint now.
    amend : bool
        Whether the manifest may differ from the one that was published with the same weights.
    private : bool
        Whether a repository that has to be made is private.
    rehearse : bool
        Whether to check everything and do nothing.
    date : str, optional
        When, in ISO 8601; by default now.

    Returns
    -------
    Published
        With what the index says of it, and what was done; nothing, if all of it was there already.

    Raises
    ------
    PublicationRefused
        If folder, criterion, repository, aliases, date or card contradict each other or cannot be, or the
        zoo is offline; `AliasTaken` if aliases mean another checkpoint and are not to be moved.
    AlreadyPublished
        If the criterion was published before with other weights, or with the same and another manifest
        (`DescriptionDiffers`) that is not to be amended; the card may change.
    InvalidReference, NamespaceMissing
        If `reference` is not a run on the Hub, or an alias cannot be one.
    InvalidManifest, InvalidSafetensors, WeightsNotFound, RunNotFound
        If the folder holds no checkpoint with a manifest.
    InvalidIndex
        If the run's index is malformed, or would be with these aliases.
    AccessDenied
        If the Hub does not know this caller as one who may (`WriteDenied`), or as one who may read.
    IntegrityError
        If the Hub gives back other bytes than it was given.
    PublicationFailed
        If the Hub refuses it for another reason, or cannot be reached.
    """
    publication = prepare_folder(folder, parse_reference(reference), zoo, aliases, date)
    return publish_prepared(
        publication, zoo, move_aliases=move_aliases, amend=amend, private=private, rehearse=rehearse
    )


def publish_prepared(
    publication: Publication,
    zoo: Zoo,
    *,
    move_aliases: bool = False,
    amend: bool = False,
    private: bool = False,
    rehearse: bool = False,
) -> Published:
    """Publish what was prepared; parameters and errors are those of `publish`."""
    asked = Asked(str(publication.reference), publication.repository, zoo.endpoint, zoo.cache_dir)
    with publishing_errors(asked):
        publisher = Publisher(publication, zoo, RunRepository(asked, zoo.token), move_aliases=move_aliases)
        return publisher.publish(amend=amend, private=private, rehearse=rehearse)


def read_main_card(zoo: Zoo, reference: str, repository: str) -> str | None:
    """Give the text of a run's card as main has it; None where it has none.

    Raises
    ------
    AccessDenied, PublicationFailed
        If the Hub does not give it.
    """
    asked = Asked(reference, repository, zoo.endpoint, zoo.cache_dir)
    with publishing_errors(asked):
        run = RunRepository(asked, zoo.token)
        head = run.state().head
        there = head is not None and CARD_FILE in run.files(head)
        return run.read(head, CARD_FILE).decode() if head is not None and there else None


@contextmanager
def publishing_errors(asked: Asked) -> Iterator[None]:
    """Say what the Hub refuses as errors of publishing."""
    try:
        yield
    except AccessDenied as error:
        if error.gated:
            raise
        url = f"{asked.endpoint}/{asked.repository}"
        raise WriteDenied(asked.reference, asked.repository, url) from error
    except HubUnavailable as error:
        raise PublicationFailed(asked.reference, asked.endpoint, error.reason, error.status) from error

"""The cards of the COSEM runs that come with the package."""

from collections.abc import Sequence
from pathlib import Path
from typing import Final

import cosemzoo
from cosemzoo.publishing.card import RunCard, read_card
from cosemzoo.reference import known_runs

_FOLDER: Final = "model_cards"


def known_card(run: str) -> RunCard | None:
    """Give the card of one of the runs of `known_runs`, None for any other run.

    Raises
    ------
    InvalidCard
        If the card that came with the package is damaged.
    """
    if run not in known_runs():
        return None
    return find_card(run, card_folders(Path(cosemzoo.__file__).parent))


def card_folders(package: Path) -> tuple[Path, Path]:
    """Give where cards are: in an installed package, and beside the sources in a checkout."""
    return package / _FOLDER, package.parents[1] / _FOLDER


def find_card(run: str, folders: Sequence[Path]) -> RunCard | None:
    """Read a run's card in the first folder that has it; None where none has.

    Raises
    ------
    InvalidCard
        With every problem.
    """
    found = (folder / f"{run}.md" for folder in folders if (folder / f"{run}.md").is_file())
    path = next(found, None)
    return None if path is None else read_card(path)

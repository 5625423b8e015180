"""The published COSEM checkpoints: which there are, and where (Heinrich et al. 2021)."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from attrs import frozen

from cosemzoo.errors import CriterionNotFound, InvalidSetting, NotACosemCheckpoint
from cosemzoo.publishing.download import check_url, shown
from cosemzoo.reference import Reference, parse_reference, published_iterations

#: Where the originals are: objects ``<run>/<iteration>``, torch pickles ``{"model", "optimizer"}``.
BUCKET_URL: Final = (
    "https://janelia-cosem-networks.s3.amazonaws.com/v0003.2-pytorch/cosem_models/cosem_models"
)
#: The environment variable that names a mirror of it.
URL_VARIABLE: Final = "COSEMZOO_COSEM_URL"


@frozen
class Original:
    """A published checkpoint, as it was before the zoo.

    Attributes
    ----------
    run : str
    iteration : int
    """

    run: str
    iteration: int

    @property
    def reference(self) -> Reference:
        """Where it is in the local zoo, once it was imported."""
        return Reference("local", self.run, criterion=str(self.iteration))

    def under(self, folder: Path) -> Path:
        """Where its file is in a folder that is laid out as the bucket is."""
        return folder / self.run / str(self.iteration)

    def __str__(self) -> str:
        """Give ``run@iteration``."""
        return f"{self.run}@{self.iteration}"


def originals() -> Iterator[Original]:
    """Give every published checkpoint, by run and iteration."""
    for run, iterations in published_iterations().items():
        for iteration in iterations:
            yield Original(run, int(iteration))


def find_original(text: str) -> Original:
    """Find the published checkpoint that a reference names.

    Parameters
    ----------
    text : str
        ``run@iteration``, as in ``setup04@1820500``, or ``local:run@iteration``.

    Raises
    ------
    InvalidReference
        If it is not a reference.
    CriterionNotFound
        If it is a run of COSEM without an iteration, or ``best``: no measurement says which one is.
    NotACosemCheckpoint
        If it is anything else that was not published.
    """
    reference = parse_reference(text)
    run, wanted = reference.run, reference.wanted
    iterations = published_iterations().get(run, ())
    ours = reference.place != "folder" and reference.namespace is None
    if ours and wanted in iterations:
        return Original(run, int(wanted))
    if ours and iterations and wanted == "best":
        note = f"No measurement says which is best: name one, as in {run}@{iterations[-1]}."
        raise CriterionNotFound(str(reference), wanted, iterations, note)
    there = [str(original) for original in originals() if not ours or not iterations or original.run == run]
    raise NotACosemCheckpoint(str(reference), there)


def original_url(original: Original, base_url: str | None = None) -> str:
    """Give the address of an original.

    Parameters
    ----------
    original : Original
    base_url : str, optional
        A mirror of the bucket; by default ``COSEMZOO_COSEM_URL``, else the bucket itself.

    Raises
    ------
    InvalidSetting
        If the base is not an address that can be downloaded from.
    """
    base = check_url(base_url or os.environ.get(URL_VARIABLE) or BUCKET_URL)
    if "?" in base or "#" in base:
        hint = f"Give what comes before /<run>/<iteration>: --base-url or {URL_VARIABLE}."
        raise InvalidSetting(
            "address of the COSEM checkpoints", f"{shown(base)!r} has a '?' or a '#' after it", hint
        )
    return f"{base.rstrip('/')}/{original.run}/{original.iteration}"

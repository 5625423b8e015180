"""Why a publication is refused before anything is published."""

from collections.abc import Mapping, Sequence

from cosemzoo.errors import AccessDenied, AlreadyPublished, CosemZooError, listing


class PublicationRefused(CosemZooError, ValueError):
    """A publication that contradicts itself, or the run that is there.

    Attributes
    ----------
    reference : str
    problem : str
        What contradicts what.
    """

    def __init__(self, reference: str, problem: str, step: str) -> None:
        self.reference, self.problem = reference, problem
        super().__init__(f"{reference}: {problem}; nothing was published. {step}")


class DescriptionDiffers(AlreadyPublished):
    """A criterion that was published before with these weights, but described otherwise.

    Attributes
    ----------
    reference : str
    published : mapping of str to str
        SHA-256 of the weights that it has, by file name.
    commit : str
        Where it was published.
    files : tuple of str
        The files that differ from those there.
    """

    def __init__(
        self, reference: str, published: Mapping[str, str | None], commit: str, files: Sequence[str]
    ) -> None:
        super().__init__(reference, published)
        self.commit, self.files = commit, tuple(files)
        self.args = (
            f"{reference} was published before with these weights, as commit {commit}, but with other files "
            f"beside them; nothing was published. These differ:{listing(self.files)}\n"
            "Publishing again changes the card alone. To keep what is there, publish with its files; "
            "to publish another description, do it under another criterion.",
        )


class WriteDenied(AccessDenied):
    """The Hub does not let this caller write.

    Attributes
    ----------
    reference : str
    repository : str
    """

    def __init__(self, reference: str, repository: str, url: str) -> None:
        super().__init__(reference, repository, url, gated=False)
        self.args = (
            f"{reference}: {repository} may not be written with the present token. Ask the owners of {url} "
            "for the right to write, or run `hf auth login` (or set HF_TOKEN) with a token that has it.",
        )

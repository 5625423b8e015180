"""References: the text `run@criterion` that names a checkpoint, its parts, and the git tag of a criterion.

====================================  =============================================================
text                                  means
====================================  =============================================================
``run[@criterion]``                   a run of `known_runs`, else of the configured namespace
``namespace/repo[@criterion]``        a repository on the Hub
``hf://namespace/repo[@criterion]``   the same, said explicitly
``local:run[@criterion]``             a run in the local zoo folder
``./folder``, ``/folder``             one checkpoint's folder on disk, as is any `pathlib.Path`
====================================  =============================================================

A criterion is an iteration (``1820500``), a name (``best``, ``jrc_hela-2/f1_score``) or a commit of 40
hexadecimal digits. Without one, ``best`` is meant.
"""

import os
import re
import tomllib
from collections.abc import Mapping
from functools import cache
from importlib.resources import files
from typing import Final, Literal
from urllib.parse import unquote_to_bytes

from attrs import evolve, frozen

from cosemzoo.errors import InvalidReference

#: The criterion that is meant where none is given.
DEFAULT_CRITERION: Final = "best"

# A Hub name: letters, digits, '-', '_' and '.', no '--' or '..', neither '-' nor '.' at either end, at most
# 96 characters, as huggingface_hub's `validate_repo_id` has it.
_NAME = re.compile(r"(?!.*(?:--|\.\.))[A-Za-z0-9_](?:[A-Za-z0-9._-]{0,94}[A-Za-z0-9_])?\Z")
_NAME_RULE = (
    "letters, digits, '-', '_' and '.', neither '--' nor '..', not starting or ending with '-' or '.'"
)
_ITERATION = re.compile(r"(?:0|[1-9][0-9]*)\Z")
_COMMIT = re.compile(r"[0-9a-f]{40}\Z")
_TAG_SAFE = re.compile(r"[A-Za-z0-9._+-]")
# git stores a tag as a file of its name: 255 bytes, less the room it takes for ".lock".
_LONGEST_TAG = 240
# Other names that git or the Hub give a meaning of their own.
_RESERVED_TAGS = frozenset({"main", "HEAD"})
_HUB, _LOCAL = "hf://", "local:"


@frozen
class Reference:
    """A parsed reference.

    Attributes
    ----------
    place : {"hub", "local", "folder"}
        Where it points: the Hub, the local zoo folder, or one checkpoint's folder.
    run : str
        The run, or the repository's name, or the folder's path.
    namespace : str or None
        The Hub namespace, where the text names one.
    criterion : str or None
        The criterion, where the text names one.

    Examples
    --------
    >>> parse_reference("setup04@1820500").criterion
    '1820500'
    >>> str(parse_reference("hf://my-lab/run_1@best"))
    'my-lab/run_1@best'
    """

    place: Literal["hub", "local", "folder"]
    run: str
    namespace: str | None = None
    criterion: str | None = None

    @property
    def wanted(self) -> str:
        """The criterion, or the default where none was given."""
        return DEFAULT_CRITERION if self.criterion is None else self.criterion

    @property
    def commit(self) -> str | None:
        """The commit, where the criterion is one."""
        return self.criterion if self.criterion is not None and _COMMIT.match(self.criterion) else None

    def at(self, criterion: str) -> "Reference":
        """Give the same run at another criterion."""
        return evolve(self, criterion=criterion)

    def __str__(self) -> str:
        """Give the text that parses to this reference."""
        if self.place == "folder":
            return self.run
        text = self.run if self.namespace is None else f"{self.namespace}/{self.run}"
        if self.place == "local":
            text = _LOCAL + text
        elif self.namespace is not None and _older_spelling(self.namespace, self.run) is not None:
            text = _HUB + text
        return text if self.criterion is None else f"{text}@{self.criterion}"


@cache
def known_runs() -> Mapping[str, str]:
    """Give the runs that need no namespace, and their repositories (`runs.toml`)."""
    text = files("cosemzoo").joinpath("runs.toml").read_text(encoding="utf-8")
    repositories: dict[str, str] = tomllib.loads(text)["repositories"]
    return repositories


@cache
def published_iterations() -> Mapping[str, tuple[str, ...]]:
    """Give the iterations of each COSEM run of which there is a published original (`published.toml`)."""
    text = files("cosemzoo").joinpath("published.toml").read_text(encoding="utf-8")
    return {run: tuple(map(str, those)) for run, those in tomllib.loads(text)["iterations"].items()}


def parse_reference(text: "str | os.PathLike[str] | Reference") -> Reference:
    """Parse a reference.

    Parameters
    ----------
    text : str, os.PathLike or Reference
        A text of the grammar in this module's description; a path is a folder; a reference is given back.

    Raises
    ------
    InvalidReference
        If the text cannot be one; its `suggestion` is what was probably meant.
    """
    if isinstance(text, Reference):
        return text
    if isinstance(text, os.PathLike):
        return _folder(os.fspath(text))
    if not isinstance(text, str):
        raise InvalidReference(repr(text), f"it is a {type(text).__name__}, not a text or a path")
    if text in {".", ".."} or text.startswith(("./", "../", ".\\", "..\\")) or os.path.isabs(text):
        return _folder(text)
    _check_outside(text)
    prefix = next((prefix for prefix in (_HUB, _LOCAL) if text.startswith(prefix)), "")
    name, at, after = text.removeprefix(prefix).partition("@")
    criterion = after if at else None
    if ":" in name:
        raise InvalidReference(
            text, "the only prefixes are hf:// and local:", _without_prefix(name, criterion)
        )
    if criterion is not None:
        problem, suggestion = _criterion_problem(criterion)
        if problem:
            raise InvalidReference(text, problem, suggestion and f"{prefix}{name}@{suggestion}")
    parts = name.split("/")
    meant = _older_spelling(parts[0], "/".join(parts[1:])) if len(parts) > 1 and not at else None
    if meant is not None and prefix != _HUB:
        raise InvalidReference(text, "the criterion is written after '@'", prefix + meant)
    _check_names(text, parts, prefix)
    namespace = parts[0] if len(parts) == 2 else None
    return Reference("local" if prefix == _LOCAL else "hub", parts[-1], namespace, criterion)


def is_iteration(criterion: str) -> bool:
    """Whether a criterion is an iteration number."""
    return _ITERATION.match(criterion) is not None


def check_criterion(criterion: str) -> str:
    """Give a criterion back if a reference can hold it.

    Raises
    ------
    InvalidReference
        If none can.
    """
    problem, suggestion = _criterion_problem(criterion)
    if problem:
        raise InvalidReference(criterion, problem, suggestion)
    return criterion


def tag_of(criterion: str) -> str:
    """Give the git tag of a criterion.

    Letters, digits, ``.``, ``_``, ``+`` and ``-`` stay; everything else, and whatever would make a name that
    git or the Hub refuse or read differently, becomes ``=XX`` for each of its UTF-8 bytes. A tag has no
    ``/``, so that ``jrc_hela-2`` and ``jrc_hela-2/f1_score`` can both be tags of one repository.

    Raises
    ------
    InvalidReference
        If `criterion` is none.

    Examples
    --------
    >>> tag_of("jrc_hela-2/f1_score")
    'jrc_hela-2=2Ff1_score'
    >>> criterion_of("jrc_hela-2=2Ff1_score")
    'jrc_hela-2/f1_score'
    """
    return _escape(check_criterion(criterion))


def criterion_of(tag: str) -> str:
    """Give the criterion of a git tag: the inverse of `tag_of`.

    Raises
    ------
    InvalidReference
        If `tag_of` gives this tag for no criterion.
    """
    try:
        criterion = unquote_to_bytes(tag.replace("%", "=25").replace("=", "%")).decode("utf-8")
    except UnicodeError as error:
        raise InvalidReference(tag, "it is not the tag of a criterion") from error
    if _criterion_problem(criterion)[0] or _escape(criterion) != tag:
        raise InvalidReference(tag, "it is not the tag of a criterion")
    return criterion


def _escape(criterion: str) -> str:
    def escaped(text: str) -> str:
        return "".join(f"={byte:02X}" for byte in text.encode("utf-8"))

    tag = "".join(c if _TAG_SAFE.match(c) else escaped(c) for c in criterion)
    tag = tag.replace("..", ".=2E")
    if tag in _RESERVED_TAGS or _COMMIT.match(tag) or tag[0] in ".-":
        tag = escaped(tag[0]) + tag[1:]
    if tag.endswith((".", ".lock")):
        head, _, tail = tag.rpartition(".")
        tag = f"{head}=2E{tail}"
    return tag


def _folder(path: str) -> Reference:
    if not path or "\0" in path:
        raise InvalidReference(path, "it is not a path")
    # A relative path keeps its dot, so that the text parses to a folder again.
    absolute_or_dotted = os.path.isabs(path) or path.startswith(".")
    return Reference("folder", path if absolute_or_dotted else os.path.join(".", path))


def _older_spelling(first: str, rest: str) -> str | None:
    """Give `run@criterion` where the text is DaCapo's `run/criterion`, not a repository."""
    if rest and (first in known_runs() or is_iteration(rest)):
        return f"{first}@{rest}"
    return None


def _without_prefix(name: str, criterion: str | None) -> str | None:
    """Give what was probably meant by a web address (`hf://namespace/repo`) or by `run:criterion`."""
    address = re.fullmatch(r"https?://[^/]+/([^/]+/[^/]+)/?", name)
    if address:
        return _HUB + address[1]
    run, _, rest = name.partition(":")
    return (
        f"{run}@{rest}" if criterion is None and _NAME.match(run) and rest and "/" not in run + rest else None
    )


def _check_outside(text: str) -> None:
    if not text.strip():
        raise InvalidReference(text, "it is empty")
    if text != text.strip():
        raise InvalidReference(text, "it has spaces around it", text.strip())
    if text.startswith("~"):
        raise InvalidReference(text, "'~' is not expanded", os.path.expanduser(text))


def _check_names(text: str, parts: list[str], explicit: str) -> None:
    if explicit == _HUB and len(parts) != 2:
        raise InvalidReference(text, "hf:// is followed by namespace/repo")
    if explicit == _LOCAL and len(parts) != 1:
        raise InvalidReference(
            text, "local: is followed by one run", f"{_LOCAL}{parts[0]}@{'/'.join(parts[1:])}"
        )
    if not parts[-1] and len(parts) > 1:
        raise InvalidReference(text, "it ends with '/'", text.rstrip("/"))
    if len(parts) > 2:
        problem = "a repository is namespace/repo, a criterion comes after '@', and a folder starts with './'"
        raise InvalidReference(text, problem, f"./{text}")
    for part in parts:
        if not _NAME.match(part) or part.endswith(".git"):
            raise InvalidReference(text, f"the name {part!r} is not {_NAME_RULE}, at most 96 characters")


def _criterion_problem(criterion: str) -> tuple[str, str | None]:
    """Give what is wrong with a criterion (empty if nothing), and what was probably meant."""
    problem, suggestion = "", None
    if not criterion:
        problem = "the criterion after '@' is empty"
    elif re.fullmatch(r"0+[0-9]+", criterion) and not _COMMIT.match(criterion):
        problem, suggestion = "an iteration has no leading zeros", criterion.lstrip("0") or "0"
    elif re.fullmatch(r"[0-9]{1,3}(?:[,_][0-9]{3})+", criterion):
        problem, suggestion = "an iteration is written in digits alone", re.sub("[,_]", "", criterion)
    elif re.fullmatch(r"[0-9A-Fa-f]{40}", criterion) and not _COMMIT.match(criterion):
        problem, suggestion = "a commit is written in small letters", criterion.lower()
    elif any(c in "@\\" or c.isspace() or not c.isprintable() for c in criterion):
        problem = "a criterion holds no '@', no backslash, no spaces and no control characters"
    elif any(part in {"", ".", ".."} for part in criterion.split("/")):
        problem = "the parts of a criterion, between '/', are not empty, '.' or '..'"
    elif len(_escape(criterion)) > _LONGEST_TAG:
        problem = f"the criterion is too long: its tag would be over {_LONGEST_TAG} characters"
    return problem, suggestion

"""Which repository ids, file paths and ref names are allowed. Nothing else becomes part of a path on disk."""

import re

from dulwich.refs import Ref, check_ref_format

from cosemzoo.localhub.errors import HubError, bad_request

_REPO_PART = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._-]*[A-Za-z0-9_])?")
_COMMIT = re.compile(r"[0-9a-f]{40}")
_MAX_REPO_ID = 96
_MAX_COMPONENT_BYTES = 200
_MAX_PATH_BYTES = 1000


def check_repo_id(repo_id: str) -> str:
    """Return ``repo_id`` if it is ``namespace/name`` under the Hub's own rules, else refuse it."""
    parts = repo_id.split("/")
    if (
        len(parts) == 2
        and len(repo_id) <= _MAX_REPO_ID
        and all(_REPO_PART.fullmatch(part) for part in parts)
        and "--" not in repo_id
        and ".." not in repo_id
        and not repo_id.endswith((".git", ".ipynb"))
    ):
        return repo_id
    raise bad_request(
        f"Invalid repository id {repo_id!r}: it is namespace/name, of letters, digits, '-', '_' and '.', "
        f"at most {_MAX_REPO_ID} characters, without '--' or '..', not ending in '.git'."
    )


def check_path(path: str) -> str:
    """Return ``path`` if a file may have it in a repository, else refuse it."""
    components = path.split("/")
    if (
        all(component not in {"", ".", ".."} for component in components)
        and not any(component.lower() in {".git", "git~1"} for component in components)
        and "\\" not in path
        and path.isprintable()
        and _fits(path)
    ):
        return path
    raise bad_request(
        f"Invalid path in repository: {path!r}. A path is relative, uses '/', and has no empty, '.', '..' or "
        "'.git' component, no backslash and no control character."
    )


def is_ref_name(name: str) -> bool:
    """Tell whether git allows ``name`` as a branch or tag and a file system can hold it."""
    try:
        ref = b"refs/heads/" + name.encode()
    except UnicodeEncodeError:
        return False
    # Older dulwich checks these two of git's rules for the whole name only.
    components = all(part and not part.endswith(".lock") for part in name.split("/"))
    return components and check_ref_format(Ref(ref)) and _fits(name)


def check_new_ref_name(name: str) -> str:
    """Return ``name`` if a new branch or tag may have it, else refuse it.

    A name of 40 hex digits is refused because it would read as a commit.
    """
    if not is_ref_name(name) or name.startswith(("refs/", "-")) or name == "HEAD":
        raise bad_request(f"Invalid branch or tag name {name!r}: git does not allow it.")
    if _COMMIT.fullmatch(name):
        raise bad_request(f"Invalid branch or tag name {name!r}: it would read as a commit id.")
    return name


def ref_conflict(kind: str, name: str, existing: str) -> HubError:
    """Refuse a ref beside which git cannot keep another: ``a`` and ``a/b`` are a file and a folder."""
    return HubError(409, f"Cannot create the {kind} {name!r}: git cannot hold it beside {existing!r}.")


def _fits(path: str) -> bool:
    try:
        encoded = path.encode()
    except UnicodeEncodeError:
        return False
    return len(encoded) <= _MAX_PATH_BYTES and all(
        len(component) <= _MAX_COMPONENT_BYTES for component in encoded.split(b"/")
    )

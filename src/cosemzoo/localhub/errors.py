"""What the Hub refuses, in the form the client understands: a status, a message and an ``X-Error-Code``."""

from collections.abc import Mapping
from typing import Any


class HubError(Exception):
    """A refusal that becomes an HTTP response.

    Parameters
    ----------
    status
        The HTTP status.
    message
        What was asked, what was found, what to do. Sent as ``X-Error-Message`` and in the JSON body.
    code
        The ``X-Error-Code`` from which the client picks its exception class.
    headers
        Further response headers, e.g. ``Content-Range`` of a 416.
    body
        Further fields of the JSON body, e.g. the ``url`` of a repository that already exists.
    """

    def __init__(
        self,
        status: int,
        message: str,
        code: str | None = None,
        *,
        headers: Mapping[str, str] | None = None,
        body: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.code = code
        self.headers = dict(headers or {})
        self.body = dict(body or {})


def bad_request(message: str) -> HubError:
    """Refuse a request that cannot be valid, whatever the state of the Hub."""
    return HubError(400, message)


def repository_not_found(repo_id: str, *, status: int = 404) -> HubError:
    """Refuse a repository that is missing, or that this caller must not learn about."""
    return HubError(status, f"Repository not found: {repo_id}", "RepoNotFound")


def revision_not_found(repo_id: str, revision: str) -> HubError:
    """Refuse a name that is neither a branch, a tag nor a commit of the repository."""
    return HubError(404, f"Invalid rev id: {revision} in {repo_id}", "RevisionNotFound")


def entry_not_found(path: str, commit: str) -> HubError:
    """Refuse a path that the commit does not hold; the client caches the absence under ``X-Repo-Commit``."""
    return HubError(404, f"Entry not found: {path}", "EntryNotFound", headers={"X-Repo-Commit": commit})

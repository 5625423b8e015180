"""Who may do what. Without tokens everybody may do everything; with tokens, they say who is asking."""

from collections.abc import Mapping

from starlette.requests import Request

from cosemzoo.localhub.errors import HubError, repository_not_found
from cosemzoo.localhub.repository import ModelRepository
from cosemzoo.localhub.store import RepositoryStore

_NOBODY_IN_PARTICULAR = "local"


class Access:
    """Decides by token.

    Parameters
    ----------
    store
        The repositories.
    tokens
        The user of each token. None means that no token is asked for.
    """

    def __init__(self, store: RepositoryStore, tokens: Mapping[str, str] | None) -> None:
        self._store = store
        self._tokens = tokens

    def user(self, request: Request) -> str | None:
        """Return who is asking, None if that is not said; 401 for a token that is not valid."""
        if self._tokens is None:
            return _NOBODY_IN_PARTICULAR
        header = request.headers.get("authorization")
        if header is None:
            return None
        scheme, _, token = header.partition(" ")
        if scheme.lower() != "bearer" or token not in self._tokens:
            raise HubError(401, "Invalid credentials in Authorization header")
        return self._tokens[token]

    def writer(self, request: Request) -> str:
        """Return who is asking, or refuse with 401: writes need a token."""
        user = self.user(request)
        if user is None:
            raise HubError(401, "This needs a token: pass token=..., or set HF_TOKEN.")
        return user

    def owner_of_new(self, namespace: str, user: str) -> str | None:
        """Return who will own a new repository, or refuse with 403: another user's namespace."""
        if self._tokens is None:
            return None
        if namespace != user and namespace in self._tokens.values():
            raise HubError(
                403, f"You don't have the rights to create a model under the namespace {namespace!r}"
            )
        return user

    def is_visible(self, repository: ModelRepository, user: str | None) -> bool:
        """Tell whether the caller may know that the repository exists."""
        return not repository.settings.private or self.may_change(repository, user)

    def may_change(self, repository: ModelRepository, user: str | None) -> bool:
        """Tell whether the repository is the caller's, or everyone's."""
        if self._tokens is None:
            return True
        return user is not None and repository.settings.owner in (None, user)

    def readable(self, request: Request, repo_id: str) -> ModelRepository:
        """Return a repository the caller may see; one they may not is as good as missing."""
        user = self.user(request)
        repository = self._store.get(repo_id)
        if repository is None or not self.is_visible(repository, user):
            # As the real Hub does: to the anonymous, a missing repository may be a private one.
            raise repository_not_found(repo_id, status=401 if user is None else 404)
        return repository

    def downloadable(self, request: Request, repo_id: str) -> ModelRepository:
        """Return a repository the caller may download from; ``GatedRepo`` if it is behind a gate."""
        repository = self.readable(request, repo_id)
        user = self.user(request)
        if repository.settings.gated and not self.may_change(repository, user):
            raise HubError(
                401 if user is None else 403,
                f"Access to model {repo_id} is restricted and you are not in the authorized list.",
                "GatedRepo",
            )
        return repository

    def writable(self, request: Request, repo_id: str) -> tuple[ModelRepository, str]:
        """Return a repository the caller may change, and who they are; else 401, 403 or 404."""
        user = self.writer(request)
        repository = self.readable(request, repo_id)
        if not self.may_change(repository, user):
            raise HubError(403, f"{user} may not change {repo_id}, it belongs to {repository.settings.owner}")
        return repository, user

"""What every route has at hand, and how it reads a request and pages an answer."""

import json
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar, cast
from urllib.parse import parse_qsl, unquote, urlencode

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from cosemzoo.localhub.access import Access
from cosemzoo.localhub.errors import bad_request
from cosemzoo.localhub.ledger import Ledger
from cosemzoo.localhub.store import RepositoryStore
from cosemzoo.localhub.tickets import UploadTickets

_T = TypeVar("_T")


@dataclass(frozen=True)
class Context:
    """The parts of the running Hub."""

    store: RepositoryStore
    access: Access
    tickets: UploadTickets
    ledger: Ledger


def context(request: Request) -> Context:
    """Return the parts of the Hub that got this request."""
    return cast("Context", request.app.state.context)


def base_url(request: Request) -> str:
    """Return the Hub's address as this client sees it."""
    return f"http://{request.headers['host']}"


def repo_id(request: Request) -> str:
    """Return the repository id in the route."""
    return f"{parameter(request, 'namespace')}/{parameter(request, 'name')}"


def parameter(request: Request, name: str) -> str:
    """Return a part of the route, unquoted: routes are matched on the raw path."""
    return unquote(request.path_params[name])


def flag(request: Request, name: str) -> bool:
    """Return a boolean of the query; the client writes them in several ways."""
    return request.query_params.get(name, "").lower() in {"1", "true"}


def with_body(handler: Callable[[Request, bytes], Response]) -> Callable[[Request], Awaitable[Response]]:
    """Make a route of a function of a request and its whole body; it runs in a worker thread."""

    async def endpoint(request: Request) -> Response:
        return await run_in_threadpool(handler, request, await request.body())

    return endpoint


class Fields:
    """The fields of a JSON object that a client sent.

    Raises
    ------
    HubError
        400, from the constructor if it is no object, from a method if a field is missing or of another type.
    """

    def __init__(self, body: bytes | dict[str, Any]) -> None:
        if isinstance(body, bytes):
            try:
                body = json.loads(body)
            except ValueError as error:
                raise bad_request(f"The request body is not JSON: {error}") from error
        if not isinstance(body, dict):
            raise bad_request("The request body is not a JSON object.")
        self._values = body

    def get(self, name: str, kind: type[_T], default: _T | None = None) -> _T:
        """Return a field of a type; a missing or null one is ``default``, an error without."""
        value = self._values.get(name)
        if value is None:
            value = default
        if not isinstance(value, kind):
            raise bad_request(f"The field {name!r} must be {kind.__name__}, not {value!r}.")
        return value

    def optional(self, name: str, kind: type[_T]) -> _T | None:
        """Return a field of a type, None if it is missing or null."""
        return None if self._values.get(name) is None else self.get(name, kind)

    def objects(self, name: str) -> list["Fields"]:
        """Return a field that is a list of JSON objects."""
        return [Fields(item) for item in self.get(name, list)]


def page(
    request: Request, path: str, items: Sequence[_T], size: int, render: Callable[[_T], Any]
) -> JSONResponse:
    """Answer with one page of ``items`` and a ``Link`` to the next.

    Parameters
    ----------
    request
        Its query says where the page starts.
    path
        Where the next page is asked for. With a commit in place of a branch, pages fit together even if the
        branch moves between them.
    items
        Everything that was asked for, in order.
    size
        The length of a page.
    render
        Makes the JSON of an item.
    """
    try:
        start = max(int(request.query_params.get("cursor", "0")), 0)
    except ValueError as error:
        raise bad_request("The cursor is not one that this Hub gave out.") from error
    headers = {}
    if start + size < len(items):
        query = [(key, value) for key, value in parse_qsl(request.url.query) if key != "cursor"]
        url = f"{base_url(request)}{path}?{urlencode([*query, ('cursor', start + size)])}"
        headers["Link"] = f'<{url}>; rel="next"'
    return JSONResponse([render(item) for item in items[start : start + size]], headers=headers)

"""The Hub as one ASGI application."""

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from cosemzoo.localhub.api import commits, files, models, revisions
from cosemzoo.localhub.api.context import Context, context
from cosemzoo.localhub.errors import HubError
from cosemzoo.localhub.gateway import STATS_PATH


def application(parts: Context) -> Starlette:
    """Return the application that answers the Hub's requests. It expects the raw path as the path."""
    app = Starlette(
        routes=[
            Route(STATS_PATH, stats),
            Route("/api/whoami-v2", whoami),
            *revisions.ROUTES,
            *commits.ROUTES,
            *models.ROUTES,
            *files.ROUTES,
        ],
        exception_handlers={
            HubError: _hub_error,
            HTTPException: _http_error,
            ClientDisconnect: _nobody_listens,
        },
    )
    app.router.redirect_slashes = False
    app.state.context = parts
    return app


def stats(request: Request) -> Response:
    """Report what was counted, for a Hub in another process. Not itself counted."""
    return JSONResponse(context(request).ledger.counters())


def whoami(request: Request) -> Response:
    """``whoami``."""
    user = context(request).access.writer(request)
    token = {"displayName": "localhub", "role": "write"}
    return JSONResponse(
        {
            "type": "user",
            "id": user,
            "name": user,
            "fullname": user,
            "orgs": [],
            "auth": {"type": "access_token", "accessToken": token},
        }
    )


def _hub_error(_: Request, error: Exception) -> Response:
    assert isinstance(error, HubError)
    return _error(error)


def _http_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    message = f"The local Hub does not offer {request.method} {request.url.path}"
    return _error(HubError(error.status_code, message))


def _nobody_listens(_: Request, error: Exception) -> Response:
    assert isinstance(error, ClientDisconnect)
    return Response(status_code=400)


def _error(error: HubError) -> Response:
    # A header holds one line of plain characters; what does not fit there is whole in the body.
    line = "".join(letter if " " <= letter <= "~" else "?" for letter in error.message).strip()
    headers = {"X-Error-Message": line}
    if error.code:
        headers["X-Error-Code"] = error.code
    body = {"error": error.message, **error.body}
    return JSONResponse(body, status_code=error.status, headers=headers | error.headers)

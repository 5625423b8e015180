"""Repositories as wholes: create, delete, settings, information, listing and search."""

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

from dulwich.objects import ObjectID
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from cosemzoo.localhub import card
from cosemzoo.localhub.api.context import Fields, base_url, context, flag, page, parameter, repo_id, with_body
from cosemzoo.localhub.errors import HubError, bad_request, repository_not_found
from cosemzoo.localhub.gitrepo import MAIN
from cosemzoo.localhub.names import check_repo_id
from cosemzoo.localhub.repository import Gate, ModelRepository, iso_time
from cosemzoo.localhub.trees import File, walk

_PAGE = 1000
_SORTS = ("lastModified", "createdAt")


def create(request: Request, body: bytes) -> Response:
    """``create_repo``."""
    fields = Fields(body)
    access = context(request).access
    user = access.writer(request)
    new_id = _named_repository(fields, user)
    namespace, _ = check_repo_id(new_id).split("/")
    private = fields.get("visibility", str, "public") == "private" or fields.get(
        "private", bool, default=False
    )
    url = f"{base_url(request)}/{new_id}"
    try:
        owner = access.owner_of_new(namespace, user)
        context(request).store.create(new_id, owner, user, private=private)
    except HubError as error:
        if error.status == 409:
            error.body["url"] = url
        raise
    return JSONResponse({"url": url, "name": new_id})


def delete(request: Request, body: bytes) -> Response:
    """``delete_repo``."""
    access = context(request).access
    repository, _ = access.writable(request, _named_repository(Fields(body), access.writer(request)))
    context(request).store.delete(repository.id)
    return JSONResponse({})


def change_settings(request: Request, body: bytes) -> Response:
    """``update_repo_settings``."""
    repository, _ = context(request).access.writable(request, repo_id(request))
    fields = Fields(body)
    changes: dict[str, Any] = {}
    if (visibility := fields.optional("visibility", str)) is not None:
        if visibility not in {"public", "private"}:
            raise bad_request(f"A model is public or private, not {visibility!r}.")
        changes["private"] = visibility == "private"
    if (private := fields.optional("private", bool)) is not None:
        changes["private"] = private
    if (gated := fields.optional("gated", object)) is not None:
        changes["gated"] = _gate(gated)
    repository.change_settings(**changes)
    return JSONResponse({})


def info(request: Request) -> Response:
    """``model_info``, ``repo_exists``, ``revision_exists``, ``resolve_revision``."""
    repository = context(request).access.readable(request, repo_id(request))
    revision = parameter(request, "revision") if "revision" in request.path_params else MAIN
    commit = repository.git.resolve(revision)
    return JSONResponse(_information(repository, commit, blobs=flag(request, "blobs")))


def list_models(request: Request) -> Response:
    """``list_models``."""
    access, query = context(request).access, request.query_params
    user = access.user(request)
    found = [
        (repository, summary)
        for repository in context(request).store.all()
        if access.is_visible(repository, user)
        and _is_by(repository, query.get("author"))
        and query.get("search", "").lower() in repository.id.lower()
        and (summary := _summary(repository, repository.git.resolve(MAIN)))
        and set(query.getlist("filter")) <= set(summary["tags"])
    ]
    if (sort := query.get("sort")) is not None:
        if sort not in _SORTS:
            raise bad_request(f"Models are sorted by one of {', '.join(_SORTS)}, not by {sort!r}.")
        found.sort(key=lambda each: str(each[1][sort]), reverse=True)
    try:
        size = min(int(query.get("limit", _PAGE)), _PAGE)
    except ValueError as error:
        raise bad_request("The limit is not a number.") from error
    return page(request, "/api/models", found, max(size, 1), _listing(request))


def list_owned(request: Request) -> Response:
    """``list_user_repos``: what the caller may change, and the space it takes."""
    access = context(request).access
    user = access.writer(request)
    found = [repository for repository in context(request).store.all() if access.may_change(repository, user)]
    return page(request, "/api/settings/repositories", found, _PAGE, _storage)


def validate_card(_: Request, body: bytes) -> Response:
    """Check a model card before it is committed, as the client does."""
    try:
        data = card.metadata(Fields(body).get("content", str))
    except card.CardError as error:
        return JSONResponse({"errors": [{"message": str(error)}], "warnings": []}, status_code=400)
    empty = {"message": "empty or missing yaml metadata in repo card"}
    return JSONResponse({"errors": [], "warnings": [] if data else [empty]})


def other_kinds(request: Request) -> Response:
    """Say of data sets, spaces and ids without a namespace that they do not exist: models only."""
    raise repository_not_found(request.url.path)


def _listing(request: Request) -> Callable[[tuple[ModelRepository, dict[str, Any]]], dict[str, Any]]:
    full, with_card = flag(request, "full"), flag(request, "cardData")

    def render(found: tuple[ModelRepository, dict[str, Any]]) -> dict[str, Any]:
        repository, summary = found
        if not (full or with_card):
            del summary["cardData"]
        if full:
            commit = repository.git.resolve(summary["sha"])
            summary["siblings"] = _siblings(repository, commit, blobs=False)
        return summary

    return render


def _named_repository(fields: Fields, user: str) -> str:
    kind = fields.get("type", str, "model")
    if kind != "model":
        raise bad_request(f"The local Hub holds models only, not {kind!r}.")
    return f"{fields.optional('organization', str) or user}/{fields.get('name', str)}"


def _gate(value: object) -> Gate:
    match value:
        case "auto":
            return "auto"
        case "manual":
            return "manual"
        case False:
            return False
    raise bad_request(f"A repository is gated 'auto', 'manual' or false, not {value!r}.")


def _is_by(repository: ModelRepository, author: str | None) -> bool:
    return author is None or repository.id.split("/")[0] == author


def _information(repository: ModelRepository, commit: ObjectID, *, blobs: bool) -> dict[str, Any]:
    return {**_summary(repository, commit), "siblings": _siblings(repository, commit, blobs=blobs)}


def _summary(repository: ModelRepository, commit: ObjectID) -> dict[str, Any]:
    try:
        data = card.metadata(repository.read_small(commit, "README.md").decode(errors="replace"))
    except card.CardError:
        data = {}  # the real Hub, too, shows a model whose card is broken as one without metadata
    modified = datetime.fromtimestamp(repository.git.commit(commit).commit_time, UTC)
    return {
        "_id": repository.id,
        "id": repository.id,
        "modelId": repository.id,
        "author": repository.id.split("/")[0],
        "sha": commit.decode(),
        "lastModified": iso_time(modified),
        "createdAt": repository.settings.created_at,
        "private": repository.settings.private,
        "gated": repository.settings.gated,
        "disabled": False,
        "downloads": 0,
        "likes": 0,
        "tags": card.tags(data),
        "cardData": card.as_json(data),
        **{key: data[key] for key in ("library_name", "pipeline_tag") if isinstance(data.get(key), str)},
    }


def _storage(repository: ModelRepository) -> dict[str, Any]:
    summary = _summary(repository, repository.git.resolve(MAIN))
    return {
        "id": repository.id,
        "type": "model",
        "updatedAt": summary["lastModified"],
        "visibility": "private" if repository.settings.private else "public",
        "storage": repository.bytes_on_disk(),
    }


def _siblings(repository: ModelRepository, commit: ObjectID, *, blobs: bool) -> list[dict[str, Any]]:
    tree = repository.git.commit(commit).tree
    files = [entry for entry in walk(repository.git, tree, recursive=True) if isinstance(entry, File)]
    return [_sibling(file, blobs=blobs) for file in files]


def _sibling(file: File, *, blobs: bool) -> dict[str, Any]:
    sibling: dict[str, Any] = {"rfilename": file.path}
    if blobs:
        sibling |= {"size": file.size, "blobId": file.oid.decode()}
        if file.pointer:
            sibling["lfs"] = {
                "sha256": file.pointer.sha256,
                "size": file.pointer.size,
                "pointerSize": file.pointer_size,
            }
    return sibling


ROUTES = [
    Route("/api/models", list_models),
    Route("/api/models/{namespace}/{name}", info),
    Route("/api/models/{namespace}/{name}/revision/{revision}", info),
    Route("/api/models/{namespace}/{name}/settings", with_body(change_settings), methods=["PUT"]),
    Route("/api/settings/repositories", list_owned),
    Route("/api/repos/create", with_body(create), methods=["POST"]),
    Route("/api/repos/delete", with_body(delete), methods=["DELETE"]),
    Route("/api/validate-yaml", with_body(validate_card), methods=["POST"]),
    Route("/api/models/{name}", other_kinds),
    Route("/api/datasets/{rest:path}", other_kinds),
    Route("/api/spaces/{rest:path}", other_kinds),
]

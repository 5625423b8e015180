"""Branches and tags, and what a revision holds: tree, paths, commits."""

from datetime import UTC, datetime
from typing import Any
from urllib.parse import parse_qs, quote

from dulwich.objects import Commit, ObjectID
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from cosemzoo.localhub.api.context import Fields, context, flag, page, parameter, repo_id, with_body
from cosemzoo.localhub.errors import entry_not_found
from cosemzoo.localhub.gitrepo import MAIN, GitRepository, RefKind
from cosemzoo.localhub.repository import iso_time
from cosemzoo.localhub.trees import File, Folder, find, last_changes, walk

_PAGE = 1000
_EXPANDED_PAGE = 50


def list_refs(request: Request) -> Response:
    """``list_repo_refs``."""
    git = context(request).access.readable(request, repo_id(request)).git
    answer: dict[str, Any] = {
        "branches": _refs(git, "branch", "refs/heads"),
        "converts": [],
        "tags": _refs(git, "tag", "refs/tags"),
    }
    if flag(request, "include_prs"):
        answer["pullRequests"] = []
    return JSONResponse(answer)


def create_branch(request: Request, body: bytes) -> Response:
    """``create_branch``."""
    repository, _ = context(request).access.writable(request, repo_id(request))
    start = repository.git.resolve(Fields(body or b"{}").get("startingPoint", str, MAIN))
    repository.git.create_ref("branch", parameter(request, "revision"), start)
    return JSONResponse({})


def create_tag(request: Request, body: bytes) -> Response:
    """``create_tag``: an annotated tag if it has a message."""
    repository, user = context(request).access.writable(request, repo_id(request))
    fields = Fields(body)
    target = repository.git.resolve(parameter(request, "revision"))
    name, message = fields.get("tag", str), fields.optional("message", str)
    repository.git.create_tag(name, target, message, user)
    return JSONResponse({})


def delete_branch(request: Request) -> Response:
    """``delete_branch``."""
    return _delete_ref(request, "branch")


def delete_tag(request: Request) -> Response:
    """``delete_tag``."""
    return _delete_ref(request, "tag")


def tree(request: Request) -> Response:
    """``list_repo_tree``."""
    repository = context(request).access.readable(request, repo_id(request))
    git, commit = repository.git, repository.git.resolve(parameter(request, "revision"))
    path = parameter(request, "path").strip("/") if "path" in request.path_params else ""
    folder = find(git, commit, path)
    if not isinstance(folder, Folder):
        raise entry_not_found(path, commit.decode())
    prefix = f"{path}/" if path else ""
    entries = list(walk(git, folder.oid, prefix, recursive=flag(request, "recursive")))
    expand = flag(request, "expand")
    here = f"/api/models/{repository.id}/tree/{commit.decode()}"
    if path:
        here += f"/{quote(path, safe='')}"
    return page(
        request, here, entries, _EXPANDED_PAGE if expand else _PAGE, _Renderer(git, commit, expand=expand)
    )


def paths_info(request: Request, body: bytes) -> Response:
    """``get_paths_info``: what is at the given paths; what is not there is left out."""
    repository = context(request).access.readable(request, repo_id(request))
    git, commit = repository.git, repository.git.resolve(parameter(request, "revision"))
    form = parse_qs(body.decode(errors="replace"))
    expand = form.get("expand", ["false"])[0].lower() in {"1", "true"}
    render = _Renderer(git, commit, expand=expand)
    found = [find(git, commit, path.strip("/")) for path in form.get("paths", [])]
    return JSONResponse([render(entry) for entry in found if entry is not None])


def commits(request: Request) -> Response:
    """``list_repo_commits``."""
    repository = context(request).access.readable(request, repo_id(request))
    commit = repository.git.resolve(parameter(request, "revision"))
    here = f"/api/models/{repository.id}/commits/{commit.decode()}"
    return page(request, here, list(repository.git.history(commit)), _PAGE, _commit_json)


def _delete_ref(request: Request, kind: RefKind) -> Response:
    repository, _ = context(request).access.writable(request, repo_id(request))
    repository.git.delete_ref(kind, parameter(request, "revision"))
    return JSONResponse({})


def _refs(git: GitRepository, kind: RefKind, namespace: str) -> list[dict[str, str]]:
    return [
        {"name": name, "ref": f"{namespace}/{name}", "targetCommit": commit.decode()}
        for name, commit in git.refs(kind).items()
    ]


class _Renderer:
    """Makes the JSON of files and folders; looks their last commits up only when that is asked for."""

    def __init__(self, git: GitRepository, commit: ObjectID, *, expand: bool) -> None:
        self._last = last_changes(git, commit) if expand else {}

    def __call__(self, entry: File | Folder) -> dict[str, Any]:
        is_file = isinstance(entry, File)
        rendered: dict[str, Any] = {
            "type": "file" if is_file else "directory",
            "oid": entry.oid.decode(),
            "size": entry.size if isinstance(entry, File) else 0,
            "path": entry.path,
        }
        if isinstance(entry, File) and entry.pointer:
            rendered["lfs"] = {
                "oid": entry.pointer.sha256,
                "size": entry.pointer.size,
                "pointerSize": entry.pointer_size,
            }
        if entry.path in self._last:
            commit = _commit_json(self._last[entry.path])
            rendered["lastCommit"] = {key: commit[key] for key in ("id", "title", "date")}
        return rendered


def _commit_json(commit: Commit) -> dict[str, Any]:
    title, _, message = commit.message.decode(errors="replace").partition("\n\n")
    author = commit.author.decode(errors="replace").partition(" <")[0]
    return {
        "id": commit.id.decode(),
        "title": title,
        "message": message,
        "date": iso_time(datetime.fromtimestamp(commit.commit_time, UTC)),
        "authors": [{"user": author}],
    }


_REPOSITORY = "/api/models/{namespace}/{name}"

ROUTES = [
    Route(f"{_REPOSITORY}/refs", list_refs),
    Route(f"{_REPOSITORY}/branch/{{revision}}", with_body(create_branch), methods=["POST"]),
    Route(f"{_REPOSITORY}/branch/{{revision}}", delete_branch, methods=["DELETE"]),
    Route(f"{_REPOSITORY}/tag/{{revision}}", with_body(create_tag), methods=["POST"]),
    Route(f"{_REPOSITORY}/tag/{{revision}}", delete_tag, methods=["DELETE"]),
    Route(f"{_REPOSITORY}/tree/{{revision}}", tree),
    Route(f"{_REPOSITORY}/tree/{{revision}}/{{path:path}}", tree),
    Route(f"{_REPOSITORY}/paths-info/{{revision}}", with_body(paths_info), methods=["POST"]),
    Route(f"{_REPOSITORY}/commits/{{revision}}", commits),
]

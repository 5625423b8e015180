"""How files get in: which go to LFS, the upload of those, and the commit."""

from typing import Any

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from cosemzoo.localhub.api.context import Fields, base_url, context, flag, parameter, repo_id, with_body
from cosemzoo.localhub.attributes import LfsRules, is_ignored
from cosemzoo.localhub.commits import CommitRequest, apply
from cosemzoo.localhub.errors import HubError, bad_request, repository_not_found
from cosemzoo.localhub.lfs import check_oid
from cosemzoo.localhub.names import check_path
from cosemzoo.localhub.trees import File, find

_LFS_JSON = "application/vnd.git-lfs+json"
_WRITE_BYTES = 1024 * 1024


def preupload(request: Request, body: bytes) -> Response:
    """Say of each file whether it goes to LFS, is ignored, or is there already."""
    repository, _ = context(request).access.writable(request, repo_id(request))
    commit = repository.git.resolve(parameter(request, "revision"))
    fields = Fields(body)
    rules = LfsRules(repository.read_small(commit, ".gitattributes"))
    sent_ignore = fields.optional("gitIgnore", str)
    ignore = (
        repository.read_small(commit, ".gitignore")
        if sent_ignore is None
        else sent_ignore.encode(errors="replace")
    )

    def answer(file: Fields) -> dict[str, Any]:
        path, size = check_path(file.get("path", str)), file.get("size", int)
        mode = "lfs" if rules.is_lfs(path, size) else "regular"
        there = find(repository.git, commit, path)
        same_mode = isinstance(there, File) and (there.pointer is not None) == (mode == "lfs")
        return {
            "path": path,
            "uploadMode": mode,
            "shouldIgnore": is_ignored(path, ignore),
            "oid": there.etag if isinstance(there, File) and same_mode else None,
        }

    return JSONResponse({"files": [answer(file) for file in fields.objects("files")]})


def commit(request: Request, body: bytes) -> Response:
    """``create_commit``, and the last step of every upload."""
    repository, user = context(request).access.writable(request, repo_id(request))
    if flag(request, "create_pr"):
        raise bad_request("The local Hub has no pull requests: commit to a branch.")
    branch = parameter(request, "revision")
    oid = apply(repository.git, repository.lfs, branch, CommitRequest.parse(body), user).decode()
    return JSONResponse({"commitUrl": f"{base_url(request)}/{repository.id}/commit/{oid}", "commitOid": oid})


def lfs_batch(request: Request, body: bytes) -> Response:
    """Say where to upload each LFS object; nowhere if it is stored already."""
    repository, _ = context(request).access.writable(request, repo_id(request))
    fields = Fields(body)
    if fields.get("operation", str) != "upload":
        raise bad_request("The local Hub's LFS endpoint is for uploads; files are downloaded from /resolve/.")
    lfs_url = f"{base_url(request)}/{repository.id}.git/info/lfs"

    def answer(item: Fields) -> dict[str, Any]:
        oid, size = check_oid(item.get("oid", str)), item.get("size", int)
        described: dict[str, Any] = {"oid": oid, "size": size}
        if repository.lfs.size(oid) is None:
            ticket = context(request).tickets.issue(repository.id, oid, size)
            described["actions"] = {
                "upload": {"href": f"{lfs_url}/objects/{oid}?{ticket}"},
                "verify": {"href": f"{lfs_url}/verify"},
            }
        return described

    objects = [answer(item) for item in fields.objects("objects")]
    return JSONResponse({"transfer": "basic", "objects": objects}, media_type=_LFS_JSON)


async def lfs_upload(request: Request) -> Response:
    """Take one LFS object. It is acknowledged once it is checked and durable."""
    hub, oid = context(request), check_oid(parameter(request, "oid"))
    size = hub.tickets.check(repo_id(request), oid, request.query_params)
    repository = hub.store.get(repo_id(request))
    if repository is None:
        raise repository_not_found(repo_id(request))
    with repository.lfs.receive(oid, size) as upload:
        waiting = bytearray()
        async for chunk in request.stream():
            waiting += chunk
            if len(waiting) >= _WRITE_BYTES:
                await run_in_threadpool(upload.write, bytes(waiting))
                waiting.clear()
        await run_in_threadpool(upload.write, bytes(waiting))
        await run_in_threadpool(upload.finish)
    return Response()


def lfs_verify(request: Request, body: bytes) -> Response:
    """Confirm that an LFS object has arrived."""
    repository, _ = context(request).access.writable(request, repo_id(request))
    fields = Fields(body)
    oid, size = check_oid(fields.get("oid", str)), fields.get("size", int)
    if repository.lfs.size(oid) != size:
        raise HubError(404, f"The LFS object {oid} with {size} bytes has not arrived.")
    return JSONResponse({"oid": oid, "size": size}, media_type=_LFS_JSON)


ROUTES = [
    Route("/api/models/{namespace}/{name}/preupload/{revision}", with_body(preupload), methods=["POST"]),
    Route("/api/models/{namespace}/{name}/commit/{revision}", with_body(commit), methods=["POST"]),
    Route("/{namespace}/{name}.git/info/lfs/objects/batch", with_body(lfs_batch), methods=["POST"]),
    Route("/{namespace}/{name}.git/info/lfs/objects/{oid}", lfs_upload, methods=["PUT"]),
    Route("/{namespace}/{name}.git/info/lfs/verify", with_body(lfs_verify), methods=["POST"]),
]

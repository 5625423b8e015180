"""Uploads to LFS: checked, permitted by a link, streamed."""

import hashlib
import http.client
import itertools
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import HfApi

from cosemzoo.localhub import LocalHub
from cosemzoo.localhub.lfs import Pointer

CONTENT = b"weights"
OID = hashlib.sha256(CONTENT).hexdigest()


@pytest.fixture
def link(raw: Callable[..., Any], repo: str) -> str:
    """Where the Hub says that CONTENT is to be uploaded."""
    batch = {"operation": "upload", "objects": [{"oid": OID, "size": len(CONTENT)}]}
    answer = raw("POST", f"/{repo}.git/info/lfs/objects/batch", json.dumps(batch).encode())
    href: str = json.loads(answer.body)["objects"][0]["actions"]["upload"]["href"]
    return "/" + href.partition("://")[2].partition("/")[2]


def _stored(root: Path) -> list[str]:
    return [path.name for path in root.rglob("lfs/objects/*/*/*")]


def test_an_upload_is_stored_under_its_sha256(raw: Callable[..., Any], root: Path, link: str) -> None:
    assert raw("PUT", link, CONTENT).status == 200
    assert _stored(root) == [OID]


@pytest.mark.parametrize(
    ("body", "problem"),
    [(b"weighty", "has SHA-256"), (b"weight", "has 6 bytes"), (b"weights!", "larger than the announced 7")],
)
def test_an_upload_that_is_not_what_it_was_announced_as_is_not_acknowledged_and_leaves_nothing(
    raw: Callable[..., Any], root: Path, link: str, body: bytes, problem: str
) -> None:
    answer = raw("PUT", link, body)
    assert answer.status == 400
    assert problem in json.loads(answer.body)["error"]
    assert _stored(root) == []
    assert list(root.glob("models/*/*/scratch/*")) == []


def test_an_upload_broken_off_leaves_nothing_and_is_no_error(
    hub: LocalHub, root: Path, link: str, caplog: pytest.LogCaptureFixture
) -> None:
    connection = http.client.HTTPConnection(hub.endpoint.removeprefix("http://"), timeout=30)
    connection.putrequest("PUT", link)
    connection.putheader("Content-Length", str(len(CONTENT)))
    connection.endheaders(CONTENT[:3])
    connection.close()
    hub.stop()
    assert _stored(root) == []
    assert list(root.glob("models/*/*/scratch/*")) == []
    assert [record for record in caplog.records if record.name.startswith("uvicorn")] == []


def test_a_link_permits_one_object_in_one_repository_for_an_hour(
    raw: Callable[..., Any], root: Path, link: str, api: HfApi, monkeypatch: pytest.MonkeyPatch
) -> None:
    api.create_repo("cosem/other")
    forged = [
        link.partition("?")[0],
        link.replace("cosem/setup04", "cosem/other"),
        link.replace(OID, "0" * 64),
        link.replace("size=7", "size=8"),
        link.replace("expires=", "expires=9"),
        link[:-1] + ("0" if link[-1] != "0" else "1"),
    ]
    for path in forged:
        assert raw("PUT", path, CONTENT).status == 403
    now = time.time()
    monkeypatch.setattr(time, "time", lambda: now + 3601)
    answer = raw("PUT", link, CONTENT)
    assert answer.status == 403
    assert b"expired" in answer.body
    assert _stored(root) == []


def test_what_is_stored_needs_no_upload_and_other_repositories_do_not_see_it(
    raw: Callable[..., Any], link: str, api: HfApi, repo: str
) -> None:
    raw("PUT", link, CONTENT)
    api.create_repo("cosem/other")
    batch = json.dumps({"operation": "upload", "objects": [{"oid": OID, "size": len(CONTENT)}]}).encode()

    def has_actions(repo_id: str) -> bool:
        answer = raw("POST", f"/{repo_id}.git/info/lfs/objects/batch", batch)
        return "actions" in json.loads(answer.body)["objects"][0]

    assert not has_actions(repo)
    assert has_actions("cosem/other")


def test_verify_confirms_only_what_has_arrived(raw: Callable[..., Any], link: str, repo: str) -> None:
    question = json.dumps({"oid": OID, "size": len(CONTENT)}).encode()
    assert raw("POST", f"/{repo}.git/info/lfs/verify", question).status == 404
    raw("PUT", link, CONTENT)
    assert raw("POST", f"/{repo}.git/info/lfs/verify", question).status == 200


@pytest.mark.parametrize(
    "body",
    [
        b"[]", b"{}", b"\xff", b'{"operation": "download", "objects": []}', b'{"operation": "upload"}',
        b'{"operation": "upload", "objects": [3]}',
        b'{"operation": "upload", "objects": [{"oid": "x", "size": 1}]}',
        b'{"operation": "upload", "objects": [{"oid": "%b", "size": "1"}]}' % OID.encode(),
    ],
)  # fmt: skip
def test_a_malformed_batch_is_a_bad_request(raw: Callable[..., Any], repo: str, body: bytes) -> None:
    assert raw("POST", f"/{repo}.git/info/lfs/objects/batch", body).status == 400


def test_a_pointer_is_read_back_as_it_was_written() -> None:
    pointer = Pointer(OID, 7)
    assert Pointer.decode(pointer.encode()) == pointer
    assert Pointer.decode(pointer.encode() + b"\n") is None


_MEMORY_SERVER = """
import resource, sys
from pathlib import Path
from cosemzoo.localhub import serve
serve(Path(sys.argv[1]), "127.0.0.1", 0, None, lambda endpoint: print(endpoint, flush=True))
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, flush=True)
"""


def test_a_large_file_goes_in_and_out_in_little_memory(tmp_path: Path) -> None:
    size, block = 200_000_000, os.urandom(1_000_000)
    content = hashlib.sha256()
    for _ in range(size // len(block)):
        content.update(block)
    oid = content.hexdigest()

    def peak(transfer: bool) -> int:
        command = [sys.executable, "-c", _MEMORY_SERVER, str(tmp_path / f"root-{transfer}")]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
            assert server.stdout is not None
            endpoint = server.stdout.readline().strip()
            api = HfApi(endpoint=endpoint, token=False)
            api.create_repo("a/b")
            if transfer:
                _send_and_fetch(endpoint, oid, size, block)
            server.terminate()
            return int(server.stdout.read()) * 1024

    assert peak(transfer=True) - peak(transfer=False) < 40_000_000


def _send_and_fetch(endpoint: str, oid: str, size: int, block: bytes) -> None:
    connection = http.client.HTTPConnection(endpoint.removeprefix("http://"), timeout=60)

    def request(method: str, path: str, body: Any = None, length: int | None = None) -> bytes:
        connection.request(method, path, body, {} if length is None else {"Content-Length": str(length)})
        response = connection.getresponse()
        assert response.status == 200
        return response.read()

    batch = json.dumps({"operation": "upload", "objects": [{"oid": oid, "size": size}]}).encode()
    (described,) = json.loads(request("POST", "/a/b.git/info/lfs/objects/batch", batch))["objects"]
    link = described["actions"]["upload"]["href"].removeprefix(endpoint)
    request("PUT", link, itertools.repeat(block, size // len(block)), size)
    lines = [
        {"key": "header", "value": {"summary": "large"}},
        {"key": "lfsFile", "value": {"path": "w.bin", "oid": oid, "size": size}},
    ]
    request("POST", "/api/models/a/b/commit/main", b"\n".join(json.dumps(line).encode() for line in lines))
    assert hashlib.sha256(request("GET", "/a/b/resolve/main/w.bin")).hexdigest() == oid
    connection.close()

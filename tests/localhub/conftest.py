"""A running Hub for each test, the real client, and a way to send what the client never would."""

import http.client
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import huggingface_hub.constants
import pytest
from huggingface_hub import CommitOperationAdd, HfApi

from cosemzoo.localhub import LocalHub


@dataclass(frozen=True)
class Answer:
    """A raw HTTP answer."""

    status: int
    headers: Mapping[str, str]
    body: bytes


@pytest.fixture(autouse=True)
def _client_without_xet(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_DISABLE_XET", True)
    # The client itself sends LFS content in a way that its HTTP library calls deprecated.
    warnings.filterwarnings("ignore", message="Use 'content=<...>'", category=DeprecationWarning)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "root"


@pytest.fixture
def hub(root: Path) -> Iterator[LocalHub]:
    with LocalHub(root) as running:
        yield running


@pytest.fixture
def api(hub: LocalHub) -> HfApi:
    return HfApi(endpoint=hub.endpoint, token=False)


@pytest.fixture
def repo(api: HfApi) -> str:
    api.create_repo("cosem/setup04")
    return "cosem/setup04"


@pytest.fixture
def commit(api: HfApi, repo: str) -> Callable[..., str]:
    """Commit files by path, and return the commit id."""

    def put(files: Mapping[str, bytes], message: str = "add files", **arguments: Any) -> str:
        operations = [CommitOperationAdd(path, content) for path, content in files.items()]
        oid: str = api.create_commit(repo, operations, commit_message=message, **arguments).oid
        return oid

    return put


@pytest.fixture
def raw(hub: LocalHub) -> Callable[..., Answer]:
    """Send a request exactly as written."""

    def send(
        method: str, path: str, body: bytes | None = None, headers: Mapping[str, str] | None = None
    ) -> Answer:
        connection = http.client.HTTPConnection(hub.endpoint.removeprefix("http://"), timeout=30)
        try:
            connection.request(method, path, body, dict(headers or {}))
            response = connection.getresponse()
            return Answer(response.status, dict(response.getheaders()), response.read())
        finally:
            connection.close()

    return send

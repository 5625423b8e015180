"""Servers that are no Hub, and proxies that leave out what a Hub says."""

import http.client
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from http.server import BaseHTTPRequestHandler, SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from cosemzoo.errors import HubUnavailable, PublicationFailed, StaleAnswer
from cosemzoo.localhub import LocalHub
from cosemzoo.publishing import publish
from cosemzoo.zoo import Zoo


class _Forwarding(BaseHTTPRequestHandler):
    """Forwards to a Hub, and leaves the ETag out of its answers."""

    def __init__(self, hub: str, *arguments: Any) -> None:
        self._hub = hub
        super().__init__(*arguments)

    def _forward(self) -> None:
        connection = http.client.HTTPConnection(urlsplit(self._hub).netloc)
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        headers = {name: value for name, value in self.headers.items() if name.lower() != "host"}
        connection.request(self.command, self.path, body, headers)
        answer = connection.getresponse()
        self.send_response(answer.status)
        for name, value in answer.getheaders():
            if name.lower() not in {"etag", "x-linked-etag", "date", "server", "connection"}:
                self.send_header(name, value)
        self.end_headers()
        self.wfile.write(answer.read())
        connection.close()

    do_GET = do_HEAD = do_POST = do_PUT = do_DELETE = _forward  # noqa: N815 (http.server's names)

    def log_message(self, *_: object) -> None:
        pass


class _Folder(SimpleHTTPRequestHandler):
    """What ``python -m http.server`` serves."""

    def log_message(self, *_: object) -> None:
        pass


@contextmanager
def served(handler: Callable[..., Any]) -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()


@pytest.fixture
def without_etag(hub: LocalHub) -> Iterator[str]:
    """The test's Hub behind a proxy that drops the ETag."""
    with served(partial(_Forwarding, hub.endpoint)) as endpoint:
        yield endpoint


@pytest.fixture
def web_server(tmp_path: Path) -> Iterator[str]:
    """A web server that has never heard of the Hub."""
    (tmp_path / "web").mkdir()
    with served(partial(_Folder, directory=str(tmp_path / "web"))) as endpoint:
        yield endpoint


def test_a_proxy_that_drops_the_etag_does_not_make_a_run_an_ordinary_repository(
    make_zoo: Callable[..., Zoo], run: str, without_etag: str
) -> None:
    with pytest.raises(HubUnavailable, match="no ETag"):
        make_zoo(endpoint=without_etag).resolve("setup04")


def test_a_proxy_that_drops_the_etag_does_not_make_publishing_erase_the_index(
    make_zoo: Callable[..., Zoo], run: str, without_etag: str, write_checkpoint: Callable[..., Path]
) -> None:
    with pytest.raises(PublicationFailed, match="no ETag"):
        publish(
            write_checkpoint(seed=3, iteration=2000000),
            "setup04",
            zoo=make_zoo(endpoint=without_etag),
            aliases=["best"],
            move_aliases=True,
        )
    index = make_zoo().criteria("setup04")
    assert index is not None
    assert {"500000", "1820500"} <= index.criteria.keys()


@pytest.mark.parametrize("reference", ["setup04", f"setup04@{'0' * 40}", "lab/run_1@v1"])
def test_a_web_server_is_not_a_hub_without_the_run(
    make_zoo: Callable[..., Zoo], web_server: str, reference: str
) -> None:
    with pytest.raises(HubUnavailable, match="not a Hub: check HF_ENDPOINT") as caught:
        make_zoo(endpoint=web_server).resolve(reference)
    assert caught.value.status == 404


def test_a_web_server_leaves_the_cached_answer(
    zoo: Zoo, make_zoo: Callable[..., Zoo], run: str, web_server: str
) -> None:
    paths = zoo.fetch("setup04")
    with pytest.warns(StaleAnswer, match="not a Hub"):
        assert make_zoo(endpoint=web_server).fetch("setup04") == paths


def test_a_checkpoint_is_fetched_from_the_hub_it_was_found_on(
    zoo: Zoo, make_zoo: Callable[..., Zoo], run: str, web_server: str
) -> None:
    checkpoint = zoo.resolve("setup04")
    assert checkpoint.endpoint != web_server
    assert make_zoo(endpoint=web_server).fetch(checkpoint)

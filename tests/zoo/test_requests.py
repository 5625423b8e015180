"""What a start costs on the network, counted by the Hub."""

import http.client
import socketserver
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest

from cosemzoo.errors import HubUnavailable, InvalidSafetensors
from cosemzoo.localhub import LocalHub
from cosemzoo.publishing import publish
from cosemzoo.zoo import Zoo

Write = Callable[..., Path]
Asked = Callable[[], list[str]]
HEAD_OF_INDEX = "HEAD /cosemzoo/setup04/resolve/main/criteria.json"
LARGE = 3_000_000

RESOLVE = "from cosemzoo.zoo import Zoo; print(Zoo(token=False).resolve({!r}).commit)"
FETCH = "from cosemzoo.zoo import Zoo; print(len(Zoo(token=False).fetch({!r})))"


def test_a_plan_costs_at_most_eight_requests_and_256_kib(
    hub: LocalHub, zoo: Zoo, write_checkpoint: Write, run_python: Callable[..., str], asked: Asked
) -> None:
    commit = publish(write_checkpoint(padding=LARGE), "setup04", zoo=zoo, aliases=["best"]).commit
    hub.reset_counts()
    assert run_python(RESOLVE.format("setup04")).strip() == commit
    assert hub.bytes_sent <= 256 * 1024
    assert len(asked()) <= 8


def test_nothing_is_downloaded_by_a_name_which_can_move_meanwhile(run: str, zoo: Zoo, asked: Asked) -> None:
    zoo.fetch("setup04@best")
    assert [request for request in asked() if "/resolve/main/" in request] == [HEAD_OF_INDEX]


def test_a_warm_start_by_commit_in_a_fresh_process_asks_nothing(
    run: str, run_python: Callable[..., str], asked: Asked
) -> None:
    run_python(FETCH.format(f"setup04@{run}"))
    asked()
    assert run_python(FETCH.format(f"setup04@{run}")) == "1\n"
    assert asked() == []


def test_a_warm_start_by_name_in_a_fresh_process_asks_once(
    run: str, run_python: Callable[..., str], asked: Asked
) -> None:
    run_python(FETCH.format("setup04@best"))
    asked()
    assert run_python(FETCH.format("setup04@best")) == "1\n"
    assert asked() == [HEAD_OF_INDEX]


def test_sharded_weights_start_as_cheaply_when_warm(
    zoo: Zoo, make_zoo: Callable[..., Zoo], write_checkpoint: Write, asked: Asked
) -> None:
    release = publish(write_checkpoint(files=3), "setup04", zoo=zoo, aliases=["best"])
    zoo.fetch("setup04")
    asked()
    assert len(make_zoo().fetch("setup04")) == 3
    assert asked() == [HEAD_OF_INDEX]
    assert len(make_zoo().fetch(f"setup04@{release.commit}")) == 3
    assert asked() == []


def test_an_index_that_did_not_change_is_not_downloaded_again(
    zoo: Zoo, run: str, commit_files: Callable[..., str], asked: Asked
) -> None:
    zoo.fetch("setup04")
    commit_files("cosemzoo/setup04", {"README.md": b"---\nlicense: cc-by-4.0\n---\nA better card."})
    asked()
    zoo.fetch("setup04")
    assert [request for request in asked() if request.startswith("GET")] == []


def test_a_header_is_read_by_a_range_and_a_longer_one_by_two(
    hub: LocalHub, zoo: Zoo, write_checkpoint: Write
) -> None:
    publish(write_checkpoint(iteration=1, padding=LARGE), "setup04@1", zoo=zoo, aliases=["best"])
    publish(
        write_checkpoint(iteration=2, padding=LARGE, note="x" * 150_000),
        "setup04@2",
        zoo=zoo,
        aliases=["best"],
        move_aliases=True,
    )
    for criterion, ranges in (("1", 1), ("2", 2)):
        hub.reset_counts()
        checkpoint = zoo.resolve(f"setup04@{criterion}")
        assert checkpoint.weights.tensors["backbone.padding"].entry.nbytes == LARGE
        assert len([request for request in hub.requests if request.range]) == ranges
        assert hub.bytes_sent < 256 * 1024


def test_a_header_that_was_cut_is_no_header(hub: LocalHub, zoo: Zoo, write_checkpoint: Write) -> None:
    commit = publish(write_checkpoint(padding=LARGE), "setup04", zoo=zoo, aliases=["best"]).commit
    hub.truncate_next(f"GET /cosemzoo/setup04/resolve/{commit}/model.safetensors", 50)
    with pytest.raises(HubUnavailable):
        zoo.resolve("setup04")


@pytest.mark.parametrize("content", [b"", b"\x80\x02 a pickle in disguise"])
def test_a_file_that_is_no_safetensors_is_refused_before_it_is_downloaded(
    zoo: Zoo, commit_files: Callable[..., str], content: bytes
) -> None:
    commit_files("lab/run_1", {"model.safetensors": content})
    with pytest.raises(InvalidSafetensors):
        zoo.resolve("lab/run_1")
    assert not list(zoo.cache_dir.rglob("model.safetensors"))


class _IgnoringRanges(BaseHTTPRequestHandler):
    """Passes requests on to a Hub, without their ranges, and counts the bytes of its answers."""

    upstream = ""
    sent = 0

    def log_message(self, *_: Any) -> None:
        pass

    def do_HEAD(self) -> None:
        self._pass_on()

    def do_GET(self) -> None:
        self._pass_on()

    def _pass_on(self) -> None:
        connection = http.client.HTTPConnection(self.upstream, timeout=30)
        connection.request(self.command, self.path)
        answer = connection.getresponse()
        self.send_response(answer.status)
        for name, value in answer.getheaders():
            self.send_header(name, value)
        self.end_headers()
        try:
            while piece := answer.read(16 * 1024):
                self.wfile.write(piece)
                type(self).sent += len(piece)
        except ConnectionError:
            self.close_connection = True
        finally:
            connection.close()


@pytest.fixture
def ignoring_ranges(hub: LocalHub) -> Iterator[socketserver.BaseServer]:
    handler = type(
        "Handler", (_IgnoringRanges,), {"upstream": hub.endpoint.removeprefix("http://"), "sent": 0}
    )
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.mark.parametrize("note", ["", "x" * 150_000])
def test_a_server_that_ignores_ranges_is_cut_off(
    zoo: Zoo, make_zoo: Callable[..., Zoo], write_checkpoint: Write, ignoring_ranges: Any, note: str
) -> None:
    size = 60_000_000
    publish(write_checkpoint(padding=size, note=note), "setup04", zoo=zoo, aliases=["best"])
    checkpoint = make_zoo(endpoint=f"http://127.0.0.1:{ignoring_ranges.server_port}").resolve("setup04")
    assert checkpoint.weights.tensors["backbone.padding"].entry.nbytes == size
    # What lies in the buffers of two sockets was sent as well.
    assert ignoring_ranges.RequestHandlerClass.sent < size / 2


def test_the_zoo_needs_no_torch(run_python: Callable[..., str]) -> None:
    assert run_python("import sys, cosemzoo.zoo; print('torch' in sys.modules)") == "False\n"

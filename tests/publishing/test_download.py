"""Downloading a published file, from a real HTTP server on this machine that fails as servers do."""

import json
import multiprocessing
import os
import shutil
import socket
import threading
from collections import namedtuple
from collections.abc import Callable, Iterator, Mapping
from hashlib import sha256
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar

import pytest
from attrs import Factory, define
from huggingface_hub import constants

from cosemzoo.errors import DiskFull, DownloadFailed, InvalidSetting
from cosemzoo.publishing import download as module
from cosemzoo.publishing.download import check_url, download

CONTENT = bytes(range(256)) * 2000
OTHER = CONTENT[::-1]
MODIFIED = "Wed, 21 Oct 2015 07:28:00 GMT"


@define
class Server:
    """What is served, and what goes wrong; each request is recorded."""

    content: bytes = CONTENT
    etag: str | None = ""
    modified: str | None = MODIFIED
    cut_after: list[int] = Factory(list)
    statuses: list[int] = Factory(list)
    ranges: bool = True
    length: int | str | None = "right"
    headers: dict[str, str] = Factory(dict)
    redirect: str | None = None
    content_range: str | None = None
    # What a part is said to be a part of, where a server checks no If-Range.
    of_part: dict[str, str | None] | None = None
    requests: list[dict[str, str]] = Factory(list)
    url: str = ""

    @property
    def tag(self) -> str | None:
        return f'"{sha256(self.content).hexdigest()}"' if self.etag == "" else self.etag


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    served: ClassVar[Server]

    def do_GET(self) -> None:
        served = self.served
        served.requests.append({"path": self.path, **{k.lower(): v for k, v in self.headers.items()}})
        status = served.statuses.pop(0) if served.statuses else 200
        if served.redirect is not None and not self.path.endswith("/moved"):
            self.answer(302, {"Location": served.redirect, "Content-Length": "0"})
        elif status != 200:
            self.answer(status, {"Content-Length": "0"})
        elif self.first_byte() >= max(1, len(served.content)):
            self.answer(416, {"Content-Length": "0"})
        else:
            self.send_content(self.first_byte())

    def first_byte(self) -> int:
        wanted = self.headers.get("Range", "")
        same = self.headers.get("If-Range") in {None, self.served.tag, self.served.modified}
        same = same or self.served.of_part is not None
        if not self.served.ranges or not wanted or not same:
            return 0
        return int(wanted.removeprefix("bytes=").removesuffix("-"))

    def send_content(self, first: int) -> None:
        served = self.served
        body, size = served.content[first:], len(served.content)
        length = str(len(body) if served.length == "right" else served.length)
        headers = {
            "Content-Length": None if served.length is None else length,
            "Content-Range": (served.content_range or f"bytes {first}-{size - 1}/{size}") if first else None,
            "ETag": served.tag,
            "Last-Modified": served.modified,
            **served.headers,
            **((first and served.of_part) or {}),
        }
        cut = served.cut_after.pop(0) if served.cut_after else len(body)
        self.answer(206 if first else 200, headers)
        self.wfile.write(body[:cut])
        self.close_connection = cut < len(body) or served.length != "right"

    def answer(self, status: int, headers: Mapping[str, str | None]) -> None:
        self.send_response(status)
        for name, value in headers.items():
            if value is not None:
                self.send_header(name, value)
        self.end_headers()

    def log_message(self, *_: Any) -> None:
        pass


class Listener(ThreadingHTTPServer):
    def handle_error(self, *_: Any) -> None:
        """Say nothing of a client that goes away, as these do."""


@pytest.fixture
def server() -> Iterator[Server]:
    served = Server()
    running = Listener(("127.0.0.1", 0), type("Own", (Handler,), {"served": served}))
    served.url = f"http://127.0.0.1:{running.server_port}/models/setup04/1820500"
    thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield served
    running.shutdown()
    running.server_close()
    thread.join()


@pytest.fixture(autouse=True)
def _no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_WAIT_S", 0.0)


@pytest.fixture
def target(tmp_path: Path) -> Path:
    return tmp_path / "downloads" / "setup04-1820500"


def fetch(server: Server, target: Path, progress: Callable[[int, int], None] | None = None) -> bytes:
    download(server.url, target, reference="setup04@1820500", progress=progress)
    assert left_beside(target) == []
    return target.read_bytes()


def left_beside(target: Path) -> list[str]:
    """Give what is beside the target, but for its lock."""
    return sorted(
        path.name for path in target.parent.iterdir() if path.name[len(target.name) :] not in {"", ".lock"}
    )


def ranges(server: Server) -> list[str | None]:
    return [request.get("range") for request in server.requests]


def interrupt(server: Server, target: Path, after: int) -> None:
    """Have a process download so many bytes and be killed."""
    server.cut_after = [after, 0, 0, 0]
    with pytest.raises(DownloadFailed):
        fetch(server, target)
    assert target.with_name(f"{target.name}.part").read_bytes() == server.content[:after]
    server.requests.clear()


def test_a_file_arrives_whole(server: Server, target: Path) -> None:
    assert fetch(server, target) == CONTENT
    assert len(server.requests) == 1


def test_what_is_there_is_not_downloaded_again(server: Server, target: Path) -> None:
    fetch(server, target)
    server.content = OTHER
    assert fetch(server, target) == CONTENT
    assert len(server.requests) == 1


def test_the_token_of_the_hub_is_not_sent(
    server: Server, target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    fetch(server, target)
    assert "authorization" not in server.requests[0]
    assert "hf_secret" not in json.dumps(server.requests)


def test_a_download_that_is_cut_goes_on_where_it_stopped(server: Server, target: Path) -> None:
    server.cut_after = [1000, 2000]
    assert fetch(server, target) == CONTENT
    assert ranges(server) == [None, "bytes=1000-", "bytes=3000-"]
    assert {request["if-range"] for request in server.requests[1:]} == {server.tag}


def test_any_number_of_cuts_is_survived_as_long_as_bytes_arrive(server: Server, target: Path) -> None:
    server.cut_after = [5000] * 20
    assert fetch(server, target) == CONTENT


def test_a_later_process_goes_on_where_another_was_stopped(server: Server, target: Path) -> None:
    interrupt(server, target, 100_000)
    assert fetch(server, target) == CONTENT
    assert ranges(server) == ["bytes=100000-"]


def test_without_an_etag_the_date_says_whether_it_is_the_same(server: Server, target: Path) -> None:
    server.etag = None
    interrupt(server, target, 1000)
    assert fetch(server, target) == CONTENT
    assert (ranges(server), server.requests[0]["if-range"]) == (["bytes=1000-"], MODIFIED)


@pytest.mark.parametrize("etag", [None, 'W/"weak"'])
def test_where_nothing_says_whether_it_is_the_same_it_starts_again(
    server: Server, target: Path, etag: str | None
) -> None:
    server.etag, server.modified = etag, None
    server.cut_after = [1000]
    assert fetch(server, target) == CONTENT
    assert ranges(server) == [None, None]


@pytest.mark.parametrize("other", [OTHER, OTHER[:5000], OTHER[:500], OTHER * 2], ids=len)
def test_a_file_that_changed_between_two_processes_starts_again(
    server: Server, target: Path, other: bytes
) -> None:
    interrupt(server, target, 1000)
    server.content = other
    assert fetch(server, target) == other


def test_a_file_that_changed_between_two_tries_starts_again(server: Server, target: Path) -> None:
    server.cut_after = [1000]

    def change(done: int, _total: int) -> None:
        if done == 1000:
            server.content = OTHER

    assert fetch(server, target, change) == OTHER


def test_the_part_of_another_address_is_not_gone_on_with(server: Server, target: Path) -> None:
    interrupt(server, target, 1000)
    server.url += "-other"
    assert fetch(server, target) == CONTENT
    assert ranges(server) == [None]


def test_a_server_that_ignores_ranges_starts_again(server: Server, target: Path) -> None:
    interrupt(server, target, 1000)
    server.ranges = False
    assert fetch(server, target) == CONTENT
    assert ranges(server) == ["bytes=1000-"]


def test_a_server_that_sends_another_range_starts_again(server: Server, target: Path) -> None:
    interrupt(server, target, 1000)
    server.content_range = f"bytes 999-{len(CONTENT) - 1}/{len(CONTENT)}"
    assert fetch(server, target) == CONTENT
    assert ranges(server) == ["bytes=1000-", None]


@pytest.mark.parametrize(
    ("etag", "of_part"),
    [
        ("", {"ETag": '"another"'}),
        ("", {"ETag": 'W/"another"', "Last-Modified": MODIFIED}),
        (None, {"ETag": None, "Last-Modified": "Thu, 22 Oct 2015 07:28:00 GMT"}),
    ],
    ids=["etag", "weak etag", "date"],
)
def test_a_part_of_another_file_is_not_put_behind_what_is_there(
    server: Server, target: Path, etag: str | None, of_part: dict[str, str | None]
) -> None:
    server.etag = etag
    interrupt(server, target, 1000)
    server.content, server.of_part = OTHER, of_part
    assert fetch(server, target) == OTHER
    assert ranges(server) == ["bytes=1000-", None]


def test_a_part_that_does_not_say_what_it_is_of_is_believed(server: Server, target: Path) -> None:
    interrupt(server, target, 1000)
    server.of_part = {"ETag": None, "Last-Modified": "Thu, 22 Oct 2015 07:28:00 GMT"}
    assert fetch(server, target) == CONTENT
    assert ranges(server) == ["bytes=1000-"]


def test_a_part_that_is_whole_needs_no_request(server: Server, target: Path) -> None:
    interrupt(server, target, 1000)
    target.with_name(f"{target.name}.part").write_bytes(CONTENT)
    assert fetch(server, target) == CONTENT
    assert server.requests == []


@pytest.mark.parametrize("record", ["", "[]", '{"url": 1}', "{"])
def test_a_part_of_nobody_knows_what_starts_again(server: Server, target: Path, record: str) -> None:
    interrupt(server, target, 1000)
    target.with_name(f"{target.name}.part.json").write_text(record)
    assert fetch(server, target) == CONTENT
    assert ranges(server) == [None]


@pytest.mark.parametrize("status", [408, 429, 500, 503])
def test_a_server_that_is_busy_is_asked_again(server: Server, target: Path, status: int) -> None:
    server.statuses = [status, 200]
    assert fetch(server, target) == CONTENT


@pytest.mark.parametrize(
    ("status", "said", "step"),
    [
        (403, "403 (Forbidden)", "Check the address, or give a file that is on disk."),
        (404, "404 (Not Found)", "Check the address, or give a file that is on disk."),
        (503, "503", "Try tomorrow."),
    ],
)
def test_a_server_that_refuses_is_said_with_what_helps(
    server: Server, target: Path, status: int, said: str, step: str
) -> None:
    server.statuses = [status] * 4
    with pytest.raises(DownloadFailed) as caught:
        download(server.url, target, reference="setup04@1820500", again="Try tomorrow.")
    assert said in caught.value.reason
    assert caught.value.url == server.url
    assert str(caught.value).endswith(f" {step}")
    # What may pass is tried again.
    assert len(server.requests) == (4 if status == 503 else 1)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"headers": {"Content-Type": "text/html; charset=utf-8"}}, "web page"),
        ({"headers": {"Content-Encoding": "gzip"}}, "encoded"),
        ({"length": None}, "how large"),
        ({"content": b""}, "empty"),
        ({"length": len(CONTENT) + 1}, "it has less of the file"),
    ],
)
def test_an_answer_that_cannot_be_the_file_is_refused(
    server: Server, target: Path, change: dict[str, Any], said: str
) -> None:
    for name, value in change.items():
        setattr(server, name, value)
    with pytest.raises(DownloadFailed) as caught:
        fetch(server, target)
    assert said in caught.value.reason
    assert not target.exists()
    assert left_beside(target) == []


def test_a_server_that_is_not_there_is_said(target: Path) -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
    with pytest.raises(DownloadFailed, match=r"refused.*\). Run it again\.$"):
        download(f"http://127.0.0.1:{port}/x", target, reference="setup04@1820500")


def test_offline_nothing_is_asked(server: Server, target: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(DownloadFailed, match=r"HF_HUB_OFFLINE\). Unset it"):
        fetch(server, target)
    assert server.requests == []


@pytest.mark.parametrize("where", ["/moved", "http://localhost:{port}/moved"])
def test_a_redirection_is_followed(server: Server, target: Path, where: str) -> None:
    server.redirect = where.format(port=server.url.split(":")[2].split("/")[0])
    assert fetch(server, target) == CONTENT
    assert server.requests[-1]["path"] == "/moved"


@pytest.mark.parametrize(
    "where", ["http://example.org/file", "ftp://127.0.0.1/file", "file:///etc/passwd", "//example.org/x"]
)
def test_a_redirection_that_leaves_https_is_refused(server: Server, target: Path, where: str) -> None:
    server.redirect = where
    with pytest.raises(DownloadFailed, match="sends on to"):
        fetch(server, target)
    assert len(server.requests) == 1


def test_a_redirection_in_a_circle_ends(server: Server, target: Path) -> None:
    server.redirect = "/again"
    with pytest.raises(DownloadFailed, match="more than 5 times"):
        fetch(server, target)


@pytest.mark.parametrize(
    "url",
    ["http://example.org/x", "ftp://example.org/x", "file:///x", "/x", "example.org", "https://",
     "https://example.org:0", "https://example.org:x", "http://127.0.0.1.example.org/x", "http://[::1",
     "https://a b", ""],
)  # fmt: skip
def test_an_address_that_is_not_https_is_refused(target: Path, url: str) -> None:
    with pytest.raises(InvalidSetting, match="Give one that starts with https://"):
        download(url, target, reference="setup04@1820500")
    assert not target.parent.exists()


@pytest.mark.parametrize(
    "url", ["https://example.org/x", "http://127.0.0.1:80/x", "http://[::1]/x", "http://localhost/x"]
)
def test_https_and_this_machine_may_be_asked(url: str) -> None:
    assert check_url(url) == url


def test_a_password_or_a_signature_in_the_address_is_neither_said_nor_written(
    server: Server, target: Path
) -> None:
    server.url = server.url.replace("http://", "http://user:hunter2@") + "?signature=hunter2"
    server.cut_after = [1000, 0, 0, 0]
    with pytest.raises(DownloadFailed) as caught:
        fetch(server, target)
    assert server.requests[0]["path"].endswith("?signature=hunter2")
    assert "hunter2" not in str(caught.value) + caught.value.url
    assert "hunter2" not in target.with_name(f"{target.name}.part.json").read_text()
    assert fetch(server, target) == CONTENT


def test_a_full_disk_is_found_before_the_download(
    server: Server, target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = namedtuple("usage", "total used free")
    free = len(CONTENT) - 1001

    def needed() -> int:
        with monkeypatch.context() as full:
            full.setattr(shutil, "disk_usage", lambda _: usage(10**12, 10**12 - free, free))
            with pytest.raises(DiskFull) as caught:
                fetch(server, target)
        assert caught.value.free == free
        return caught.value.needed

    assert needed() == len(CONTENT)
    interrupt(server, target, 1000)
    assert needed() == len(CONTENT) - 1000


def test_a_disk_that_fills_up_leaves_nothing_of_the_download(
    server: Server, target: Path, run_python: Callable[..., str]
) -> None:
    script = f"""
import resource
from pathlib import Path
from cosemzoo.errors import DiskFull
from cosemzoo.publishing.download import download
# A limit on the size of files is what a process can be given in place of a small disk.
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
try:
    download({server.url!r}, Path({str(target)!r}), reference="setup04@1820500")
except DiskFull as error:
    print(error)
"""
    assert run_python(script).startswith("setup04@1820500: needs ")
    assert left_beside(target) == []


def test_progress_is_told_from_what_was_there_to_the_end(server: Server, target: Path) -> None:
    interrupt(server, target, 1000)
    told: list[tuple[int, int]] = []
    fetch(server, target, lambda done, total: told.append((done, total)))
    assert told[0] == (1000, len(CONTENT))
    assert told[-1] == (len(CONTENT), len(CONTENT))
    assert told == sorted(told)


def test_processes_that_download_the_same_at_once_do_it_once(server: Server, target: Path) -> None:
    context = multiprocessing.get_context("spawn")
    asked = {"reference": "setup04@1820500"}
    processes = [context.Process(target=download, args=(server.url, target), kwargs=asked) for _ in range(3)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0, 0, 0]
    assert target.read_bytes() == CONTENT
    assert len(server.requests) == 1


def test_a_folder_that_cannot_be_written_is_said(server: Server, target: Path) -> None:
    target.parent.parent.joinpath("downloads").write_text("a file")
    with pytest.raises(OSError, match="downloads"):
        fetch(server, target)
    assert os.listdir(target.parent.parent) == ["downloads"]

"""Life, counting and faults of a running Hub, and whom it answers."""

import json
import logging
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import HfApi
from huggingface_hub.errors import HfHubHTTPError

from cosemzoo.localhub import LocalHub, RootInUseError


@pytest.mark.parametrize("host", ["0.0.0.0", "192.168.1.2", "example.org", "", "::"])
def test_a_host_that_is_not_loopback_is_refused(root: Path, host: str) -> None:
    with pytest.raises(ValueError, match=r"127\.0\.0\.1, localhost, ::1 only"):
        LocalHub(root, host=host)


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "::1"])
def test_every_loopback_host_is_served(root: Path, host: str) -> None:
    with LocalHub(root, host=host) as hub:
        assert HfApi(endpoint=hub.endpoint, token=False).create_repo("a/b").repo_id == "a/b"


@pytest.mark.parametrize(
    "headers",
    [
        {"Host": "evil.example"},
        {"Host": "127.0.0.1.evil.example"},
        {"Host": "evil.example:80@127.0.0.1x"},
        {"Host": "[::1"},
        {"Origin": "http://evil.example"},
        {"Origin": "null"},
    ],
)
def test_a_page_from_elsewhere_is_refused(raw: Callable[..., Any], headers: dict[str, str]) -> None:
    body = b'{"name": "b", "organization": "a"}'
    assert raw("POST", "/api/repos/create", body, headers).status == 403
    assert raw("GET", "/localhub/stats", headers=headers).status == 403
    assert json.loads(raw("GET", "/api/models").body) == []


@pytest.mark.parametrize("host", ["localhost", "LOCALHOST:1", "[::1]:80", "127.0.0.1"])
def test_every_loopback_name_is_answered(raw: Callable[..., Any], host: str) -> None:
    assert raw("GET", "/api/models", headers={"Host": host}).status == 200


def test_stopped_and_started_again_it_is_the_same_hub(
    hub: LocalHub, api: HfApi, repo: str, commit: Callable[..., str]
) -> None:
    oid = commit({"model.safetensors": b"weights"})
    before = hub.endpoint
    hub.stop()
    hub.start()
    assert hub.endpoint == before
    assert api.model_info(repo).sha == oid


def test_a_started_hub_is_not_started_twice_and_a_stopped_one_stops_quietly(hub: LocalHub) -> None:
    with pytest.raises(RuntimeError, match="already running"):
        hub.start()
    hub.stop()
    hub.stop()


def test_an_answer_does_not_wait_for_the_clients_acknowledgement(hub: LocalHub) -> None:
    assert hub._running is not None
    assert hub._running._listener.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)


def test_settings_of_a_repository_that_is_not_there_are_an_error(hub: LocalHub) -> None:
    with pytest.raises(LookupError, match="no repository 'a/b'"):
        hub.set_gated("a/b", True)
    hub.stop()
    with pytest.raises(RuntimeError, match="not running"):
        hub.set_private("a/b", True)


def test_it_leaves_no_thread_behind(root: Path) -> None:
    before = set(threading.enumerate())
    with LocalHub(root) as hub:
        HfApi(endpoint=hub.endpoint, token=False).create_repo("a/b")
    assert not [thread for thread in set(threading.enumerate()) - before if "localhub" in thread.name]


def test_it_leaves_signal_handlers_alone(hub: LocalHub, api: HfApi, repo: str) -> None:
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL


def test_it_says_nothing_while_all_is_well(
    hub: LocalHub, commit: Callable[..., str], caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO):
        commit({"a.txt": b"1"})
    assert [record for record in caplog.records if record.name.startswith("uvicorn")] == []


def test_one_root_has_one_hub(hub: LocalHub, root: Path) -> None:
    with pytest.raises(RootInUseError, match="Another local Hub is running on"):
        LocalHub(root).start()


def test_a_port_that_is_taken_is_an_error_and_frees_the_root(hub: LocalHub, tmp_path: Path) -> None:
    port = int(hub.endpoint.rpartition(":")[2])
    with pytest.raises(OSError, match="in use"):
        LocalHub(tmp_path / "other", port=port).start()
    with LocalHub(tmp_path / "other"):
        pass


def test_it_has_no_address_before_it_is_started(root: Path) -> None:
    with pytest.raises(RuntimeError, match="before it is started"):
        assert LocalHub(root).endpoint


# Counting ----------------------------------------------------------------------------------------------


def test_every_request_is_counted_with_its_bytes_and_range(
    hub: LocalHub, raw: Callable[..., Any], repo: str, commit: Callable[..., str]
) -> None:
    commit({"a.txt": b"0123456789"})
    hub.reset_counts()
    raw("HEAD", f"/{repo}/resolve/main/a.txt")
    raw("GET", f"/{repo}/resolve/main/a.txt?download=true", headers={"Range": "bytes=2-4"})
    raw("GET", f"/{repo}/resolve/a%2Fb/a.txt")
    head, part, missing = hub.requests
    assert (head.method, head.status, head.bytes_sent, head.range) == ("HEAD", 200, 0, None)
    assert (part.path, part.query) == (f"/{repo}/resolve/main/a.txt", "download=true")
    assert (part.status, part.bytes_sent, part.range) == (206, 3, "bytes=2-4")
    assert (missing.path, missing.status) == (f"/{repo}/resolve/a%2Fb/a.txt", 404)
    assert hub.bytes_sent == 3 + missing.bytes_sent


def test_the_counters_of_a_hub_elsewhere_are_asked_for_over_http_and_not_counted(
    hub: LocalHub, raw: Callable[..., Any]
) -> None:
    raw("GET", "/api/models")
    for _ in range(2):
        stats = json.loads(raw("GET", "/localhub/stats").body)
        assert stats == {"requests": 1, "methods": {"GET": 1}, "bytes_sent": 2}
    assert len(hub.requests) == 1


# Faults ------------------------------------------------------------------------------------------------


def test_the_next_matching_requests_fail_as_told(hub: LocalHub, raw: Callable[..., Any]) -> None:
    hub.fail_next(status=503, match="GET /api/models", times=2)
    statuses = [
        raw("GET", path).status for path in ("/api/whoami-v2", "/api/models", "/api/models", "/api/models")
    ]
    assert statuses == [200, 503, 503, 200]


def test_a_hub_that_is_down_answers_503_until_it_is_up(hub: LocalHub, api: HfApi, repo: str) -> None:
    hub.set_down(True)
    with pytest.raises(HfHubHTTPError) as refused:
        api.model_info(repo)
    assert refused.value.response.status_code == 503
    hub.set_down(False)
    assert api.model_info(repo)


def test_the_client_survives_a_connection_dropped_in_mid_download(
    hub: LocalHub, api: HfApi, commit: Callable[..., str], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    content = bytes(range(256)) * 1000
    commit({"model.safetensors": content})
    hub.reset_counts()
    hub.truncate_next("/resolve/", after_bytes=1000)
    path = api.hf_hub_download("cosem/setup04", "model.safetensors", cache_dir=tmp_path)
    assert Path(path).read_bytes() == content
    cut, resumed = [record for record in hub.requests if record.method == "GET"]
    assert (cut.status, cut.bytes_sent) == (200, 1000)
    assert resumed.status in {200, 206}
    assert [record for record in caplog.records if record.name.startswith("uvicorn")] == []


def test_a_flipped_byte_reaches_the_client_once(
    hub: LocalHub, raw: Callable[..., Any], repo: str, commit: Callable[..., str]
) -> None:
    commit({"model.safetensors": b"weights"})
    hub.corrupt_next(f"GET /{repo}/resolve/main/model.safetensors", at_byte=2)
    damaged = raw("GET", f"/{repo}/resolve/main/model.safetensors").body
    assert damaged == b"we\x96ghts"
    assert raw("GET", f"/{repo}/resolve/main/model.safetensors").body == b"weights"


def test_an_unexpected_error_is_a_500_and_is_told(
    hub: LocalHub, raw: Callable[..., Any], commit: Callable[..., str], caplog: pytest.LogCaptureFixture
) -> None:
    commit({"model.safetensors": b"weights"})
    for stored in hub.root.rglob("lfs/objects/*/*/*"):
        stored.unlink()
    assert raw("GET", "/cosem/setup04/resolve/main/model.safetensors").status == 500
    hub.stop()
    assert "FileNotFoundError" in caplog.text


# Without the extra -------------------------------------------------------------------------------------


@pytest.mark.parametrize("module", ["dulwich", "starlette", "uvicorn"])
def test_without_the_extra_the_import_says_what_to_install(module: str) -> None:
    program = f"import sys; sys.modules[{module!r}] = None; import cosemzoo.localhub"
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert result.returncode == 1
    assert 'pip install "cosemzoo[localhub]"' in result.stderr


def test_the_room_imports_nothing_of_the_rest() -> None:
    program = "import sys, cosemzoo.localhub; print(*sys.modules)"
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    loaded = set(result.stdout.split())
    rooms = {name.split(".")[1] for name in loaded if name.startswith("cosemzoo.")}
    assert rooms <= {"localhub", "_version"}
    assert loaded.isdisjoint({"huggingface_hub", "torch"})

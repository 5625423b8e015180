"""What was acknowledged survives kill -9 of the server."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest
from huggingface_hub import CommitOperationAdd, HfApi

from cosemzoo.localhub import LocalHub, durable

_SERVER = """
import sys
from pathlib import Path
from cosemzoo.localhub import serve
serve(Path(sys.argv[1]), "127.0.0.1", 0, None, lambda endpoint: print(endpoint, flush=True))
print("stopped", flush=True)
"""


@contextmanager
def _server(root: Path) -> Iterator[tuple[subprocess.Popen[str], HfApi]]:
    command = [sys.executable, "-c", _SERVER, str(root)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            yield process, HfApi(endpoint=process.stdout.readline().strip(), token=False)
        finally:
            process.kill()


def test_every_acknowledged_commit_tag_and_upload_survives_kill_9(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(time, "sleep", lambda _: None)  # the client's waits before it calls the dead again
    acknowledged: dict[str, str] = {}
    enough = threading.Event()
    with _server(root) as (process, api), ThreadPoolExecutor(1) as thread:
        api.create_repo("cosem/setup04")

        def publish_until_it_dies() -> None:
            for number in range(1000):
                files = [
                    CommitOperationAdd("config.json", b"%d" % number),
                    CommitOperationAdd("model.safetensors", b"weights %d" % number),
                ]
                oid = api.create_commit("cosem/setup04", files, commit_message=f"{number}").oid
                api.create_tag("cosem/setup04", tag=f"it/{number}", revision=oid)
                acknowledged[f"it/{number}"] = oid
                if number == 5:
                    enough.set()

        publisher = thread.submit(publish_until_it_dies)
        assert enough.wait(60)
        process.kill()
        assert publisher.exception(60) is not None
    assert len(acknowledged) > 5
    with LocalHub(root) as hub:
        api = HfApi(endpoint=hub.endpoint, token=False)
        tags = {ref.name: ref.target_commit for ref in api.list_repo_refs("cosem/setup04").tags}
        assert acknowledged.items() <= tags.items()
        for tag in acknowledged:
            number = tag.removeprefix("it/")
            path = api.hf_hub_download("cosem/setup04", "model.safetensors", revision=tag, cache_dir=tmp_path)
            assert Path(path).read_text() == f"weights {number}"
        assert api.upload_file(path_or_fileobj=b"on", path_in_repo="next.txt", repo_id="cosem/setup04")
    git = ["git", "-C", str(root / "models/cosem/setup04.git"), "fsck", "--strict", "--no-dangling"]
    subprocess.run(git, check=True, capture_output=True)


def test_what_a_killed_server_left_half_done_is_cleared_and_stands_in_nobodys_way(
    root: Path, tmp_path: Path
) -> None:
    with LocalHub(root) as hub:
        HfApi(endpoint=hub.endpoint, token=False).create_repo("a/b")
    git = root / "models/a/b.git"
    leftovers = [git / "refs/heads/main.lock", git / "scratch/upload", root / "scratch/half-made.git"]
    for path in leftovers:
        path.write_text("half")
    with LocalHub(root) as hub:
        assert not any(path.exists() for path in leftovers)
        api = HfApi(endpoint=hub.endpoint, token=False)
        assert api.upload_file(path_or_fileobj=b"1", path_in_repo="a.txt", repo_id="a/b")


def test_content_and_names_are_synced_before_a_commit_is_acknowledged(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: set[str] = set()
    real = os.fsync

    def fsync(descriptor: int) -> None:
        synced.add(os.readlink(f"/proc/self/fd/{descriptor}"))
        real(descriptor)

    with LocalHub(root) as hub:
        api = HfApi(endpoint=hub.endpoint, token=False)
        api.create_repo("a/b")
        monkeypatch.setattr(os, "fsync", fsync)
        api.upload_file(path_or_fileobj=b"weights", path_in_repo="model.safetensors", repo_id="a/b")
        api.create_tag("a/b", tag="deep/v1")
        git = root / "models/a/b.git"
        objects = {path.parent for path in git.glob("objects/??/*")} & {Path(path) for path in synced}
        lfs = next(git.glob("lfs/objects/*/*/*"))
        names = {git / "refs/heads", git / "refs/tags/deep", git / "refs/tags", lfs.parent, lfs.parent.parent}
        assert names <= {Path(path) for path in synced}
        assert len(objects) >= 2
        assert any(path.endswith("refs/heads/main.lock") for path in synced)
        assert sum("/scratch/" in path for path in synced) >= 4


def test_a_write_that_fails_leaves_the_old_content_and_no_trace(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scratch, target = tmp_path / "scratch", tmp_path / "target"
    scratch.mkdir()
    durable.write(target, b"old", scratch=scratch)

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        durable.write(target, b"new", scratch=scratch)
    assert target.read_bytes() == b"old"
    assert list(scratch.iterdir()) == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_hub_in_the_foreground_ends_in_order_when_it_is_told_to(root: Path, number: signal.Signals) -> None:
    with _server(root) as (process, api):
        api.create_repo("a/b")
        process.send_signal(number)
        assert process.stdout is not None
        assert process.stdout.readline() == "stopped\n"
        assert process.wait(30) == 0

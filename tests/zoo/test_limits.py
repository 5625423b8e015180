"""Caches that cannot be written and disks that are full."""

import shutil
from collections import namedtuple
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from cosemzoo.errors import CacheNotWritable, CosemZooError, DiskFull, HubUnavailable
from cosemzoo.localhub import LocalHub
from cosemzoo.publishing import publish
from cosemzoo.zoo import Zoo
from cosemzoo.zoo.failures import Asked, hub_errors

Run = Callable[..., str]
RUN = "cosemzoo/setup04"

# Permissions do not bind root, but for the capabilities that root can give up.
UNPRIVILEGED = """
import ctypes, warnings
warnings.simplefilter("error")
assert ctypes.CDLL(None).capset((ctypes.c_uint32 * 2)(0x20080522, 0), (ctypes.c_uint32 * 6)()) == 0
"""
SAY = """
import cosemzoo.errors
from cosemzoo.zoo import Zoo
try:
    print(sorted(path.read_bytes()[:1] for path in Zoo(token=False).fetch({!r}).values()))
except cosemzoo.errors.CosemZooError as error:
    print(type(error).__name__, error)
"""


@pytest.fixture
def read_only(run: str, zoo: Zoo) -> Iterator[Path]:
    """The weights of setup04, fetched, in a cache that may only be read."""
    (path,) = zoo.fetch("setup04").values()
    # Nothing is remembered there, as if the client itself had downloaded it.
    shutil.rmtree(next(zoo.cache_dir.glob("*/.cosemzoo")))
    lock(zoo.cache_dir)
    yield path
    for folder in [zoo.cache_dir, *zoo.cache_dir.rglob("*")]:
        if folder.is_dir():
            folder.chmod(0o755)


@pytest.fixture
def unprivileged(run_python: Run) -> Callable[[str], str]:
    """Fetch a reference without the right to write where permissions forbid it; give what is said."""
    return lambda reference: run_python(UNPRIVILEGED + SAY.format(reference))


def lock(folder: Path) -> None:
    for path in [folder, *folder.rglob("*")]:
        if not path.is_symlink():
            path.chmod(0o555 if path.is_dir() else 0o444)


def test_a_read_only_cache_is_read(read_only: Path, unprivileged: Callable[[str], str]) -> None:
    assert unprivileged("setup04").startswith("[b")


def test_what_a_read_only_cache_cannot_remember_the_users_state_folder_does(
    read_only: Path, unprivileged: Callable[[str], str], tmp_path: Path
) -> None:
    unprivileged("setup04")
    assert f"{read_only.resolve().name}.json" in {path.name for path in (tmp_path / "state").rglob("*.json")}


def test_a_read_only_cache_serves_an_index_that_another_commit_shares(
    read_only: Path, unprivileged: Callable[[str], str], commit_files: Callable[..., str]
) -> None:
    commit_files(RUN, {"notes.txt": b"main has moved"})
    assert unprivileged("setup04").startswith("[b")


def test_a_read_only_cache_that_lacks_the_weights_says_so(
    read_only: Path, unprivileged: Callable[[str], str], zoo: Zoo
) -> None:
    said = unprivileged("setup04@first")
    assert said.startswith("CacheNotWritable setup04@first")
    assert str(zoo.cache_dir) in said
    assert "HF_HUB_CACHE" in said


def test_a_damaged_file_that_cannot_be_removed_is_refused(
    read_only: Path, unprivileged: Callable[[str], str]
) -> None:
    read_only.resolve().chmod(0o644)
    read_only.resolve().write_bytes(b"damaged")
    said = unprivileged("setup04")
    assert said.startswith("IntegrityError")
    assert "could not be removed" in said
    assert read_only.exists()


def test_a_cache_that_cannot_be_a_folder_is_not_writable(
    make_zoo: Callable[..., Zoo], run: str, tmp_path: Path
) -> None:
    (tmp_path / "a file").write_bytes(b"")
    with pytest.raises(CacheNotWritable, match="a file"):
        make_zoo(cache_dir=tmp_path / "a file" / "cache").fetch("setup04")


@pytest.fixture
def disk_with(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """Have only so many bytes free on every disk: a real one of that size needs the right to mount it."""
    usage = namedtuple("usage", "total used free")

    def set_free(free: int) -> None:
        monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(10**12, 10**12 - free, free))

    return set_free


def test_a_full_disk_is_found_before_the_download(
    hub: LocalHub, zoo: Zoo, run: str, disk_with: Callable[[int], None]
) -> None:
    checkpoint = zoo.resolve("setup04")
    size = checkpoint.files[0].size
    hub.reset_counts()
    disk_with(size - 1)
    with pytest.raises(DiskFull, match=f"needs {size:,} bytes") as caught:
        zoo.fetch(checkpoint)
    assert (caught.value.needed, caught.value.free) == (size, size - 1)
    assert hub.requests == []
    disk_with(size)
    assert zoo.fetch(checkpoint)


def test_only_what_is_missing_needs_room(
    zoo: Zoo, write_checkpoint: Callable[..., Path], disk_with: Callable[[int], None]
) -> None:
    publish(write_checkpoint(files=2), "setup04", zoo=zoo, aliases=["best"])
    checkpoint = zoo.resolve("setup04")
    paths = zoo.fetch(checkpoint)
    second = checkpoint.files[1]
    paths[second.name].resolve().unlink()
    paths[second.name].unlink()
    disk_with(0)
    with pytest.raises(DiskFull) as caught:
        zoo.fetch(checkpoint)
    assert caught.value.needed == second.size


def test_a_disk_that_fills_up_leaves_nothing_of_the_download(
    zoo: Zoo, write_checkpoint: Callable[..., Path], run_python: Run
) -> None:
    size = 3_000_000
    publish(write_checkpoint(padding=size), "setup04", zoo=zoo, aliases=["best"])
    # A limit on the size of files is what a process can be given in place of a small disk.
    limit = f"import resource; resource.setrlimit(resource.RLIMIT_FSIZE, ({size // 2}, {size // 2}))\n"
    assert run_python(limit + SAY.format("setup04")).startswith("DiskFull setup04")
    left = [path for path in zoo.cache_dir.rglob("*") if path.is_file() and path.stat().st_size > 100_000]
    assert left == []
    assert not list(zoo.cache_dir.rglob("*.incomplete"))


@pytest.mark.parametrize(
    ("words", "kind"),
    [
        ("Task error: File reconstruction error: CAS Client Error", HubUnavailable),
        ("Data processing error: I/O error: No space left on device (os error 28)", DiskFull),
    ],
)
def test_what_a_xet_download_says_is_an_error_of_this_package(
    tmp_path: Path, words: str, kind: type[CosemZooError]
) -> None:
    asked = Asked("setup04", RUN, "http://127.0.0.1:9", tmp_path)
    # A Hub of one's own has no Xet: this is how hf_xet raises.
    with pytest.raises(kind, match="setup04"), hub_errors(asked, 1):
        raise RuntimeError(words)


def test_a_missing_file_outside_the_cache_does_not_make_the_cache_unwritable(
    run: str, run_python: Run
) -> None:
    said = run_python(SAY.format("setup04"), SSL_CERT_FILE="/nonexistent")
    assert said.startswith("HubUnavailable")
    assert "FileNotFoundError" in said


def test_a_cache_that_cannot_be_made_is_not_writable(run: str, run_python: Run, tmp_path: Path) -> None:
    (tmp_path / "locked").mkdir(mode=0o555)
    said = run_python(
        UNPRIVILEGED + SAY.format("setup04"), HF_HUB_CACHE=str(tmp_path / "locked" / "a" / "cache")
    )
    assert said.startswith("CacheNotWritable")


@pytest.mark.parametrize(
    ("unreadable", "offline"), [("blobs/*", "0"), ("blobs/*", "1"), ("blobs", "0"), ("snapshots", "1")]
)
def test_a_cache_that_cannot_be_read_says_so(
    zoo: Zoo, run: str, run_python: Run, unreadable: str, offline: str
) -> None:
    zoo.fetch("setup04")
    paths = list(zoo.cache_dir.glob(f"models--*/{unreadable}"))
    for path in paths:
        path.chmod(0)
    said = run_python(UNPRIVILEGED + SAY.format("setup04"), HF_HUB_OFFLINE=offline)
    for path in paths:
        path.chmod(0o755)
    assert said.startswith("NotReadable setup04")
    assert "HF_HUB_CACHE" in said


def test_a_folder_that_cannot_be_read_says_so(write_checkpoint: Callable[..., Path], run_python: Run) -> None:
    folder = write_checkpoint()
    (folder / "model.safetensors").chmod(0)
    assert run_python(UNPRIVILEGED + SAY.format(str(folder))).startswith(f"NotReadable {folder}")

"""When a remembered digest is believed."""

import hashlib
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from cosemzoo.zoo.digests import DigestMemory, hash_file, state_folder


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "weights"
    path.write_bytes(b"published")
    return path


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def write_in_place(path: Path) -> None:
    status = path.stat()
    with path.open("r+b") as file:
        file.write(b"DAMAGED!!")
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns + 1))


def replace_by_one_of_the_same_age(path: Path) -> None:
    status = path.stat()
    other = path.with_name("other")
    other.write_bytes(b"DAMAGED!!")
    os.utime(other, ns=(status.st_atime_ns, status.st_mtime_ns))
    other.replace(path)


def lengthen(path: Path) -> None:
    status = path.stat()
    with path.open("ab") as file:
        file.write(b"!")
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


def test_a_digest_is_sha256_or_a_git_blob_id_like_the_one_wanted(file: Path) -> None:
    assert hash_file(file)[0] == hash_file(file, like="0" * 64)[0] == sha256(b"published")
    blob = hashlib.sha1(b"blob 9\0published").hexdigest()
    assert hash_file(file, like="0" * 40)[0] == blob


def test_a_digest_is_remembered_across_processes(file: Path, tmp_path: Path) -> None:
    DigestMemory([tmp_path / "memory"]).digest_of(file, "weights")
    record = tmp_path / "memory" / "weights.json"
    record.write_text(record.read_text().replace(sha256(b"published"), "f" * 64))
    assert DigestMemory([tmp_path / "memory"]).digest_of(file, "weights") == "f" * 64


@pytest.mark.parametrize("change", [write_in_place, replace_by_one_of_the_same_age, lengthen])
def test_a_file_that_changed_is_read_again(
    change: Callable[[Path], None], file: Path, tmp_path: Path
) -> None:
    memory = DigestMemory([tmp_path / "memory"])
    memory.digest_of(file, "weights")
    change(file)
    assert memory.digest_of(file, "weights") == sha256(file.read_bytes())


@pytest.mark.parametrize("record", ["", "[]", "{}", '{"digest": 1}', '{"digest": "ab", "size": 9}'])
def test_a_memory_that_is_damaged_is_not_believed(record: str, file: Path, tmp_path: Path) -> None:
    (tmp_path / "memory").mkdir()
    (tmp_path / "memory" / "weights.json").write_text(record)
    assert DigestMemory([tmp_path / "memory"]).digest_of(file, "weights") == sha256(b"published")


def test_what_one_place_cannot_take_the_next_remembers(file: Path, tmp_path: Path) -> None:
    blocked = tmp_path / "blocked"
    blocked.write_bytes(b"a file where a folder would have to be")
    places = [blocked / "memory", tmp_path / "own"]
    DigestMemory(places).digest_of(file, "weights")
    assert [path.name for path in (tmp_path / "own").iterdir()] == ["weights.json"]


def test_a_digest_is_given_even_where_nothing_can_be_remembered(file: Path, tmp_path: Path) -> None:
    blocked = tmp_path / "blocked"
    blocked.write_bytes(b"")
    assert DigestMemory([blocked / "memory"]).digest_of(file, "weights") == sha256(b"published")


def test_the_state_folder_follows_the_xdg_convention(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert state_folder() == tmp_path / "state" / "cosemzoo"
    monkeypatch.delenv("XDG_STATE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert state_folder() == tmp_path / ".local" / "state" / "cosemzoo"

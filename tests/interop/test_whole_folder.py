"""Folders that appear whole or not at all."""

import errno
import os
from pathlib import Path

import pytest

from cosemzoo.errors import DiskFull, ExportRefused, InvalidHead
from cosemzoo.interop.whole_folder import absolute, place_problem, whole_folder


def write(folder: Path) -> None:
    with whole_folder("run_1", folder, needed=1) as made:
        assert not folder.exists() or not any(folder.iterdir())
        (made / "file").write_text("mine")


def left(root: Path) -> list[str]:
    return sorted(path.relative_to(root).as_posix() for path in root.rglob("*"))


@pytest.mark.parametrize("name", ["new", "missing/parents/new", "empty", "missing/../new"])
def test_it_appears_with_all_that_was_written(tmp_path: Path, name: str) -> None:
    (tmp_path / "empty").mkdir()
    folder = absolute(tmp_path / name)
    assert place_problem(folder) is None
    write(folder)
    assert (folder / "file").read_text() == "mine"
    assert not [*tmp_path.rglob(".*")]


@pytest.mark.parametrize("kind", ["file", "fifo", "link", "dangling", "loop", "full"])
def test_what_it_would_replace_is_named_before_anything_is_written(tmp_path: Path, kind: str) -> None:
    folder = tmp_path / kind
    match kind:
        case "file":
            folder.touch()
        case "fifo":
            os.mkfifo(folder)
        case "full":
            folder.mkdir()
            (folder / "file").touch()
        case _:
            (tmp_path / "empty").mkdir()
            folder.symlink_to({"link": "empty", "dangling": "nowhere", "loop": "loop"}[kind])
    assert "is a link, a file or not empty" in str(place_problem(folder))


def test_the_folder_that_one_is_in_is_not_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert "you are in" in str(place_problem(absolute(".")))


def interrupted(folder: Path, error: BaseException) -> None:
    with whole_folder("run_1", folder, needed=1) as made:
        (made / "file").touch()
        raise error


def test_of_two_at_once_the_first_stays_and_the_second_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / "out"
    second = whole_folder("run_1", folder, needed=1)
    second.__enter__()
    write(folder)
    with pytest.raises(ExportRefused, match="is there already"):
        second.__exit__(None, None, None)
    assert left(tmp_path) == ["out", "out/file"]


def test_a_place_that_cannot_be_written_is_said(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ExportRefused, match=r"file.* cannot be written"):
        write(tmp_path / "file" / "out")
    assert left(tmp_path) == ["file"]


def test_without_room_for_it_nothing_is_begun(tmp_path: Path) -> None:
    with pytest.raises(DiskFull) as caught:
        whole_folder("run_1", tmp_path / "out", needed=10**18).__enter__()
    assert (caught.value.path, caught.value.needed) == (str(tmp_path), 10**18)
    assert left(tmp_path) == []


def test_a_disk_that_is_full_is_said_and_nothing_is_left(tmp_path: Path) -> None:
    with pytest.raises(ExportRefused, match=r"cannot be written \(No space left"):
        interrupted(tmp_path / "out", OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)))
    assert left(tmp_path) == []


@pytest.mark.parametrize("error", [InvalidHead(["why"]), KeyboardInterrupt()])
def test_another_failure_stays_what_it_is_and_nothing_is_left(tmp_path: Path, error: BaseException) -> None:
    with pytest.raises(type(error)):
        interrupted(tmp_path / "out", error)
    assert left(tmp_path) == []

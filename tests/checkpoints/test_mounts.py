import os
from pathlib import Path

import pytest

from cosemzoo.checkpoints.mounts import MOUNTS, NETWORK_FILE_SYSTEMS, file_system, reads_in_order


def mounts(folder: Path, kind: str) -> Path:
    """Write a list of mounts in which the folder's file system is of this kind."""
    device = folder.stat().st_dev
    number = f"{os.major(device)}:{os.minor(device)}"
    path = folder / "mountinfo"
    path.write_text(
        "22 27 0:9999 / /proc rw,relatime - proc proc rw\n"
        f"27 1 {number} / /odd\\040name\x0c rw,relatime shared:1 master:2 - {kind} server:/export rw\n"
        f"28 1 {number} / /again rw - later /dev/sda rw\n"
    )
    return path


@pytest.mark.parametrize("kind", [*sorted(NETWORK_FILE_SYSTEMS), "fuse.sshfs", "fuse.glusterfs"])
def test_on_a_network_file_system_files_are_read_in_order(kind: str, tmp_path: Path) -> None:
    assert reads_in_order(tmp_path, "auto", mounts(tmp_path, kind))


@pytest.mark.parametrize("kind", ["ext4", "xfs", "btrfs", "tmpfs", "overlay", "fuseblk", "zfs"])
def test_on_a_local_file_system_files_are_mapped(kind: str, tmp_path: Path) -> None:
    assert not reads_in_order(tmp_path, "auto", mounts(tmp_path, kind))


@pytest.mark.parametrize("kind", ["nfs4", "ext4"])
def test_what_the_caller_says_counts_more_than_the_file_system(kind: str, tmp_path: Path) -> None:
    assert reads_in_order(tmp_path, "sequential", mounts(tmp_path, kind))
    assert not reads_in_order(tmp_path, "mmap", mounts(tmp_path, kind))


def test_the_kind_of_a_file_system_is_found_among_all_that_are_mounted(tmp_path: Path) -> None:
    assert file_system(tmp_path, mounts(tmp_path, "xfs")) == "xfs"
    assert file_system(tmp_path, tmp_path / "missing") == ""
    with pytest.raises(FileNotFoundError):
        file_system(tmp_path / "missing")


@pytest.mark.skipif(not MOUNTS.exists(), reason="Linux only")
def test_what_this_machine_has_mounted_is_read() -> None:
    assert file_system(MOUNTS) == "proc"


def test_where_nothing_is_known_of_the_file_system_files_are_mapped(tmp_path: Path) -> None:
    (tmp_path / "strange").write_bytes(b"\xff\n\n - nfs\n1 2\n")
    assert not reads_in_order(tmp_path, "auto", tmp_path / "strange")
    assert not reads_in_order(tmp_path, "auto", tmp_path / "missing")


def test_a_link_is_judged_by_the_file_behind_it(tmp_path: Path) -> None:
    # As in the cache of huggingface_hub, whose snapshots are links to its blobs.
    (tmp_path / "link").symlink_to("/proc/self/status")
    assert not reads_in_order(tmp_path / "link", "auto", mounts(tmp_path, "nfs"))

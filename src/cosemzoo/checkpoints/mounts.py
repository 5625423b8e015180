"""How a file is read best where it lies: mapped, or in large pieces from its start to its end."""

import os
from pathlib import Path
from typing import Final, Literal, TypeAlias

#: How files are read: "mmap" maps them, "sequential" reads them in large pieces in the order of their bytes,
#: "auto" chooses by the file system.
Read: TypeAlias = Literal["auto", "mmap", "sequential"]
READS: Final = ("auto", "mmap", "sequential")

#: File systems behind a network, where each page of a mapping that is missing may cost a request of its own.
#: The names are those that the file systems register with Linux: in the kernel's fs/nfs, fs/smb/client,
#: fs/ceph, fs/afs, fs/9p, fs/coda and fs/orangefs, in Lustre's llite, in IBM Storage Scale ("gpfs") and in
#: the client of BeeGFS. Those in user space are "fuse", or "fuse." and a name (mount.fuse3(8)): sshfs,
#: s3fs, glusterfs and others.
NETWORK_FILE_SYSTEMS: Final = frozenset(
    {
        "nfs",
        "nfs4",
        "cifs",
        "smb3",
        "ceph",
        "afs",
        "9p",
        "coda",
        "orangefs",
        "lustre",
        "gpfs",
        "beegfs",
        "fuse",
    }
)
#: Where Linux lists what is mounted.
MOUNTS: Final = Path("/proc/self/mountinfo")


def reads_in_order(path: Path, read: Read, mounts: Path = MOUNTS) -> bool:
    """Tell whether a file is to be read in the order of its bytes instead of being mapped.

    Parameters
    ----------
    path : Path
    read : {"auto", "mmap", "sequential"}
    mounts : Path
        Linux's list of what is mounted, as proc_pid_mountinfo(5) describes it. Without it, as on other
        systems, "auto" maps.

    Raises
    ------
    OSError
        If there is no such file.
    """
    if read != "auto":
        return read == "sequential"
    kind = file_system(path, mounts)
    return kind in NETWORK_FILE_SYSTEMS or kind.startswith("fuse.")


def file_system(path: Path, mounts: Path = MOUNTS) -> str:
    """Give the kind of file system that a file lies on; empty where it is not known.

    Raises
    ------
    OSError
        If there is no such file.
    """
    device = path.stat().st_dev
    number = f"{os.major(device)}:{os.minor(device)}"
    try:
        lines = mounts.read_bytes().decode(errors="replace").split("\n")
    except OSError:
        return ""
    # Number and kind are the third field before and the first after the hyphen.
    fields = (line.partition(" - ") for line in lines)
    return next((rest.split(" ")[0] for mount, _, rest in fields if mount.split(" ")[2:3] == [number]), "")

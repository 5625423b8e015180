"""How much memory a process has, as Linux counts it (proc_pid_status(5), proc_pid_smaps_rollup(5))."""

from pathlib import Path
from typing import Final

MIB: Final = 1 << 20


def anonymous_bytes(pid: int) -> int:
    """Give the resident memory that is of no file (``RssAnon``)."""
    return _kilobytes(Path(f"/proc/{pid}/status"), "RssAnon:") * 1024


def proportional_bytes(pid: int) -> int:
    """Give the proportional set size, ``Pss``: each page divided by the number of processes that have it."""
    return _kilobytes(Path(f"/proc/{pid}/smaps_rollup"), "Pss:") * 1024


def proportional_bytes_of(pid: int, file: Path) -> int:
    """Give the part of the proportional set size that is the mapping of one file."""
    found, inside = 0, False
    for line in Path(f"/proc/{pid}/smaps").read_text(encoding="utf-8").splitlines():
        first = line.split(" ", 1)[0]
        if not first.endswith(":"):
            inside = line.endswith(str(file))
        elif inside and first == "Pss:":
            found += int(line.split()[1]) * 1024
    return found


def _kilobytes(path: Path, field: str) -> int:
    text = path.read_text(encoding="utf-8")
    return int(text.partition(f"\n{field}")[2].split(maxsplit=1)[0])

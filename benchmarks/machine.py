"""The machine in words, as far as it matters for the figures."""

import os
import platform
import re
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from cosemzoo.checkpoints.mounts import file_system

PACKAGES = (
    "cosemzoo",
    "torch",
    "safetensors",
    "huggingface_hub",
    "cellmap-models",
    "dacapo-ml",
)


def describe_machine(folder: Path) -> dict[str, str]:
    """Say what processor, memory, kernel, file system and packages there are.

    Parameters
    ----------
    folder : Path
        Where the files of the run are.
    """
    import torch

    processor = _first(Path("/proc/cpuinfo"), r"model name\s*: (.+)") or platform.machine()
    memory = int(_first(Path("/proc/meminfo"), r"MemTotal:\s*(\d+)") or 0) / 2**20
    kernel = re.match(r"[\d.]*\d", platform.release())
    return {
        "processor": f"{os.cpu_count()} cores, {processor}",
        "memory": f"{memory:.0f} GiB",
        "kernel": f"{platform.system()} {kernel.group() if kernel else ''}".strip(),
        "file system": file_system(folder) or "unknown",
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else "none",
        "load when it began": f"{os.getloadavg()[0]:.2f}",
        "python": platform.python_version(),
        **{name: _version(name) for name in PACKAGES},
    }


def _first(path: Path, pattern: str) -> str:
    found = re.search(pattern, path.read_text(encoding="utf-8"))
    return found.group(1).strip() if found else ""


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "not installed"

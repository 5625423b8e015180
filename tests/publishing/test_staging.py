"""A folder to prepare things in, which is not left behind."""

import subprocess
import sys
from pathlib import Path
from typing import Final

import pytest

from cosemzoo.publishing.staging import staging_folder

_KILLED: Final = """
import os, signal, sys
from pathlib import Path
from cosemzoo.publishing.staging import staging_folder
with staging_folder(Path(sys.argv[1])) as folder:
    (folder / "part").write_text("half")
    os.kill(os.getpid(), signal.SIGKILL)
"""


def left_by_a_killed_process(root: Path) -> list[Path]:
    subprocess.run([sys.executable, "-c", _KILLED, str(root)], check=False)
    return list(root.iterdir())


def test_it_is_empty_and_gone_afterwards_whatever_happens(tmp_path: Path) -> None:
    def be_interrupted() -> None:
        with staging_folder(tmp_path) as folder:
            assert list(folder.iterdir()) == []
            (folder / "part").write_text("half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        be_interrupted()
    assert list(tmp_path.iterdir()) == []


def test_what_a_killed_process_left_is_removed_by_the_next(tmp_path: Path) -> None:
    assert len(left_by_a_killed_process(tmp_path)) == 2
    with staging_folder(tmp_path) as folder:
        assert {path.name for path in tmp_path.iterdir()} == {folder.name, f"{folder.name}.lock"}
    assert list(tmp_path.iterdir()) == []


def test_the_folder_of_a_living_process_stays(tmp_path: Path) -> None:
    with staging_folder(tmp_path) as one:
        (one / "part").write_text("half")
        left_by_a_killed_process(tmp_path)
        with staging_folder(tmp_path) as other:
            assert other != one
        assert (one / "part").read_text() == "half"


def test_by_default_it_is_among_the_assets_of_the_hub_s_client() -> None:
    from huggingface_hub import constants

    with staging_folder() as folder:
        assert folder.is_relative_to(constants.HF_ASSETS_CACHE)

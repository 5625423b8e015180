"""`cosemzoo fetch`."""

import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path

from click.testing import Result

from cosemzoo.localhub import LocalHub

Invoke = Callable[..., Result]


def test_the_weights_are_on_disk_as_they_were_published(invoke: Invoke, run_folder: Path) -> None:
    result = invoke("fetch", "setup04@best", "--json")
    assert result.exit_code == 0, result.output
    answer = json.loads(result.stdout)
    (file,) = answer["files"]
    content = Path(file["path"]).read_bytes()
    assert content == (run_folder / "model.safetensors").read_bytes()
    assert hashlib.sha256(content).hexdigest() == file["sha256"]
    assert answer["bytes"] == file["bytes"] == len(content)


def test_what_was_fetched_is_said(invoke: Invoke, published: LocalHub, tmp_path: Path) -> None:
    said = dict(line.split(maxsplit=1) for line in invoke("fetch", "setup04@best").stdout.splitlines())
    assert said["reference"] == "setup04@best"
    assert said["repository"] == f"cosemzoo/setup04 on {published.endpoint}"
    assert said["criterion"] == "1820500"
    assert said["commit"] in said["file"]
    assert Path(said["file"]).is_relative_to(tmp_path / "cache")
    assert said["bytes"] == f"{Path(said['file']).stat().st_size:,}, verified"


def test_what_was_fetched_is_found_offline(invoke: Invoke, published: LocalHub) -> None:
    online = invoke("fetch", "setup04@best", "--json")
    published.reset_counts()
    offline = invoke("fetch", "setup04@best", "--json", "--offline")
    assert published.requests == []
    assert offline.stdout == online.stdout


def test_a_run_is_looked_up_in_the_namespace(invoke: Invoke) -> None:
    answer = json.loads(invoke("fetch", "run_1", "--namespace", "my-lab", "--json").stdout)
    assert (answer["reference"], answer["repository"]) == ("run_1", "my-lab/run_1")


def test_a_folder_is_verified_where_it_is(invoke: Invoke, run_folder: Path) -> None:
    answer = json.loads(invoke("fetch", str(run_folder), "--json").stdout)
    assert answer["folder"] == str(run_folder)
    assert answer["commit"] is None
    assert answer["content_hash"] == answer["files"][0]["sha256"]
    said = invoke("fetch", str(run_folder)).stdout
    assert f"content        {answer['content_hash']}" in said
    assert "golden sample  none" in said


def test_a_run_of_the_local_zoo_is_found(invoke: Invoke, run_folder: Path, tmp_path: Path) -> None:
    shutil.copytree(run_folder, tmp_path / "runs" / "run_1" / "1000")
    result = invoke("fetch", "local:run_1@1000", "--local-dir", str(tmp_path / "runs"), "--json")
    assert json.loads(result.stdout)["criterion"] == "1000"

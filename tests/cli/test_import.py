"""`cosemzoo import`. The bucket is not asked: generated files of its format are on disk or served locally."""

import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from functools import partial
from hashlib import sha256
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner, Result

from cosemzoo.cli.import_command import import_command
from cosemzoo.errors import CriterionNotFound, ImportConflict, InvalidSetting, NotACosemCheckpoint
from cosemzoo.nets import CosemUNet

NAME = "setup28@775000"


@pytest.fixture(scope="session")
def originals(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder as the bucket is laid out, with one file."""
    folder = tmp_path_factory.mktemp("originals")
    (folder / "setup28").mkdir()
    network = CosemUNet(2, widths_down=(1, 2, 3, 4), widths_up=(2, 2, 3))
    model: dict[str, torch.Tensor] = {}
    for name, tensor in network.state_dict().items():
        chain = name.replace("backbone.", "chain.0.unet.").replace("prediction_head.", "chain.1.")
        model |= {name.replace("backbone.", "architecture.unet."): tensor, chain: tensor}
    torch.save({"model": model, "optimizer": {"state": {}}}, folder / "setup28" / "775000")
    return folder


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    return tmp_path / "runs"


@pytest.fixture
def imported(runs: Path) -> Callable[..., Result]:
    def run(*arguments: str) -> Result:
        return CliRunner().invoke(import_command, [*arguments, "--local-dir", str(runs)])

    return run


def test_what_was_imported_is_said_with_how_to_load_it(
    imported: Callable[..., Result], originals: Path, runs: Path
) -> None:
    result = imported(NAME, "--from-dir", str(originals), "--generated")
    assert result.exit_code == 0, result.output
    pairs, _, rest = result.stdout.partition("\n\n")
    said = dict(line.split(maxsplit=1) for line in pairs.splitlines())
    assert (said["reference"], said["folder"]) == (f"local:{NAME}", str(runs / "setup28" / "775000"))
    weights = (runs / "setup28" / "775000" / "model.safetensors").read_bytes()
    assert sha256(weights).hexdigest() in said["content"]
    assert "final_upsample = 2" in said["network"]
    assert said["channels"] == "er (distance), er_mem (distance)"
    digest = sha256((originals / "setup28" / "775000").read_bytes()).hexdigest()
    assert said["original"] == f"a file, SHA-256 {digest}"
    assert "optimizer" in pairs
    assert said["GENERATED"].startswith("made-up numbers")
    assert "taken on trust" not in rest
    assert rest.startswith("Imported.")
    assert f'CosemStart("local:{NAME}")' in rest


def test_of_a_file_it_is_said_that_its_name_was_taken_on_trust(
    imported: Callable[..., Result], originals: Path
) -> None:
    file = str(originals / "setup28" / "775000")
    result = imported(NAME, "--from-file", file, "--generated")
    assert f"That the file is {NAME} was taken on trust: its tensors say neither" in result.stdout
    assert json.loads(imported(NAME, "--from-file", file, "--generated", "--json").stdout)["already_there"]


def test_made_up_numbers_and_a_trained_network_are_not_taken_for_each_other(
    imported: Callable[..., Result], originals: Path
) -> None:
    imported(NAME, "--from-dir", str(originals), "--generated")
    assert isinstance(imported(NAME).exception, ImportConflict)


def test_a_local_zoo_that_is_a_file_is_refused_with_what_to_give(
    imported: Callable[..., Result], originals: Path, runs: Path
) -> None:
    runs.write_text("a file")
    result = imported(NAME, "--from-dir", str(originals), "--generated")
    assert isinstance(result.exception, InvalidSetting)
    assert f"{runs} is not a folder. Give a folder: --local-dir" in str(result.exception)


def test_json_says_the_same(imported: Callable[..., Result], originals: Path, runs: Path) -> None:
    file = originals / "setup28" / "775000"
    answer = json.loads(imported(NAME, "--from-file", str(file), "--generated", "--json").stdout)
    assert (answer["reference"], answer["already_there"]) == (f"local:{NAME}", False)
    assert answer["folder"] == str(runs / "setup28" / "775000")
    assert answer["content_hash"] == answer["weights"]["files"][0]["sha256"]
    assert answer["manifest"]["generated"]
    assert answer["manifest"]["lineage"]["source_sha256"] == sha256(file.read_bytes()).hexdigest()
    assert len(answer["dropped"]) == 1


def test_the_same_again_changes_nothing(imported: Callable[..., Result], originals: Path) -> None:
    imported(NAME, "--from-dir", str(originals), "--generated")
    again = imported(NAME, "--generated")
    assert again.exit_code == 0, again.output
    assert "Already there: nothing was changed." in again.stdout
    assert "GENERATED" in again.stdout


def test_the_list_has_all_eleven(imported: Callable[..., Result]) -> None:
    lines = imported("--list").stdout.splitlines()
    assert (len(lines), lines[0], lines[-1]) == (11, "setup04@625000", "setup45@1634500")
    assert json.loads(imported("--list", "--json").stdout) == lines


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "say which one"),
        ([NAME, "--from-file", "a", "--from-dir", "b"], "give one of them"),
        ([NAME, "--from-file", "a", "--base-url", "https://example.org"], "give one of them"),
    ],
)
def test_what_contradicts_itself_is_refused(
    imported: Callable[..., Result], arguments: list[str], said: str
) -> None:
    result = imported(*arguments)
    assert (result.exit_code, said in result.stderr) == (2, True)


@pytest.mark.parametrize(
    ("text", "kind"), [("setup28", CriterionNotFound), ("setup29@775000", NotACosemCheckpoint)]
)
@pytest.mark.parametrize("arguments", [[], ["--from-dir", "."]])
def test_what_was_not_published_is_refused(
    imported: Callable[..., Result], text: str, kind: type[Exception], arguments: list[str]
) -> None:
    assert isinstance(imported(text, *arguments).exception, kind)


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def mirror(originals: Path) -> Iterator[str]:
    running = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(originals)))
    thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield f"http://127.0.0.1:{running.server_port}"
    running.shutdown()
    running.server_close()
    thread.join()


def test_a_download_can_be_kept(
    imported: Callable[..., Result],
    mirror: str,
    originals: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("huggingface_hub.utils._cache_assets.HF_ASSETS_CACHE", str(tmp_path / "assets"))
    result = imported(NAME, "--base-url", mirror, "--keep-download", "--generated")
    assert f"{mirror}/setup28/775000" in result.stdout
    (kept,) = (path for path in (tmp_path / "assets").rglob(f"{NAME}-*") if path.suffix != ".lock")
    assert kept.read_bytes() == (originals / "setup28" / "775000").read_bytes()


def test_as_a_program_it_puts_the_document_on_stdout_and_nothing_else_anywhere(
    mirror: str, tmp_path: Path
) -> None:
    variables = os.environ | {
        "COSEMZOO_COSEM_URL": mirror,
        "COSEMZOO_LOCAL_DIR": str(tmp_path / "runs"),
        "HF_ASSETS_CACHE": str(tmp_path / "assets"),
        "PYTHONPATH": os.pathsep.join(sys.path),
    }
    script = "from cosemzoo.cli.import_command import import_command; import_command()"
    command = [sys.executable, "-W", "error", "-c", script, NAME, "--generated", "--json"]
    done = subprocess.run(command, env=variables, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert json.loads(done.stdout)["manifest"]["lineage"]["source_url"] == f"{mirror}/setup28/775000"
    assert (tmp_path / "runs" / "setup28" / "775000" / "README.md").is_file()

"""The import of the published checkpoints. The real bucket is not asked: a server on this machine has
generated files of its format, with small widths."""

import json
import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from functools import partial
from hashlib import sha256
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import torch
from huggingface_hub import HfApi
from safetensors.torch import load_file

from cosemzoo import CosemStart
from cosemzoo.errors import (
    CriterionNotFound,
    DownloadFailed,
    ImportConflict,
    IntegrityError,
    InvalidReference,
    InvalidSetting,
    NotACosemCheckpoint,
    UnreadableCheckpoint,
    UnsafePickle,
)
from cosemzoo.manifest import Manifest
from cosemzoo.nets import CosemUNet
from cosemzoo.publishing import download, importing
from cosemzoo.publishing.cosem import find_original, original_url, originals
from cosemzoo.publishing.importing import import_checkpoint, push_imported
from cosemzoo.publishing.known_cards import known_card
from cosemzoo.zoo import Zoo

NAME = "setup04@1820500"
LABELS = "ecs pm mito mito_mem ves ves_mem endo endo_mem er er_mem eres nuc mt mt_out"
SETUP04 = LABELS.split(" ")


def write_original(path: Path, channels: int = 14, *, seed: int = 0, plain: bool = False) -> Path:
    """Write a file of the bucket's format: every tensor under two names, and the optimizer's state."""
    torch.manual_seed(seed)
    network = CosemUNet(channels, widths_down=(1, 2, 3, 4), widths_up=(2, 2, 3))
    model: dict[str, torch.Tensor] = {}
    for name, tensor in network.state_dict().items():
        module, _, rest = name.partition(".")
        if module == "prediction_head":
            names = [name, f"chain.1.{rest}"]
        elif plain and not rest.startswith("0."):
            continue
        else:
            rest = rest.removeprefix("0.") if plain else rest
            names = [f"architecture.unet.{rest}", f"chain.0.unet.{rest}"]
        model |= dict.fromkeys(names, tensor)
    state = {i: {"step": 9, "exp_avg": torch.rand(3)} for i in range(2)}
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save({"model": model, "optimizer": {"state": state, "param_groups": [{"lr": 5e-5}]}}, path)
    return path


class Bucket(SimpleHTTPRequestHandler):
    asked: list[str]

    def do_GET(self) -> None:
        self.asked.append(self.path)
        super().do_GET()

    def log_message(self, *_: Any) -> None:
        pass


class Served:
    """A folder that is served as the bucket is, and what was asked of it."""

    def __init__(self, folder: Path, url: str, asked: list[str]) -> None:
        self.folder, self.url, self.asked = folder, url, asked


@pytest.fixture
def bucket(tmp_path: Path) -> Iterator[Served]:
    folder = tmp_path / "bucket"
    write_original(folder / "setup04" / "1820500")
    asked: list[str] = []
    handler = type("Own", (Bucket,), {"asked": asked})
    running = ThreadingHTTPServer(("127.0.0.1", 0), partial(handler, directory=str(folder)))
    thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield Served(folder, f"http://127.0.0.1:{running.server_port}", asked)
    running.shutdown()
    running.server_close()
    thread.join()


@pytest.fixture(autouse=True)
def assets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Downloads are kept in a cache of the test's own while they are needed."""
    monkeypatch.setattr("huggingface_hub.utils._cache_assets.HF_ASSETS_CACHE", str(tmp_path / "assets"))
    monkeypatch.delenv("COSEMZOO_COSEM_URL", raising=False)
    return tmp_path / "assets"


@pytest.fixture(autouse=True)
def _small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the published networks be as narrow as those of the files here."""
    widths = {"widths_down": [1, 2, 3, 4], "widths_up": [2, 2, 3]}
    monkeypatch.setattr(importing, "_PUBLISHED_NETWORK", importing._PUBLISHED_NETWORK | widths)


@pytest.fixture
def local() -> Zoo:
    return Zoo()


def manifest_of(folder: Path | None) -> dict[str, Any]:
    assert folder is not None
    manifest: dict[str, Any] = json.loads((folder / "config.json").read_text())
    return manifest


def kept(assets: Path) -> list[str]:
    """Give the names of all downloads that are there, whole or in part."""
    return [path.name for path in assets.rglob("*") if path.is_file() and path.suffix != ".lock"]


def left_in(zoo: Zoo, run: str = "setup04") -> set[str]:
    """Give the checkpoints of a run's folder, which has, beside them, only an empty place to make them in."""
    folder = zoo.local_dir / run
    found = {path.name for path in folder.iterdir()} if folder.exists() else set()
    assert found == set() or list((folder / ".importing").iterdir()) == []
    return found - {".importing"}


# --- which -------------------------------------------------------------------------------------------------


def test_the_eleven_published_checkpoints_are_known_in_order() -> None:
    assert [str(original) for original in originals()] == [
        "setup04@625000", "setup04@975000", "setup04@1820500", "setup26.1@650000", "setup26.1@2580000",
        "setup28@775000", "setup28@1440000", "setup36@500000", "setup36@1100000", "setup45@625000",
        "setup45@1634500",
    ]  # fmt: skip


def test_the_cards_list_the_iterations_that_can_be_imported() -> None:
    for run in {original.run for original in originals()}:
        card = known_card(run)
        assert card is not None
        there = [original.iteration for original in originals() if original.run == run]
        assert list(card.description.iterations) == there


def test_each_has_its_address_in_the_bucket() -> None:
    assert original_url(find_original("setup26.1@650000")) == (
        "https://janelia-cosem-networks.s3.amazonaws.com/v0003.2-pytorch/cosem_models/cosem_models"
        "/setup26.1/650000"
    )


@pytest.mark.parametrize("text", ["setup28@775000", "local:setup28@775000"])
def test_it_is_named_as_on_the_hub_or_as_in_the_local_zoo(text: str) -> None:
    assert str(find_original(text)) == "setup28@775000"


@pytest.mark.parametrize("text", ["setup04", "setup04@best", "local:setup04"])
def test_a_run_without_an_iteration_lists_those_there_are(text: str) -> None:
    with pytest.raises(CriterionNotFound, match="No measurement says which is best") as caught:
        find_original(text)
    assert caught.value.available == ("625000", "975000", "1820500")


@pytest.mark.parametrize(
    ("text", "meant"),
    [
        ("setup04@182050", "setup04@1820500"),
        ("Setup36@500000", "setup36@500000"),
        ("setup46@1634500", "setup45"),
    ],
)
def test_what_was_not_published_is_refused_with_what_was_probably_meant(text: str, meant: str) -> None:
    with pytest.raises(NotACosemCheckpoint, match=f"Did you mean '{re.escape(meant)}"):
        find_original(text)


def test_of_a_known_run_its_own_checkpoints_are_listed() -> None:
    with pytest.raises(NotACosemCheckpoint) as caught:
        find_original("setup36@1")
    assert caught.value.known == ("setup36@500000", "setup36@1100000")


@pytest.mark.parametrize("text", ["run_1@1000", "my-lab/setup04@1820500", "./setup04"])
def test_anything_else_is_refused_with_all_of_them(text: str) -> None:
    with pytest.raises(NotACosemCheckpoint) as caught:
        find_original(text)
    assert len(caught.value.known) == 11


def test_the_older_spelling_is_refused_with_the_right_one(local: Zoo) -> None:
    with pytest.raises(InvalidReference, match="did you mean setup04@1820500"):
        import_checkpoint("setup04/1820500", zoo=local)


# --- what it becomes ---------------------------------------------------------------------------------------


def test_an_imported_checkpoint_is_found_and_loads(bucket: Served, local: Zoo, assets: Path) -> None:
    done = import_checkpoint(NAME, zoo=local, base_url=bucket.url)
    assert (done.reference, done.was_there) == ("local:setup04@1820500", False)
    assert done.checkpoint.folder == local.local_dir / "setup04" / "1820500"
    assert bucket.asked == ["/setup04/1820500"]
    original = torch.load(bucket.folder / "setup04" / "1820500", weights_only=True)["model"]
    assert len(original) == 84
    start = CosemStart("local:setup04@1820500")
    model = CosemUNet(14, widths_down=(1, 2, 3, 4), widths_up=(2, 2, 3))
    assert start.channels == SETUP04
    start.initialize_weights(model, new_head=SETUP04)
    for name, tensor in model.state_dict().items():
        before = name.replace("backbone.", "architecture.unet.")
        assert torch.equal(tensor, original[before])
    assert left_in(local) == {"1820500"}
    assert kept(assets) == []


def test_the_folder_holds_each_tensor_once_a_manifest_and_a_card(bucket: Served, local: Zoo) -> None:
    folder = import_checkpoint(NAME, zoo=local, base_url=bucket.url).checkpoint.folder
    assert folder is not None
    assert {path.name for path in folder.iterdir()} == {"model.safetensors", "config.json", "README.md"}
    assert len(load_file(folder / "model.safetensors")) == 42
    assert "# COSEM setup04" in (folder / "README.md").read_text()
    manifest = manifest_of(folder)
    assert (manifest["run"], manifest["iteration"], manifest["generated"]) == ("setup04", 1820500, False)
    assert [channel["label"] for channel in manifest["channels"]] == SETUP04


def test_the_manifest_says_where_it_came_from(bucket: Served, local: Zoo) -> None:
    source = bucket.folder / "setup04" / "1820500"
    url = bucket.url.replace("http://", "http://user:hunter2@")
    folder = import_checkpoint(NAME, zoo=local, base_url=url).checkpoint.folder
    assert folder is not None
    text = (folder / "config.json").read_text()
    lineage = json.loads(text)["lineage"]
    assert lineage["source_url"] == f"{bucket.url}/setup04/1820500"
    assert lineage["source_sha256"] == sha256(source.read_bytes()).hexdigest()
    assert lineage["weights_sha256"] == sha256((folder / "model.safetensors").read_bytes()).hexdigest()
    assert "hunter2" not in text


@pytest.mark.parametrize(
    ("name", "plain", "factor"),
    [
        ("setup28@775000", False, 2),
        ("setup45@1634500", False, 1),
        ("setup45@1634500", True, None),
    ],
)
def test_the_network_is_recognised_by_its_tensors_not_by_the_name_of_the_run(
    tmp_path: Path, name: str, plain: bool, factor: int | None
) -> None:
    source = write_original(tmp_path / "file", 2, plain=plain)
    done = import_checkpoint(name, zoo=Zoo(), source=source)
    arguments = manifest_of(done.checkpoint.folder)["architecture"]["arguments"]
    assert arguments["final_upsample"] == factor
    assert (arguments["channels"], arguments["input_channels"]) == (2, 1)
    assert (arguments["widths_down"], arguments["widths_up"]) == ([1, 2, 3, 4], [2, 2, 3])
    names = done.checkpoint.weights.tensors
    assert ("backbone.l_conv.0.conv_pass.0.weight" in names) == plain
    assert len(names) == (36 if plain else 42)


def test_generated_weights_are_said_to_be_generated(tmp_path: Path, local: Zoo) -> None:
    done = import_checkpoint(NAME, zoo=local, source=write_original(tmp_path / "file"), generated=True)
    assert manifest_of(done.checkpoint.folder)["generated"]
    assert done.checkpoint.folder is not None
    assert "made-up numbers" in (done.checkpoint.folder / "README.md").read_text()


def test_a_file_from_disk_needs_no_network_and_stays(tmp_path: Path, bucket: Served) -> None:
    source = write_original(tmp_path / "file")
    done = import_checkpoint(NAME, zoo=Zoo(offline=True), source=source)
    assert source.exists()
    assert bucket.asked == []
    assert manifest_of(done.checkpoint.folder)["lineage"].get("source_url") is None


# --- again -------------------------------------------------------------------------------------------------


def test_what_was_imported_is_not_downloaded_again(bucket: Served, local: Zoo) -> None:
    first = import_checkpoint(NAME, zoo=local, base_url=bucket.url)
    again = import_checkpoint(NAME, zoo=Zoo(offline=True), base_url=bucket.url)
    assert (again.was_there, again.conversion) == (True, None)
    assert again.checkpoint == first.checkpoint
    assert len(bucket.asked) == 1


def test_the_same_file_from_disk_is_there_already(tmp_path: Path, local: Zoo) -> None:
    source = write_original(tmp_path / "file")
    assert not import_checkpoint(NAME, zoo=local, source=source).was_there
    assert import_checkpoint(NAME, zoo=local, source=source).was_there
    assert left_in(local) == {"1820500"}


def test_other_weights_of_the_same_name_are_refused(tmp_path: Path, local: Zoo) -> None:
    done = import_checkpoint(NAME, zoo=local, source=write_original(tmp_path / "file"))
    other = write_original(tmp_path / "other", seed=1)
    with pytest.raises(
        ImportConflict, match=f"other weights: SHA-256 {done.checkpoint.content_hash}"
    ) as caught:
        import_checkpoint(NAME, zoo=local, source=other)
    assert (caught.value.reference, caught.value.folder) == (done.reference, done.checkpoint.folder)
    assert local.resolve(done.reference) == done.checkpoint
    assert left_in(local) == {"1820500"}


def test_a_checkpoint_of_that_name_that_was_not_imported_is_not_taken_for_it(
    bucket: Served, local: Zoo, write_folder: Callable[..., Path]
) -> None:
    write_folder(local.local_dir / "setup04" / "1820500")
    with pytest.raises(ImportConflict, match="was not imported"):
        import_checkpoint(NAME, zoo=local, base_url=bucket.url)
    assert bucket.asked == []


def test_the_same_weights_that_were_not_imported_are_not_taken_for_it(tmp_path: Path, local: Zoo) -> None:
    source = write_original(tmp_path / "file")
    folder = import_checkpoint(NAME, zoo=local, source=source).checkpoint.folder
    assert folder is not None
    (folder / "config.json").unlink()
    with pytest.raises(ImportConflict, match="was not imported"):
        import_checkpoint(NAME, zoo=local, source=source)


@pytest.mark.parametrize("first", [False, True])
@pytest.mark.parametrize("from_disk", [False, True])
def test_made_up_numbers_and_a_trained_network_are_not_taken_for_each_other(
    bucket: Served, local: Zoo, first: bool, from_disk: bool
) -> None:
    source = bucket.folder / "setup04" / "1820500" if from_disk else None
    folder = import_checkpoint(NAME, zoo=local, base_url=bucket.url, generated=first).checkpoint.folder
    for again in (first, not first):
        with nullcontext() if again == first else pytest.raises(ImportConflict, match="were asked for"):
            import_checkpoint(NAME, zoo=local, source=source, base_url=bucket.url, generated=again)
    assert manifest_of(folder)["generated"] == first
    assert len(bucket.asked) == 1


@pytest.mark.parametrize("from_disk", [False, True])
def test_an_empty_folder_is_no_checkpoint(bucket: Served, local: Zoo, from_disk: bool) -> None:
    (local.local_dir / "setup04" / "1820500").mkdir(parents=True)
    source = bucket.folder / "setup04" / "1820500" if from_disk else None
    assert not import_checkpoint(NAME, zoo=local, source=source, base_url=bucket.url).was_there
    assert left_in(local) == {"1820500"}


def test_a_damaged_import_is_said_and_left_as_it_is(bucket: Served, local: Zoo) -> None:
    folder = import_checkpoint(NAME, zoo=local, base_url=bucket.url).checkpoint.folder
    assert folder is not None
    path = folder / "model.safetensors"
    damaged = bytearray(path.read_bytes())
    damaged[-1] ^= 1
    path.write_bytes(damaged)
    with pytest.raises(IntegrityError, match=f"remove {re.escape(str(folder))} first"):
        import_checkpoint(NAME, zoo=local, base_url=bucket.url)
    assert path.read_bytes() == damaged
    assert len(bucket.asked) == 1


# --- what fails --------------------------------------------------------------------------------------------


def test_a_file_with_another_head_than_the_card_says_is_refused(tmp_path: Path, local: Zoo) -> None:
    source = write_original(tmp_path / "file", channels=13)
    with pytest.raises(UnreadableCheckpoint, match=r"card of setup04.*mt_out") as caught:
        import_checkpoint(NAME, zoo=local, source=source)
    assert caught.value.source == str(source)
    assert str(caught.value).endswith(f"Check that it is the file of {NAME}.")
    assert not (local.local_dir / "setup04").exists()


def test_a_network_of_another_form_than_the_card_says_is_refused(tmp_path: Path, local: Zoo) -> None:
    # As the plain form, which ends with the U-Net, is at 8 nm of input and 4 nm of output.
    source = write_original(tmp_path / "file", plain=True)
    with pytest.raises(UnreadableCheckpoint, match=r"output_voxel_size is 4, 4, 4 nm for 8, 8, 8 nm"):
        import_checkpoint(NAME, zoo=local, source=source)


@pytest.mark.parametrize("generated", [False, True])
def test_a_smaller_network_is_taken_for_made_up_numbers_alone(
    tmp_path: Path, local: Zoo, monkeypatch: pytest.MonkeyPatch, generated: bool
) -> None:
    monkeypatch.undo()
    monkeypatch.setenv("COSEMZOO_LOCAL_DIR", str(local.local_dir))
    source = write_original(tmp_path / "file")
    if generated:
        assert import_checkpoint(NAME, zoo=Zoo(), source=source, generated=True)
        return
    with pytest.raises(UnreadableCheckpoint) as caught:
        import_checkpoint(NAME, zoo=Zoo(), source=source)
    assert caught.value.problem == (
        "its widths_down is [1, 2, 3, 4], where the published networks have [12, 72, 432, 2592]; "
        "widths_up is [2, 2, 3], where the published networks have [72, 72, 432]"
    )


def test_a_failure_leaves_other_checkpoints_of_the_run(tmp_path: Path, local: Zoo) -> None:
    import_checkpoint("setup04@625000", zoo=local, source=write_original(tmp_path / "file"))
    with pytest.raises(UnreadableCheckpoint):
        import_checkpoint(NAME, zoo=local, source=write_original(tmp_path / "other", channels=13))
    assert {path.name for path in (local.local_dir / "setup04").iterdir()} == {"625000"}


@pytest.mark.parametrize("blocked", ["", "setup04", "setup04/1820500"])
def test_a_place_that_is_a_file_is_said_before_the_download(bucket: Served, local: Zoo, blocked: str) -> None:
    path = local.local_dir / blocked
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("a file")
    with pytest.raises(InvalidSetting, match=f"{re.escape(str(path))} is not a folder. Give a folder"):
        import_checkpoint(NAME, zoo=local, base_url=bucket.url)
    assert bucket.asked == []


def test_a_file_of_another_network_is_refused(tmp_path: Path, local: Zoo) -> None:
    torch.save({"model": {"conv.weight": torch.rand(14, 3), "conv.bias": torch.rand(14)}}, tmp_path / "file")
    with pytest.raises(UnreadableCheckpoint, match="not those of a COSEM U-Net"):
        import_checkpoint(NAME, zoo=local, source=tmp_path / "file")
    assert left_in(local) == set()


class _Malicious:
    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, ("ran",)


def test_a_download_that_would_run_code_runs_none_and_is_not_kept(
    bucket: Served, local: Zoo, assets: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save({"model": _Malicious()}, bucket.folder / "setup04" / "1820500")
    with pytest.raises(UnsafePickle, match="mkdir"):
        import_checkpoint(NAME, zoo=local, base_url=bucket.url)
    assert not (tmp_path / "ran").exists()
    assert kept(assets) == []
    assert left_in(local) == set()


def test_a_checkpoint_that_the_server_has_not_leaves_nothing(
    bucket: Served, local: Zoo, assets: Path
) -> None:
    with pytest.raises(DownloadFailed, match=r"setup28@775000.*404"):
        import_checkpoint("setup28@775000", zoo=local, base_url=bucket.url)
    assert not (local.local_dir / "setup28").exists()
    assert kept(assets) == []


def test_a_file_that_is_not_there_is_said(tmp_path: Path, local: Zoo) -> None:
    with pytest.raises((UnreadableCheckpoint, FileNotFoundError), match="missing"):
        import_checkpoint(NAME, zoo=local, source=tmp_path / "missing")
    assert left_in(local) == set()


def test_offline_nothing_is_downloaded(bucket: Served) -> None:
    with pytest.raises(
        DownloadFailed, match=r"offline.*run: cosemzoo import setup04@1820500; or .*--from-file"
    ):
        import_checkpoint(NAME, zoo=Zoo(offline=True), base_url=bucket.url)
    assert bucket.asked == []


# --- mirrors and downloads ---------------------------------------------------------------------------------


def test_a_mirror_can_be_set_in_the_environment(
    bucket: Served, local: Zoo, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COSEMZOO_COSEM_URL", f"{bucket.url}/")
    import_checkpoint(NAME, zoo=local)
    assert bucket.asked == ["/setup04/1820500"]


@pytest.mark.parametrize(
    "url", ["http://example.org", "https://example.org/?x", "https://example.org/#x", "x"]
)
def test_a_mirror_that_is_no_https_address_is_refused(local: Zoo, url: str) -> None:
    with pytest.raises(InvalidSetting):
        import_checkpoint(NAME, zoo=local, base_url=url)


@pytest.mark.parametrize("after", ["?signature=hunter2", "#hunter2"])
def test_a_signature_in_the_address_of_a_mirror_is_not_said(
    local: Zoo, monkeypatch: pytest.MonkeyPatch, after: str
) -> None:
    url = f"https://user:hunter2@example.org/cosem{after}"
    monkeypatch.setenv("COSEMZOO_COSEM_URL", url)
    for base_url in (url, None):
        with pytest.raises(InvalidSetting, match=r"'https://example\.org/cosem' has a ") as caught:
            import_checkpoint(NAME, zoo=local, base_url=base_url)
        assert "hunter2" not in str(caught.value)


def test_a_mirror_that_cannot_be_asked_is_said_with_what_else_can_be_done(
    local: Zoo, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(download, "_WAIT_S", 0.0)
    with pytest.raises(DownloadFailed, match=r"goes on where it stopped\..*--from-file"):
        import_checkpoint(NAME, zoo=local, base_url="http://127.0.0.1:9")


def test_a_download_can_be_kept_and_is_used_again(bucket: Served, local: Zoo, assets: Path) -> None:
    import_checkpoint(NAME, zoo=local, base_url=bucket.url, keep_download=True)
    (name,) = kept(assets)
    assert name.startswith("setup04@1820500")
    elsewhere = Zoo(local_dir=local.local_dir.with_name("elsewhere"))
    import_checkpoint(NAME, zoo=elsewhere, base_url=bucket.url)
    assert len(bucket.asked) == 1
    assert kept(assets) == []


def test_progress_is_told_of_downloading_and_of_converting(bucket: Served, local: Zoo) -> None:
    told: list[tuple[int, int]] = []
    import_checkpoint(NAME, zoo=local, base_url=bucket.url, progress=lambda *done: told.append(done))
    size = (bucket.folder / "setup04" / "1820500").stat().st_size
    assert (size, size) in told
    assert told[-1][0] == told[-1][1] != size


# --- processes ---------------------------------------------------------------------------------------------


def test_imports_at_once_end_with_one_checkpoint(bucket: Served, local: Zoo, assets: Path) -> None:
    def once(_: int) -> bool:
        return import_checkpoint(NAME, zoo=Zoo(), base_url=bucket.url).was_there

    # Locks hold between threads as they do between processes.
    with ThreadPoolExecutor(4) as pool:
        assert sorted(pool.map(once, range(4))) == [False, True, True, True]
    assert len(bucket.asked) == 1
    assert left_in(local) == {"1820500"}
    assert kept(assets) == []


def test_imports_of_two_mirrors_at_once_end_with_one_checkpoint(
    bucket: Served, local: Zoo, assets: Path
) -> None:
    both = threading.Barrier(2, timeout=10)

    def once(url: str) -> bool:
        waited = iter([both.wait])

        def wait_before_converting(done: int, total: int) -> None:
            # The download of each is over before either is placed.
            if done == total:
                next(waited, int)()

        return import_checkpoint(NAME, zoo=Zoo(), base_url=url, progress=wait_before_converting).was_there

    with ThreadPoolExecutor(2) as pool:
        done = pool.map(once, [bucket.url, bucket.url.replace("127.0.0.1", "localhost")])
        assert sorted(done) == [False, True]
    assert len(bucket.asked) == 2
    assert left_in(local) == {"1820500"}
    assert kept(assets) == []


KILLED = """
import os, signal
from cosemzoo.publishing import importing
from cosemzoo.zoo import Zoo
importing.Lineage = lambda **_: os.kill(os.getpid(), signal.SIGKILL)
importing.import_checkpoint("setup04@1820500", zoo=Zoo(), generated=True)
"""


def test_an_import_that_is_killed_leaves_no_checkpoint_and_the_next_tidies_up(
    bucket: Served, local: Zoo, assets: Path
) -> None:
    environment = os.environ | {
        "HF_ASSETS_CACHE": str(assets),
        "COSEMZOO_COSEM_URL": bucket.url,
        "PYTHONPATH": os.pathsep.join(sys.path),
    }
    killed = subprocess.run([sys.executable, "-c", KILLED], env=environment, check=False)
    assert killed.returncode == -signal.SIGKILL
    run = local.local_dir / "setup04"
    assert list(run.rglob("model.safetensors"))
    assert not (run / "1820500").exists()
    with pytest.raises(CriterionNotFound):
        local.resolve("local:setup04@1820500")
    assert not import_checkpoint(NAME, zoo=local, base_url=bucket.url).was_there
    assert left_in(local) == {"1820500"}
    assert kept(assets) == []
    assert len(bucket.asked) == 1


# --- to the Hub --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("namespace", "name"), [(None, NAME), ("lab", f"lab/{NAME}")])
def test_an_imported_checkpoint_can_be_published(
    zoo: Zoo, api: HfApi, tmp_path: Path, namespace: str | None, name: str
) -> None:
    done = import_checkpoint(NAME, zoo=zoo, source=write_original(tmp_path / "file"))
    published = push_imported(done, zoo=zoo, namespace=namespace)
    assert published.changes
    found = zoo.resolve(name)
    assert found.manifest == done.checkpoint.manifest
    assert isinstance(found.manifest, Manifest)
    repository = f"{namespace or 'cosemzoo'}/setup04"
    card = api.hf_hub_download(repository, "README.md", cache_dir=tmp_path / "reader")
    assert f'CosemStart("{name}")' in Path(card).read_text()
    assert push_imported(done, zoo=zoo, namespace=namespace).changes == ()

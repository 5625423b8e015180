"""`scripts/import_cosem.py`. The bucket is not asked: generated files of its format are on disk."""

import importlib.util
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from cosemzoo.localhub import LocalHub
from cosemzoo.nets import CosemUNet
from cosemzoo.publishing.known_cards import known_card
from cosemzoo.reference import published_iterations
from cosemzoo.zoo import Zoo

SCRIPT = Path(__file__).parents[1] / "scripts" / "import_cosem.py"


@pytest.fixture(scope="session")
def originals(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder as the bucket is laid out, with all eleven files."""
    folder = tmp_path_factory.mktemp("originals")
    for run, iterations in published_iterations().items():
        (folder / run).mkdir()
        card = known_card(run)
        assert card is not None
        for iteration in iterations:
            network = CosemUNet(len(card.description.channels), widths_down=(1, 2, 3, 4), widths_up=(2, 2, 3))
            model: dict[str, torch.Tensor] = {}
            for name, tensor in network.state_dict().items():
                chain = name.replace("backbone.", "chain.0.unet.").replace("prediction_head.", "chain.1.")
                model |= {name.replace("backbone.", "architecture.unet."): tensor, chain: tensor}
            torch.save({"model": model, "optimizer": {"state": {}}}, folder / run / iteration)
    return folder


@pytest.fixture
def script() -> Callable[[list[str]], int]:
    """Give the script's main function, in this process."""
    spec = importlib.util.spec_from_file_location("import_cosem", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    main: Callable[[list[str]], int] = module.main
    return main


def test_all_eleven_are_imported_and_listed(
    script: Callable[[list[str]], int], originals: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert script(["--from-dir", str(originals), "--generated"]) == 0
    table = capsys.readouterr().out
    assert table.count("imported: local:setup") == 11
    for run, iterations in published_iterations().items():
        for iteration in iterations:
            manifest = Zoo().resolve(f"local:{run}@{iteration}").manifest
            assert manifest is not None
            assert manifest.generated
    assert script(["--from-dir", str(originals), "--generated"]) == 0
    assert capsys.readouterr().out.count("was there: local:setup") == 11


def test_after_a_failure_it_goes_on_and_fails_at_the_end(
    script: Callable[[list[str]], int], originals: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    partial = tmp_path / "partial"
    (partial / "setup36").mkdir(parents=True)
    (partial / "setup36" / "500000").write_bytes(b"no checkpoint")
    (partial / "setup36" / "1100000").symlink_to(originals / "setup36" / "1100000")
    names = ["setup36@500000", "setup37@1", "setup36@1100000"]
    assert script([*names, "--from-dir", str(partial), "--generated"]) == 1
    said = capsys.readouterr()
    rows = [line for line in said.out.splitlines() if line.startswith("setup")]
    assert ["FAILED" in row for row in rows] == [True, True, False]
    assert "imported: local:setup36@1100000" in rows[2]
    assert "These can be imported" in said.err


def test_a_smaller_network_is_none_of_them_unless_it_is_said_to_be_made_up(
    script: Callable[[list[str]], int], originals: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert script(["setup36@500000", "--from-dir", str(originals)]) == 1
    assert "widths_down is [1, 2, 3, 4]" in capsys.readouterr().err


def test_they_can_be_published_as_well(
    script: Callable[[list[str]], int],
    originals: Path,
    hub: LocalHub,
    zoo: Zoo,
    capsys: pytest.CaptureFixture[str],
) -> None:
    names = ["setup36@500000", "setup36@1100000"]
    arguments = [
        *names,
        "--from-dir",
        str(originals),
        "--generated",
        "--push",
        "--namespace",
        "lab",
        "--endpoint",
        hub.endpoint,
    ]
    assert script(arguments) == 0
    assert capsys.readouterr().out.count("; published: lab/setup36@") == 2
    index = zoo.criteria("lab/setup36")
    assert index is not None
    assert set(index.criteria) == {"500000", "1100000"}
    assert index.aliases == {}
    assert script(arguments) == 0
    assert capsys.readouterr().out.count("was there: local:setup36@500000; was published: lab/setup36@") == 1


def test_what_was_done_before_a_failure_is_in_the_table(
    script: Callable[[list[str]], int], originals: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["setup36@500000", "--from-dir", str(originals), "--generated"]
    assert script([*arguments, "--push", "--endpoint", "http://127.0.0.1:9"]) == 1
    assert "imported: local:setup36@500000" in capsys.readouterr().out


def test_its_help_shows_how_it_is_used() -> None:
    done = subprocess.run([sys.executable, str(SCRIPT), "--help"], capture_output=True, text=True, check=True)
    assert "--from-dir" in done.stdout
    assert "python scripts/import_cosem.py --from-dir cosem_models --push" in done.stdout

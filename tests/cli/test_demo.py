"""`cosemzoo demo`."""

import json
import re
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner
from torch import Tensor, nn

from cosemzoo.checkpoints.header import read_header
from cosemzoo.cli import main
from cosemzoo.cli.demo.checks import check_load
from cosemzoo.cli.demo.run import FULL, LABELS, REDUCED, Size, make_network
from cosemzoo.starts import CosemStart

MODEL_CARD = Path(__file__).parents[2] / "model_cards" / "setup04.md"


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Have the home of somebody whose settings would all be in the way."""
    return tmp_path_factory.mktemp("home")


@pytest.fixture(scope="module")
def proxy() -> Iterator[socket.socket]:
    """Have a proxy that takes whatever would leave this machine, and answers nothing."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.setblocking(False)
        yield listener


@pytest.fixture(scope="module")
def told(program: str, home: Path, proxy: socket.socket) -> str:
    """Run the demonstration in a process of its own, its folder kept; give what it prints."""
    through = f"127.0.0.1:{proxy.getsockname()[1]}"
    done = subprocess.run(
        [program, "demo", "--keep", "kept"],
        cwd=home,
        env={
            "HOME": str(home),
            "TMPDIR": str(home),
            "HF_HOME": str(home / "hf"),
            "HF_TOKEN": "hf_secret",
            "HF_ENDPOINT": "http://127.0.0.1:9",
            "HF_HUB_OFFLINE": "1",
            "TRANSFORMERS_OFFLINE": "1",
            "HTTP_PROXY": f"http://{through}",
            "https_proxy": f"http://{through}",
            # The client cannot use this kind.
            "ALL_PROXY": f"socks5://{through}",
            "COSEMZOO_NAMESPACE": "nobody",
        },
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


def test_it_says_first_and_last_that_the_weights_are_generated(told: str) -> None:
    steps = re.split(r"^\d\. ", told, flags=re.MULTILINE)
    assert len(steps) == 6
    assert "Its weights are GENERATED random numbers" in steps[0]
    assert "The weights were GENERATED" in steps[-1].partition("Done in")[2]


def test_the_plan_is_made_without_the_weights(told: str) -> None:
    counted = re.search(
        r"^(\d+) requests, ([\d,]+) bytes; the weights, ([\d,]+) bytes, were not needed", told, re.MULTILINE
    )
    assert counted is not None
    requests, read, weights = (int(number.replace(",", "")) for number in counted.groups())
    assert 0 < requests <= 10
    assert 0 < read < 120_000
    assert weights > 20_000_000
    assert f"The Hub sent {weights:,} bytes." in told


def test_the_rows_go_by_label_online_and_offline(told: str) -> None:
    lines = re.findall(r"^  ok  (.*)$", told, re.MULTILINE)
    assert lines == 2 * [
        "all 40 tensors of the backbone hold the checkpoint's values",
        "row 0 (mito) holds row 2 of the checkpoint",
        "row 1 (er) holds row 8 of the checkpoint",
        "row 2 (nuc) holds row 11 of the checkpoint",
        "row 3 (ld) holds the network's own values",
    ]
    assert "plan of a partial load of setup04@best" in told
    assert "partial load of setup04@best" in told.partition("4. Download")[2]


def test_nothing_leaves_this_machine(told: str, proxy: socket.socket) -> None:
    assert told
    with pytest.raises(BlockingIOError):
        proxy.accept()


def test_nothing_is_left_but_what_is_kept(told: str, home: Path) -> None:
    assert [path.name for path in home.iterdir()] == ["kept"]
    assert f"cosemzoo hub serve --root {home / 'kept' / 'hub'}" in told


def test_what_is_kept_can_be_looked_into(told: str, home: Path) -> None:
    named = told.rpartition("cosemzoo show ")[2].split()
    result = CliRunner().invoke(main, ["show", *named, "--json"])
    assert result.exit_code == 0, result.output
    answer = json.loads(result.stdout)
    assert (answer["reference"], answer["criterion"]) == ("setup04@best", "1820500")
    assert answer["manifest"]["generated"] is True
    (endpoint,) = re.findall(r"^(http://127\S+), on this machine only$", told, re.MULTILINE)
    assert answer["endpoint"] == endpoint
    assert f"cosemzoo hub serve --root {home / 'kept' / 'hub'} --port {endpoint.rpartition(':')[2]}\n" in told


def test_a_folder_with_something_in_it_is_refused(tmp_path: Path) -> None:
    (tmp_path / "mine").touch()
    result = CliRunner().invoke(main, ["demo", "--keep", str(tmp_path)])
    assert result.exit_code == 2
    assert "is not empty" in result.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]


def test_it_fails_loudly_where_a_load_does_nothing(
    monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("temporary")
    monkeypatch.setattr("tempfile.tempdir", str(folder))
    monkeypatch.setattr(CosemStart, "initialize_weights", lambda *_, **_others: None)
    result = CliRunner().invoke(main, ["demo"])
    assert result.exit_code == 1
    assert result.stderr == (
        "Error: the demonstration failed; this should be true, and is not: "
        "all 40 tensors of the backbone hold the checkpoint's values\n"
    )
    assert "Done" not in result.stdout
    assert list(folder.iterdir()) == []


# --- what is checked ---------------------------------------------------------------------------------------


def a_load() -> tuple[nn.Module, dict[str, Tensor], dict[str, Tensor]]:
    """Give a network as it should be after a load, its head before, and the weights."""
    network = nn.ModuleDict({"backbone": nn.Linear(3, 3), "prediction_head": nn.Linear(3, 2)})
    network.requires_grad_(False)
    weights = {name: torch.rand(tensor.shape) for name, tensor in network.state_dict().items()}
    before = {name: torch.rand(tensor.shape) for name, tensor in network.state_dict().items()}
    for name, tensor in network.state_dict().items():
        tensor.copy_(weights[name])
        if name.startswith("prediction_head"):
            tensor[0], tensor[1] = weights[name][1], before[name][1]
    return network, before, weights


def test_a_load_as_promised_passes_the_checks() -> None:
    assert len(list(check_load(*a_load(), ["er", "ld"], ["mito", "er"]))) == 3


@pytest.mark.parametrize(
    ("name", "row", "line"),
    [
        ("backbone.weight", 0, "all 2 tensors of the backbone"),
        ("prediction_head.weight", 0, r"row 0 \(er\) holds row 1 of the checkpoint"),
        ("prediction_head.bias", 0, r"row 0 \(er\) holds row 1 of the checkpoint"),
        ("prediction_head.weight", 1, r"row 1 \(ld\) holds the network's own values"),
        ("prediction_head.bias", 1, r"row 1 \(ld\) holds the network's own values"),
    ],
)
def test_one_number_that_is_not_as_promised_is_found(name: str, row: int, line: str) -> None:
    network, before, weights = a_load()
    network.state_dict()[name][row] += 1
    with pytest.raises(Exception, match=line):
        list(check_load(network, before, weights, ["er", "ld"], ["mito", "er"]))


# --- the run that is published -----------------------------------------------------------------------------


def test_the_labels_are_those_of_the_model_card() -> None:
    rows = re.findall(r"^\| \d+ \| `(\w+)` \|", MODEL_CARD.read_text(encoding="utf-8"), re.MULTILINE)
    assert rows == list(LABELS)


def test_the_full_size_is_setup04_s_and_the_reduced_one_has_its_names() -> None:
    with torch.device("meta"):
        full, reduced = (make_network(size, len(LABELS), seed=0) for size in (FULL, REDUCED))
    assert sum(tensor.nbytes for tensor in full.state_dict().values()) == 939_871_304
    assert list(reduced.state_dict()) == list(full.state_dict())


def test_the_run_says_that_it_is_generated_and_what_its_channels_are(run_folder: Path) -> None:
    manifest = json.loads((run_folder / "config.json").read_bytes())
    assert manifest["generated"] is True
    assert [channel["label"] for channel in manifest["channels"]] == list(LABELS)
    header = read_header(run_folder / "model.safetensors")
    assert header.tensors["prediction_head.weight"].shape[0] == len(LABELS)


def test_the_same_seed_gives_the_same_weights_and_leaves_the_caller_s_alone() -> None:
    size = Size("tiny", (1, 2, 3, 4), (2, 2, 3))
    torch.manual_seed(1)
    first, drawn = make_network(size, 2, seed=0), torch.rand(1)
    torch.manual_seed(1)
    assert torch.equal(torch.rand(1), drawn)
    second, other = make_network(size, 2, seed=0), make_network(size, 2, seed=3)
    for name, tensor in first.state_dict().items():
        assert torch.equal(tensor, second.state_dict()[name])
        assert not torch.equal(tensor, other.state_dict()[name])

"""`cosemzoo verify`."""

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from click.testing import Result

from cosemzoo.checkpoints.writer import write_safetensors
from cosemzoo.localhub import LocalHub
from cosemzoo.manifest import MANIFEST_FILE, Architecture, Channel, HeadTensor, Manifest
from cosemzoo.nets import build_network
from cosemzoo.zoo import Zoo
from cosemzoo.zoo.weights import GOLDEN_FILE, SINGLE_FILE

MINE = "my-lab/run_1@1"
ARGUMENTS = {"channels": 1, "widths_down": [1, 1], "widths_up": [1], "factors": [2], "final_upsample": None}
Invoke = Callable[..., Result]


@pytest.fixture
def served(hub: LocalHub) -> LocalHub:
    """Let the command change the Hub: it is the test's own."""
    return hub


def write_run(folder: Path, *, activation: bool = True, nan: bool = False) -> Path:
    """Write a checkpoint of one channel; one of its activations makes a difference."""
    folder.mkdir(exist_ok=True)
    network = build_network("cosem-unet", ARGUMENTS)
    for name, values in network.state_dict().items():
        values.fill_(0.1 if name.endswith("weight") else 0)
        if ".r_up." in name:
            values.neg_()
    state = network.state_dict()
    state["prediction_head.bias"][0] = torch.nan if nan else 0.5
    write_safetensors(folder / SINGLE_FILE, state)
    manifest = Manifest(
        run="run_1",
        iteration=1,
        channels=(Channel("mito", "distance"),),
        head=(HeadTensor("prediction_head.weight"), HeadTensor("prediction_head.bias")),
        architecture=Architecture("cosem-unet", {**ARGUMENTS, "activation_on_upsample": activation}),
    )
    (folder / MANIFEST_FILE).write_text(manifest.to_json(), encoding="utf-8")
    return folder


@pytest.fixture
def pushed(invoke: Invoke, tmp_path: Path) -> Result:
    done = invoke("push", MINE, "--weights", write_run(tmp_path / "run"))
    assert done.exit_code == 0, done.output
    return done


def test_files_alone_are_verified_without_running_the_network(
    invoke: Invoke, pushed: Result, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert pushed.exit_code == 0
    monkeypatch.setattr("cosemzoo.verify.check_forward", lambda *_, **__: pytest.fail("was run"))
    done = invoke("verify", MINE)
    assert done.exit_code == 0, done.output
    assert "bytes in 1 file, verified" in done.stdout
    assert json.loads(invoke("verify", MINE, "--json").stdout)["forward"] is None


def test_how_far_the_output_is_off_is_said(invoke: Invoke, pushed: Result) -> None:
    assert f"- stored {GOLDEN_FILE} with it" in pushed.stdout
    done = invoke("verify", MINE, "--forward")
    assert done.exit_code == 0, done.output
    assert "largest difference  0\n" in done.stdout
    assert "the same network (tolerance 0.0001)" in done.stdout
    document = json.loads(invoke("verify", MINE, "--forward", "--json", "--tolerance", "0.5").stdout)
    forward = document["forward"]
    assert (forward["within"], forward["relative_difference"], forward["tolerance"]) == (True, 0, 0.5)
    assert (forward["seed"], forward["made_with_torch"]) == (0, torch.__version__)
    assert document["weights"]["tensors"] == len(build_network("cosem-unet", ARGUMENTS).state_dict())


@pytest.mark.parametrize("where", ["folder", "local"])
def test_a_wrong_network_ends_with_1(invoke: Invoke, pushed: Result, tmp_path: Path, where: str) -> None:
    assert pushed.exit_code == 0
    invoke("verify", MINE, "--forward")
    (golden,) = (tmp_path / "cache").rglob(GOLDEN_FILE)
    folder = tmp_path / "runs" / "run_1" / "1"
    folder.parent.mkdir(parents=True)
    write_run(folder, activation=False)
    shutil.copy(golden, folder)
    asked = folder if where == "folder" else "local:run_1@1"
    done = invoke("verify", asked, "--forward", "--local-dir", tmp_path / "runs")
    assert done.exit_code == 1
    assert "NOT THE SAME" in done.stdout
    document = invoke("verify", asked, "--forward", "--local-dir", tmp_path / "runs", "--json")
    assert (document.exit_code, json.loads(document.stdout)["forward"]["within"]) == (1, False)


def test_numbers_that_are_none_are_null(invoke: Invoke, pushed: Result, tmp_path: Path) -> None:
    assert pushed.exit_code == 0
    invoke("verify", MINE, "--forward")
    (golden,) = (tmp_path / "cache").rglob(GOLDEN_FILE)
    shutil.copy(golden, write_run(tmp_path / "nan", nan=True))
    done = invoke("verify", tmp_path / "nan", "--forward", "--json")
    assert done.exit_code == 1
    assert json.loads(done.stdout)["forward"]["largest_difference"] is None


def test_a_checkpoint_without_a_sample_ends_with_1_and_says_what_to_do(
    invoke: Invoke, tmp_path: Path
) -> None:
    done = invoke("push", MINE, "--weights", write_run(tmp_path / "run"), "--no-golden")
    assert "golden" not in done.stdout
    for asked in (MINE, tmp_path / "run"):
        done = invoke("verify", asked, "--forward")
        assert done.exit_code == 1
        assert "published without a golden sample" in done.stderr
        assert "Leave out --forward" in done.stderr
        assert ("verified" if asked == MINE else "well-formed") in done.stdout
        document = invoke("verify", asked, "--forward", "--json")
        assert (document.exit_code, json.loads(document.stdout)["forward"]) == (1, None)


def test_why_no_sample_was_stored_is_said(invoke: Invoke, tmp_path: Path) -> None:
    command = ["push", MINE, "--weights", write_run(tmp_path / "run", nan=True), "--allow-nonfinite"]
    done = invoke(*command)
    assert done.exit_code == 0, done.output
    assert "golden sample  none: the weights hold NaN or infinities" in done.stdout
    assert json.loads(invoke(*command, "--json").stdout)["no_golden"] == "the weights hold NaN or infinities"


def test_a_network_of_other_shapes_is_not_the_same(invoke: Invoke, pushed: Result, tmp_path: Path) -> None:
    assert pushed.exit_code == 0
    invoke("verify", MINE, "--forward")
    (golden,) = (tmp_path / "cache").rglob(GOLDEN_FILE)
    other = write_run(tmp_path / "other")
    shutil.copy(golden, other)
    manifest = (other / MANIFEST_FILE).read_text(encoding="utf-8")
    assert '"factors": [\n' in manifest or '"factors": [2]' in manifest
    changed = re.sub(r'("factors": \[\s*)2', r"\g<1>3", manifest)
    (other / MANIFEST_FILE).write_text(changed, encoding="utf-8")
    done = invoke("verify", other, "--forward")
    assert done.exit_code == 1
    assert "NOT THE SAME: this is another network; it does not take the sample's input" in done.stdout
    forward = json.loads(invoke("verify", other, "--forward", "--json").stdout)["forward"]
    assert (forward["within"], forward["largest_difference"]) == (False, None)
    assert "does not take" in forward["problem"]


@pytest.mark.parametrize("option", [["--device", "cuda"], ["--tolerance", "0.1"]])
def test_how_to_compute_is_said_only_where_something_is_computed(invoke: Invoke, option: list[str]) -> None:
    done = invoke("verify", MINE, *option)
    assert done.exit_code == 2
    assert f"{option[0]} says how to compute: give --forward, too" in done.stderr


@pytest.mark.parametrize("arguments", [["--device", "tpu"], ["--tolerance", "-1"]])
def test_options_are_checked(invoke: Invoke, arguments: list[str]) -> None:
    assert invoke("verify", MINE, "--forward", *arguments).exit_code == 2


def test_after_a_fetch_the_network_is_verified_without_a_hub(
    invoke: Invoke, pushed: Result, hub: LocalHub
) -> None:
    assert pushed.exit_code == 0
    fetched = invoke("fetch", MINE)
    assert GOLDEN_FILE in fetched.stdout
    hub.reset_counts()
    done = invoke("verify", MINE, "--forward", "--offline")
    assert done.exit_code == 0, done.output
    assert "the same network" in done.stdout
    path = json.loads(invoke("fetch", MINE, "--json", "--offline").stdout)["golden_sample"]
    assert Path(path).name == GOLDEN_FILE
    assert hub.requests == []


@pytest.mark.filterwarnings("default::cosemzoo.errors.StaleAnswer")
def test_weights_that_came_without_the_sample_are_fetched_all_the_same(
    invoke: Invoke, pushed: Result, hub: LocalHub, tmp_path: Path
) -> None:
    assert pushed.exit_code == 0
    zoo = Zoo(endpoint=hub.endpoint, cache_dir=tmp_path / "cache", token=False)
    zoo.fetch(MINE)
    done = invoke("fetch", MINE, "--offline")
    assert (done.exit_code, "golden sample  not in the cache" in done.stdout) == (0, True)
    hub.stop()
    done = invoke("fetch", MINE)
    assert (done.exit_code, "golden sample  not fetched: " in done.stdout) == (0, True)


def test_a_damaged_sample_is_replaced_by_a_fetch(invoke: Invoke, pushed: Result, tmp_path: Path) -> None:
    assert pushed.exit_code == 0
    content = Path(json.loads(invoke("fetch", MINE, "--json").stdout)["golden_sample"]).resolve()
    sound = content.read_bytes()
    content.write_bytes(sound[:-1] + bytes([sound[-1] ^ 1]))
    assert invoke("fetch", MINE).exit_code == 0
    assert content.read_bytes() == sound


def test_what_cannot_be_computed_is_known_before_the_weights_are_downloaded(
    invoke: Invoke, pushed: Result, tmp_path: Path
) -> None:
    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    assert pushed.exit_code == 0
    done = invoke("verify", MINE, "--forward", "--device", "cuda")
    assert done.exit_code == 1
    assert "device is 'cuda'" in done.stderr
    assert not [*(tmp_path / "cache").rglob(SINGLE_FILE)]

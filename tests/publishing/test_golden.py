"""Golden samples: made with the first publication of an iteration, and never again."""

import hashlib
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from attrs import evolve
from huggingface_hub import HfApi
from safetensors import safe_open
from safetensors.torch import load_file
from torch import nn

from cosemzoo import load_model
from cosemzoo.checkpoints.writer import write_safetensors
from cosemzoo.errors import (
    CriterionNotFound,
    IntegrityError,
    InvalidOption,
    InvalidSafetensors,
    NotCached,
    UnknownNetwork,
)
from cosemzoo.localhub import LocalHub
from cosemzoo.manifest import MANIFEST_FILE, Architecture, Channel, HeadTensor, Manifest
from cosemzoo.nets import CosemUNet, build_network
from cosemzoo.publishing.golden import make_golden, why_no_golden
from cosemzoo.publishing.push import Pushed, PushOptions, push
from cosemzoo.verify import check_forward
from cosemzoo.zoo import Zoo
from cosemzoo.zoo.weights import GOLDEN_FILE, SINGLE_FILE, other_weights

MINE = "lab/run_1"
ONE = f"{MINE}@1"
ARGUMENTS = {
    "channels": 2,
    "widths_down": [1, 2, 2],
    "widths_up": [2, 2],
    "factors": [2, 2],
    "final_upsample": None,
}
MANIFEST = Manifest(
    run="run_1",
    iteration=1,
    channels=(Channel("mito", "distance"), Channel("er", "distance")),
    head=(HeadTensor("prediction_head.weight"), HeadTensor("prediction_head.bias")),
    architecture=Architecture("cosem-unet", ARGUMENTS),
)
Commits = Callable[[], list[str]]


def write_run(
    folder: Path, *, manifest: Manifest = MANIFEST, seed: int = 0, dead: bool = False, nan: bool = False
) -> Path:
    """Write a checkpoint of a network of few voxels, which none of its activations switches off."""
    folder.mkdir(exist_ok=True)
    generator = torch.Generator().manual_seed(seed)
    state = build_network("cosem-unet", ARGUMENTS).state_dict()
    for name, values in state.items():
        torch.nn.init.uniform_(values, -0.1, 0.4, generator=generator)
        if name.startswith("backbone") and name.endswith("weight") and ".r_up." in name:
            values[0].neg_()
    if dead:
        state["prediction_head.weight"].zero_()
    if nan:
        state["prediction_head.bias"][0] = torch.nan
    write_safetensors(folder / SINGLE_FILE, state)
    (folder / MANIFEST_FILE).write_text(manifest.to_json(), encoding="utf-8")
    return folder


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_run(tmp_path / "run")


def pushed(zoo: Zoo, folder: Path, reference: str = ONE, **options: Any) -> Pushed:
    return push(reference, folder, zoo=zoo, options=PushOptions(**options))


def digests(api: HfApi, revision: str) -> dict[str, str]:
    return {
        str(entry.path): entry.lfs.sha256 if entry.lfs else entry.blob_id  # type: ignore[union-attr]
        for entry in api.list_repo_tree(MINE, revision=revision)
    }


# --- making ------------------------------------------------------------------------------------------------


def test_the_sample_is_noise_and_what_the_network_makes_of_it(folder: Path, tmp_path: Path) -> None:
    path = tmp_path / GOLDEN_FILE
    assert make_golden(folder, path) is None
    sample = load_file(path)
    network = build_network("cosem-unet", ARGUMENTS).eval()
    network.load_state_dict(load_file(folder / SINGLE_FILE))
    smallest = network.valid_input_shape()  # type: ignore[operator]
    assert (sample["input"].dtype, sample["input"].shape[1:]) == (torch.uint8, (1, *smallest))
    with torch.inference_mode():
        output = network(sample["input"].float() / 127.5 - 1)
    torch.testing.assert_close(sample["output"], output, rtol=1e-5, atol=1e-5)
    with safe_open(path, "pt") as file:
        metadata = file.metadata()
    expected = {"seed": "0", "torch": torch.__version__, "input_range": "-1.0 1.0", "computed_in": "float32"}
    assert expected.items() <= metadata.items()


def test_the_same_machine_makes_the_same_file(folder: Path, tmp_path: Path) -> None:
    for name in ("one", "two"):
        assert make_golden(folder, tmp_path / name) is None
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()


def test_the_input_is_in_the_range_of_the_manifest(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run", manifest=evolve(MANIFEST, input_range=(0.0, 1.0)))
    assert make_golden(folder, folder / GOLDEN_FILE) is None
    deviation = check_forward(folder)
    assert deviation is not None
    assert (deviation.sample.input_range, deviation.largest) == ((0.0, 1.0), 0)
    other = write_run(tmp_path / "other")
    assert make_golden(other, other / GOLDEN_FILE) is None
    assert not torch.equal(load_file(other / GOLDEN_FILE)["output"], deviation.sample.output)


def test_an_output_that_never_changes_is_no_sample(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run", dead=True)
    assert "does not depend on its input" in str(make_golden(folder, folder / GOLDEN_FILE))
    assert not (folder / GOLDEN_FILE).exists()


@pytest.mark.parametrize(
    ("architecture", "nonfinite", "said"),
    [
        (None, [], "does not say which network"),
        (Architecture("other"), [], "no network 'other' can be built"),
        (Architecture("cosem-unet", {"chanels": 2}), [], "did you mean 'channels'?"),
        (MANIFEST.architecture, [("a", 1, 0)], "NaN"),
    ],
)
def test_why_there_can_be_no_sample_is_known_before(
    architecture: Architecture | None, nonfinite: list[object], said: str
) -> None:
    told = why_no_golden(evolve(MANIFEST, architecture=architecture), nonfinite)
    assert said in str(told)
    assert "\n" not in str(told)


def test_a_manifest_need_not_say_its_channels_twice(tmp_path: Path) -> None:
    assert MANIFEST.architecture is not None
    unsaid = {name: value for name, value in MANIFEST.architecture.arguments.items() if name != "channels"}
    manifest = evolve(MANIFEST, architecture=Architecture("cosem-unet", unsaid))
    assert why_no_golden(manifest, []) is None
    folder = write_run(tmp_path / "run")
    (folder / "config.json").write_text(manifest.to_json(), encoding="utf-8")
    assert make_golden(folder, folder / GOLDEN_FILE) is None


# --- publishing --------------------------------------------------------------------------------------------


def test_a_push_stores_the_sample_with_the_weights_and_brings_it_to_main(
    zoo: Zoo, api: HfApi, folder: Path
) -> None:
    done = pushed(zoo, folder, aliases=["best"])
    assert done.no_golden is None
    assert f"stored {GOLDEN_FILE} with it" in done.published.changes
    assert GOLDEN_FILE in digests(api, "1")
    assert digests(api, "main")[GOLDEN_FILE] == digests(api, "1")[GOLDEN_FILE]
    assert list(done.published.release.weights) == [SINGLE_FILE]  # type: ignore[union-attr]
    deviation = check_forward(ONE, zoo=zoo)
    assert deviation is not None
    assert (deviation.within, deviation.largest) == (True, 0)


def test_the_sample_is_made_once(zoo: Zoo, api: HfApi, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pushed(zoo, folder)
    before = digests(api, "1")
    monkeypatch.setattr("cosemzoo.publishing.push.make_golden", lambda *_: pytest.fail("made again"))
    assert pushed(zoo, folder).published.changes == ()
    assert digests(api, "1") == before


def test_a_push_that_died_before_the_index_is_completed_with_the_sample_that_is_there(
    zoo: Zoo, api: HfApi, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pushed(zoo, folder)
    before = digests(api, "1")
    api.delete_file("criteria.json", MINE)
    monkeypatch.setattr("cosemzoo.publishing.push.make_golden", lambda *_: pytest.fail("made again"))
    assert "entered 1 into criteria.json" in pushed(zoo, folder).published.changes
    assert digests(api, "1") == before


def test_a_sample_that_the_hub_gives_back_damaged_is_not_entered(
    zoo: Zoo, hub: LocalHub, folder: Path
) -> None:
    for _ in range(2):
        hub.corrupt_next(f"/{GOLDEN_FILE}", at_byte=1000)
    with pytest.raises(IntegrityError):
        pushed(zoo, folder)
    with pytest.raises(CriterionNotFound):
        zoo.resolve(ONE)


CARD = """---
cosemzoo:
  run: run_1
  kind: distance
  channels: [mito, er]
  input_voxel_size: [8, 8, 8]
  output_voxel_size: [4, 4, 4]
  architecture:
    name: cosem-unet
    arguments: {factors: [[2, 2, 2], [1, 2, 2], 2], activation_on_upsample: false}
---

# A run
"""


@pytest.fixture
def training(tmp_path: Path) -> Path:
    """Have a training's checkpoint of a network whose pooling and activations no tensor says."""
    form: dict[str, Any] = {"factors": (2, (1, 2, 2), 2), "activation_on_upsample": False}
    state = CosemUNet(2, widths_down=(1, 1, 1, 1), widths_up=(1, 1, 1), **form).state_dict()
    for name, values in state.items():
        values.fill_(0.1 if name.endswith("weight") else 0)
    torch.save({"model": state}, tmp_path / "checkpoint")
    return tmp_path / "checkpoint"


def test_a_training_checkpoint_gets_one_where_its_card_says_what_no_tensor_does(
    zoo: Zoo, api: HfApi, tmp_path: Path, training: Path
) -> None:
    (tmp_path / "card.md").write_text(CARD, encoding="utf-8")
    done = push(ONE, training, zoo=zoo, options=PushOptions(card=tmp_path / "card.md"))
    assert (done.no_golden, GOLDEN_FILE in digests(api, "1")) == (None, True)
    network = load_model(ONE, zoo=zoo)
    pooled = [layer.kernel_size for layer in network.modules() if isinstance(layer, nn.MaxPool3d)]
    assert pooled == [(2, 2, 2), (1, 2, 2), (2, 2, 2)]
    assert not [name for name, _ in network.named_modules() if name.endswith("up.2")]


def test_no_network_is_made_up_where_nothing_says_how_it_pools(zoo: Zoo, api: HfApi, training: Path) -> None:
    done = push(ONE, training, zoo=zoo, options=PushOptions(channels=MANIFEST.channels))
    assert "factors, activation_on_upsample, final_upsample: unknown" in str(done.no_golden)
    assert GOLDEN_FILE not in digests(api, "1")
    with pytest.raises(UnknownNetwork, match="the card of the run has to"):
        load_model(ONE, zoo=zoo)


def test_the_best_brings_its_own_sample_or_none(zoo: Zoo, api: HfApi, tmp_path: Path, folder: Path) -> None:
    pushed(zoo, folder, aliases=["best"])
    second = write_run(tmp_path / "two", manifest=evolve(MANIFEST, iteration=2), seed=1)
    pushed(zoo, second, f"{MINE}@2", aliases=["best"], move_aliases=True)
    assert digests(api, "main")[GOLDEN_FILE] == digests(api, "2")[GOLDEN_FILE]
    assert digests(api, "1")[GOLDEN_FILE] != digests(api, "2")[GOLDEN_FILE]
    third = write_run(tmp_path / "three", manifest=evolve(MANIFEST, iteration=3), seed=2)
    done = pushed(zoo, third, f"{MINE}@3", aliases=["best"], move_aliases=True, golden=False)
    assert done.no_golden is None
    assert GOLDEN_FILE not in digests(api, "3")
    assert GOLDEN_FILE not in digests(api, "main")


def test_an_amendment_keeps_the_sample(zoo: Zoo, api: HfApi, tmp_path: Path, folder: Path) -> None:
    pushed(zoo, folder)
    before = digests(api, "1")[GOLDEN_FILE]
    wrong = Architecture("cosem-unet", {**ARGUMENTS, "activation_on_upsample": False})
    pushed(zoo, write_run(folder, manifest=evolve(MANIFEST, architecture=wrong)), amend=True)
    assert digests(api, str(zoo.resolve(ONE).commit))[GOLDEN_FILE] == before
    deviation = check_forward(ONE, zoo=zoo)
    assert deviation is not None
    assert not deviation.within


def test_weights_with_nan_are_published_without_a_sample(zoo: Zoo, api: HfApi, tmp_path: Path) -> None:
    done = pushed(zoo, write_run(tmp_path / "run", nan=True), allow_nonfinite=True)
    assert done.no_golden == "the weights hold NaN or infinities"
    assert GOLDEN_FILE not in digests(api, "1")


def test_a_network_that_cannot_be_run_here_is_published_without_a_sample(
    zoo: Zoo, api: HfApi, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def out_of_memory(*_: object) -> torch.Tensor:
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory")

    monkeypatch.setattr("cosemzoo.publishing.golden.compute", out_of_memory)
    assert "can't allocate memory" in str(pushed(zoo, folder).no_golden)
    assert GOLDEN_FILE not in digests(api, "1")


def test_an_input_that_no_memory_holds_is_no_reason_not_to_publish(
    zoo: Zoo, api: HfApi, tmp_path: Path
) -> None:
    arguments = {**ARGUMENTS, "widths_down": [1] * 9, "widths_up": [1] * 8, "factors": [3] * 8}
    manifest = evolve(MANIFEST, architecture=Architecture("cosem-unet", arguments))
    folder = tmp_path / "large"
    folder.mkdir()
    write_safetensors(folder / SINGLE_FILE, build_network("cosem-unet", arguments).state_dict())
    (folder / MANIFEST_FILE).write_text(manifest.to_json(), encoding="utf-8")
    done = pushed(zoo, folder)
    assert "the network could not be run here" in str(done.no_golden)
    assert GOLDEN_FILE not in digests(api, "1")


def test_the_sample_is_made_on_the_cpu_whatever_the_default_device_is(folder: Path, tmp_path: Path) -> None:
    with torch.device("meta"):
        assert make_golden(folder, tmp_path / GOLDEN_FILE) is None


def test_a_rehearsal_names_the_sample_and_makes_none(
    zoo: Zoo, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cosemzoo.publishing.push.make_golden", lambda *_: pytest.fail("made"))
    assert any(GOLDEN_FILE in change for change in pushed(zoo, folder, rehearse=True).published.changes)
    told = pushed(zoo, folder, rehearse=True, golden=False).published.changes
    assert not any(GOLDEN_FILE in change for change in told)


def test_a_sample_is_not_taken_for_weights() -> None:
    assert other_weights([GOLDEN_FILE, "other.safetensors"]) == ["other.safetensors"]


# --- comparing ---------------------------------------------------------------------------------------------


@pytest.fixture
def sampled(folder: Path) -> Path:
    assert make_golden(folder, folder / GOLDEN_FILE) is None
    return folder


def test_a_network_with_another_activation_is_far_off(sampled: Path) -> None:
    right = check_forward(sampled)
    wrong = Architecture("cosem-unet", {**ARGUMENTS, "activation_on_upsample": False})
    (sampled / MANIFEST_FILE).write_text(evolve(MANIFEST, architecture=wrong).to_json(), encoding="utf-8")
    other = check_forward(sampled)
    assert right is not None
    assert other is not None
    assert (right.within, right.relative) == (True, 0)
    assert not other.within
    assert other.relative > 100 * other.tolerance


@pytest.mark.parametrize(
    ("factors", "said"), [([2, 3], "does not take the sample's input"), ([2, 1], "its output is (1, 2, ")]
)
def test_a_network_that_pools_otherwise_is_another_network(
    sampled: Path, factors: list[int], said: str
) -> None:
    wrong = Architecture("cosem-unet", {**ARGUMENTS, "factors": factors})
    (sampled / MANIFEST_FILE).write_text(evolve(MANIFEST, architecture=wrong).to_json(), encoding="utf-8")
    found = check_forward(sampled)
    assert found is not None
    assert (found.within, found.relative) == (False, math.inf)
    assert said in found.problem


def test_the_tolerance_is_relative_to_the_root_mean_square(sampled: Path) -> None:
    sample = load_file(sampled / GOLDEN_FILE)
    size = float(sample["output"].square().mean().sqrt())
    sample["output"][0, 0, 0, 0, 0] += 0.01 * size
    metadata = {"seed": "0", "torch": "2", "input_range": "-1 1"}
    write_safetensors(sampled / GOLDEN_FILE, sample, metadata)
    found = check_forward(sampled, tolerance=0.02)
    assert found is not None
    assert found.relative == pytest.approx(0.01, rel=1e-2)
    assert found.within
    stricter = check_forward(sampled)
    assert stricter is not None
    assert not stricter.within


def test_an_output_that_is_not_a_number_is_not_within(sampled: Path) -> None:
    write_run(sampled, nan=True)
    found = check_forward(sampled)
    assert found is not None
    assert not found.within


def test_a_checkpoint_without_a_sample_gives_none(zoo: Zoo, folder: Path) -> None:
    assert check_forward(folder) is None
    pushed(zoo, folder, golden=False)
    assert check_forward(ONE, zoo=zoo) is None


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"input": torch.zeros(1, 1, 9, 9, 9)}, "input (uint8)"),
        ({"input": None}, "input (uint8)"),
        ({"input": torch.zeros(0, 1, 9, 9, 9, dtype=torch.uint8)}, "not one block"),
        ({"output": torch.zeros(2, 2, 1, 1, 1)}, "not one block"),
        ({"output": torch.zeros(1, 2, 0, 1, 1)}, "not one block"),
        ({"range": "1 -1"}, "input_range"),
        ({"range": "one two"}, "input_range"),
        ({"range": "nan nan"}, "input_range"),
        ({"range": None}, "input_range"),
    ],
)
def test_a_malformed_sample_is_refused(sampled: Path, change: dict[str, Any], said: str) -> None:
    sample: dict[str, Any] = load_file(sampled / GOLDEN_FILE)
    values = {**sample, "range": "-1 1", **change}
    given = values.pop("range")
    metadata = {"seed": "0", "torch": "2"} | ({} if given is None else {"input_range": given})
    tensors = {name: tensor for name, tensor in values.items() if tensor is not None}
    write_safetensors(sampled / GOLDEN_FILE, tensors, metadata)
    with pytest.raises(InvalidSafetensors) as caught:
        check_forward(sampled)
    assert said in str(caught.value)


@pytest.mark.parametrize("device", ["tpu", "cuda:99"])
def test_another_device_is_refused_in_words(sampled: Path, device: str) -> None:
    with pytest.raises(InvalidOption, match="where torch finds a GPU"):
        check_forward(sampled, device=device)


@pytest.mark.parametrize("tolerance", [-1, float("nan")])
def test_a_tolerance_that_cannot_be_is_refused(sampled: Path, tolerance: float) -> None:
    with pytest.raises(InvalidOption, match="a number from 0 on"):
        check_forward(sampled, tolerance=tolerance)


def test_a_caller_s_autocast_changes_neither_the_sample_nor_the_comparison(
    folder: Path, sampled: Path
) -> None:
    before = (sampled / GOLDEN_FILE).read_bytes()
    with torch.autocast("cpu", torch.bfloat16):
        deviation = check_forward(sampled)
        assert make_golden(folder, folder / GOLDEN_FILE) is None
    assert deviation is not None
    assert deviation.largest == 0
    assert (folder / GOLDEN_FILE).read_bytes() == before


# --- the file that is fetched ------------------------------------------------------------------------------


def test_a_cached_sample_is_opened_without_a_request(
    zoo: Zoo, make_zoo: Callable[..., Zoo], hub: LocalHub, folder: Path
) -> None:
    pushed(zoo, folder)
    checkpoint = zoo.resolve(ONE)
    with pytest.raises(NotCached, match=GOLDEN_FILE):
        make_zoo(offline=True).fetch_beside(checkpoint, GOLDEN_FILE)
    path = zoo.fetch_beside(checkpoint, GOLDEN_FILE)
    hub.reset_counts()
    assert zoo.fetch_beside(checkpoint, GOLDEN_FILE) == path
    assert make_zoo(offline=True).fetch_beside(checkpoint, GOLDEN_FILE) == path
    assert hub.requests == []


def test_a_damaged_sample_is_replaced_and_offline_refused(
    zoo: Zoo, make_zoo: Callable[..., Zoo], folder: Path
) -> None:
    pushed(zoo, folder)
    checkpoint = zoo.resolve(ONE)
    path = zoo.fetch_beside(checkpoint, GOLDEN_FILE)
    assert path is not None
    sound = hashlib.sha256(path.read_bytes()).hexdigest()
    for fetching in (zoo, make_zoo(offline=True)):
        content = path.resolve()
        damaged = bytearray(content.read_bytes())
        damaged[-1] ^= 1
        content.write_bytes(damaged)
        if fetching is zoo:
            assert fetching.fetch_beside(checkpoint, GOLDEN_FILE) == path
            assert hashlib.sha256(path.read_bytes()).hexdigest() == sound
        else:
            with pytest.raises(IntegrityError):
                fetching.fetch_beside(checkpoint, GOLDEN_FILE)


def test_a_file_that_was_never_published_is_none(zoo: Zoo, folder: Path) -> None:
    pushed(zoo, folder, golden=False)
    assert zoo.fetch_beside(zoo.resolve(ONE), GOLDEN_FILE) is None

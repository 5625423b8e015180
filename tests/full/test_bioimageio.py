"""Packages that the real bioimageio.spec and bioimageio.core take, and whose own test passes."""

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from attrs import evolve

from cosemzoo.checkpoints.writer import write_safetensors
from cosemzoo.manifest import MANIFEST_FILE, Architecture, Channel, HeadTensor, Lineage, Manifest, Target
from cosemzoo.nets import CosemUNet
from cosemzoo.publishing.cosem import BUCKET_URL

pytestmark = pytest.mark.full

Run = Callable[..., str]

SMALL: dict[str, Any] = {"channels": 2, "widths_down": [4, 6], "widths_up": [4], "factors": [2]}
MANIFEST = Manifest(
    run="setup04",
    lineage=Lineage(source_url=f"{BUCKET_URL}/setup04/1820500"),
    iteration=1820500,
    channels=(Channel("mito", "distance"), Channel("er", "distance")),
    head=(HeadTensor("prediction_head.weight"), HeadTensor("prediction_head.bias")),
    input_voxel_size=(8.0, 8.0, 8.0),
    output_voxel_size=(4.0, 4.0, 4.0),
    input_range=(-1.0, 1.0),
    input_sampling="every second voxel",
    target=Target("tanh(signed distance / 50 nm)", scale=50.0, threshold=0.0),
    architecture=Architecture("cosem-unet", SMALL),
    generated=True,
)
ANISOTROPIC = {**SMALL, "factors": [[1, 2, 2]], "final_upsample": [1, 2, 3], "input_channels": 2}
VARIANTS: dict[str, dict[str, Any]] = {
    "setup04": {},
    "no voxel sizes": {"input_voxel_size": None, "output_voxel_size": None},
    "voxels that are rounded": {
        "input_voxel_size": (5.24, 4.0, 4.0),
        "output_voxel_size": (2.62, 2.0, 2.0),
    },
    "anisotropic": {
        "architecture": Architecture("cosem-unet", ANISOTROPIC),
        "input_voxel_size": (30.0, 8.0, 12.0),
        "output_voxel_size": (30.0, 4.0, 4.0),
    },
    "same padding, two kinds": {
        "architecture": Architecture("cosem-unet", {**SMALL, "padding": "same", "final_upsample": None}),
        "output_voxel_size": None,
        "channels": (Channel("mito", "distance"), Channel("mito", "one-hot")),
    },
}

EXPORT = """
import sys, warnings
from pathlib import Path
from cosemzoo.interop.bioimageio import export_bioimageio
source, target = map(Path, sys.argv[1:])
for run in sorted(source.iterdir()):
    done = export_bioimageio(run, target / run.name, raw_range=(20, 220))
    assert done.files == {path.name: path.stat().st_size for path in (target / run.name).iterdir()}
"""

TEST = """
import sys
from pathlib import Path
import numpy as np
import torch
from bioimageio.core import create_prediction_pipeline, load_description_and_test
from bioimageio.core.digest_spec import create_sample_for_model
from cosemzoo import load_model
packages, runs = map(Path, sys.argv[1:])
for package in sorted(packages.iterdir()):
    tested = load_description_and_test(package)
    summary = tested.validation_summary
    assert summary.status == "passed", summary.format()
    assert tested.format_version.startswith("0.5")
    (described,) = tested.inputs
    network = load_model(runs / package.name)
    sizes = [axis.size for axis in described.axes[1:]]
    takes = [size if isinstance(size, int) else size.get_size(2) for size in sizes]
    dtype = described.data.type
    raw = np.random.default_rng(3).integers(0, np.iinfo(dtype).max + 1, (2, *takes), dtype=dtype)
    # The range of the network is that of the data set, clipped.
    low, high = (20, 220)
    scaled = (np.clip(raw.astype(np.float32), low, high) - low) / (high - low) * 2 - 1
    with torch.no_grad():
        expected = network(torch.from_numpy(scaled)).numpy()
    assert expected.std(axis=(2, 3, 4)).min() > 0.005
    for weights in ("pytorch_state_dict", "torchscript"):
        sample = create_sample_for_model(tested, inputs={"raw": raw})
        with create_prediction_pipeline(tested, weight_format=weights) as pipeline:
            output = pipeline.predict_sample_without_blocking(sample).members["prediction"]
        np.testing.assert_allclose(output.data.values, expected, rtol=1e-4, atol=1e-5)
    print(package.name, "passed")
"""


def lively(network: CosemUNet) -> CosemUNet:
    """Give a network weights with which its output depends on its input; torch's own seldom do."""
    generator = torch.Generator().manual_seed(4)
    for layer in network.modules():
        if isinstance(layer, torch.nn.Conv3d) and layer.bias is not None:
            torch.nn.init.kaiming_normal_(layer.weight, generator=generator)
            torch.nn.init.zeros_(layer.bias)
    return network


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs")
    for name, changes in VARIANTS.items():
        manifest: Manifest = evolve(MANIFEST, **changes)
        assert manifest.architecture is not None
        network = lively(CosemUNet(**manifest.architecture.arguments))
        (folder / name).mkdir()
        write_safetensors(folder / name / "model.safetensors", network.state_dict())
        (folder / name / MANIFEST_FILE).write_text(manifest.to_json())
    return folder


@pytest.fixture(scope="module")
def packages(runs: Path, run: Run, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("packages")
    run(EXPORT, runs, folder)
    return folder


def run_program(name: str, *arguments: object) -> "subprocess.CompletedProcess[str]":
    program = Path(sys.executable).with_name(name)
    return subprocess.run([program, *map(str, arguments)], capture_output=True, text=True, check=False)


def test_every_package_passes_its_own_test_and_predicts_as_the_network_does(
    packages: Path, runs: Path, run: Run
) -> None:
    assert run(TEST, packages, runs).splitlines()[-5:] == [f"{name} passed" for name in sorted(VARIANTS)]


def test_the_command_writes_what_the_test_command_of_bioimageio_passes(runs: Path, tmp_path: Path) -> None:
    package = tmp_path / "package"
    package.mkdir()
    exported = run_program("cosemzoo", "export", "bioimageio", runs / "setup04", package, "--json")
    assert exported.returncode == 0, exported.stderr
    answer = json.loads(exported.stdout)
    assert {file["name"] for file in answer["files"]} == {path.name for path in package.iterdir()}
    assert (answer["input_shape"], answer["output_shape"]) == ([1, 1, 20, 20, 20], [1, 2, 4, 4, 4])
    summary = tmp_path / "summary.json"
    tested = run_program("bioimageio", "test", package, "--summary", summary)
    assert tested.returncode == 0, tested.stdout + tested.stderr
    assert json.loads(summary.read_text())["status"] == "passed"
    assert {path.name for path in tmp_path.iterdir()} <= {"package", "summary.json", "state"}


def test_the_test_command_fails_a_package_of_another_network(packages: Path, tmp_path: Path) -> None:
    package = shutil.copytree(packages / "setup04", tmp_path / "package")
    description = package / "bioimageio.yaml"
    text = description.read_text()
    # With the same weights, which have the same names and shapes.
    changed = text.replace(
        "        channels: 2\n", "        channels: 2\n        activation_on_upsample: false\n"
    )
    assert changed != text
    description.write_text(changed)
    tested = run_program("bioimageio", "test", package, "--weight-format", "pytorch_state_dict")
    assert tested.returncode != 0
    assert "disagree with expected values" in tested.stdout + tested.stderr


def test_what_the_format_does_not_allow_is_refused_and_nothing_is_left(runs: Path, tmp_path: Path) -> None:
    target = tmp_path / "packages" / "package"
    refused = run_program(
        "cosemzoo", "export", "bioimageio", runs / "setup04", target, "--license", "mine", "--author", "A/B"
    )
    assert refused.returncode == 1
    assert "was not exported" in refused.stderr
    assert "license" in refused.stderr
    assert "authors.0.name" in refused.stderr
    assert list(target.parent.iterdir()) == []

"""What a bioimage.io package says, its network's source, and what is refused: all without bioimageio."""

import ast
import sys
from collections.abc import Callable
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from attrs import evolve
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from cosemzoo.checkpoints.writer import write_safetensors
from cosemzoo.cli.export_bioimageio import bioimageio
from cosemzoo.errors import ExportRefused, ExtraMissing, UnknownNetwork
from cosemzoo.interop.bioimageio import export_bioimageio, network_source
from cosemzoo.interop.bioimageio_description import (
    PackageFacts,
    describe,
    is_cosem,
    scaling,
    write_readme,
)
from cosemzoo.manifest import MANIFEST_FILE, Architecture, Channel, HeadTensor, Lineage, Manifest, Target
from cosemzoo.nets import CosemUNet
from cosemzoo.nets.arguments import FACTORS
from cosemzoo.nets.shapes import shapes_of
from cosemzoo.publishing.cosem import BUCKET_URL
from cosemzoo.zoo import Checkpoint, Zoo

SMALL: dict[str, Any] = {"channels": 2, "widths_down": [4, 6], "widths_up": [4], "factors": [2]}
MANIFEST = Manifest(
    run="setup04",
    iteration=1820500,
    channels=(Channel("mito", "distance"), Channel("er", "distance")),
    head=(HeadTensor("prediction_head.weight"), HeadTensor("prediction_head.bias")),
    input_voxel_size=(8.0, 8.0, 8.0),
    output_voxel_size=(4.0, 4.0, 4.0),
    input_range=(-1.0, 1.0),
    input_sampling="every second voxel",
    target=Target("tanh(signed distance / 50 nm)", scale=50.0, threshold=0.0),
    architecture=Architecture("cosem-unet", SMALL),
    lineage=Lineage(source_url=f"{BUCKET_URL}/setup04/1820500"),
)
FACTS = PackageFacts(
    authors=("A", "B"), license="MIT", raw_range=(0, 255), torch_version="2.13.0", tolerance=0.01
)

Write = Callable[..., Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Write a checkpoint whose manifest is `MANIFEST`, with changes, and give its folder."""

    def write_run(**changes: Any) -> Path:
        folder = tmp_path / "run"
        folder.mkdir()
        write_safetensors(folder / "model.safetensors", CosemUNet(**SMALL).state_dict())
        (folder / MANIFEST_FILE).write_text(evolve(MANIFEST, **changes).to_json())
        return folder

    return write_run


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    folder = tmp_path_factory.mktemp("run")
    write_safetensors(folder / "model.safetensors", CosemUNet(**SMALL).state_dict())
    (folder / MANIFEST_FILE).write_text(MANIFEST.to_json())
    return Zoo().resolve(folder)


def described(checkpoint: Checkpoint, facts: PackageFacts = FACTS, **changes: Any) -> dict[str, Any]:
    manifest: Manifest = evolve(MANIFEST, **changes)
    assert manifest.architecture is not None
    shapes = shapes_of({"channels": 2, **manifest.architecture.arguments})
    return describe(evolve(checkpoint, manifest=manifest), shapes, facts)


def space_axes(tensor: dict[str, Any]) -> list[dict[str, Any]]:
    return [axis for axis in tensor["axes"] if axis["type"] == "space"]


def test_the_published_network_takes_198_and_steps_of_18_and_gives_twice_as_much_less_364(
    checkpoint: Checkpoint,
) -> None:
    said = described(checkpoint, architecture=Architecture("cosem-unet", {"channels": 2}))
    for taken, made in zip(space_axes(said["inputs"][0]), space_axes(said["outputs"][0]), strict=True):
        assert (taken["size"], taken["scale"], taken["unit"]) == ({"min": 198, "step": 18}, 8.0, "nanometer")
        assert (made["scale"], made["unit"]) == (4.0, "nanometer")
        assert made["size"] == {"tensor_id": said["inputs"][0]["id"], "axis_id": taken["id"], "offset": -364}
    assert [axis["id"] for axis in space_axes(said["inputs"][0])] == ["z", "y", "x"]


lengths = st.integers(1, 3000).map(lambda number: number / 100)


@given(
    sizes=st.tuples(lengths, lengths, lengths),
    network=st.fixed_dictionaries(
        {
            "factors": st.sampled_from([FACTORS, (2,), ((1, 2, 2), 3)]),
            "final_upsample": st.sampled_from([None, 1, 2, 3, (1, 2, 2)]),
            "padding": st.sampled_from(["valid", "same"]),
        }
    ),
    told=st.sampled_from(["both", "input", "output", "neither"]),
)
def test_the_sizes_that_a_reader_works_out_are_those_of_the_network(
    checkpoint: Checkpoint, sizes: tuple[float, float, float], network: dict[str, Any], told: str
) -> None:
    widths = [2] * len(network["factors"])
    arguments = {"channels": 2, "widths_down": [*widths, 2], "widths_up": widths, **network}
    axes = shapes_of(arguments).axes
    smaller = tuple(size / axis.factor for size, axis in zip(sizes, axes, strict=True))
    said = described(
        checkpoint,
        architecture=Architecture("cosem-unet", arguments),
        input_voxel_size=sizes if told in ("both", "input") else None,
        output_voxel_size=smaller if told in ("both", "output") else None,
    )
    for axis, taken, made in zip(
        axes, *(space_axes(said[key][0]) for key in ("inputs", "outputs")), strict=True
    ):
        assert taken.get("unit") == made.get("unit") == (None if told == "neither" else "nanometer")
        if isinstance(taken["size"], int):
            assert (taken["size"], made["size"]) == (axis.smallest, axis.output)
            assert "other sizes would fit" in taken["description"]
            assert len(taken["description"]) <= 128
            continue
        for n in range(60):
            size = taken["size"]["min"] + n * taken["size"]["step"]
            # As bioimageio.spec does it, and then compares with the size of a tensor.
            expected = size * taken["scale"] / made["scale"] + made["size"]["offset"]
            assert expected == axis.output_of(size)


@pytest.mark.parametrize("size", [8.0, 4.5, 5.25])
def test_voxels_of_simple_sizes_are_described_with_every_input_that_fits(
    checkpoint: Checkpoint, size: float
) -> None:
    said = described(checkpoint, input_voxel_size=(size,) * 3, output_voxel_size=(size / 2,) * 3)
    assert all(axis["size"] == {"min": 20, "step": 2} for axis in space_axes(said["inputs"][0]))


def test_a_voxel_size_that_readers_would_round_fixes_the_size_along_its_axis_alone(
    checkpoint: Checkpoint,
) -> None:
    said = described(checkpoint, input_voxel_size=(5.24, 4.0, 4.0), output_voxel_size=(2.62, 2.0, 2.0))
    assert [axis["size"] for axis in space_axes(said["inputs"][0])] == [20] + [{"min": 20, "step": 2}] * 2
    assert space_axes(said["outputs"][0])[0]["size"] == 4


@given(
    low=st.integers(0, 65534),
    span=st.integers(1, 65535),
    ends=st.sampled_from([(-1.0, 1.0), (0.0, 1.0), (-3.0, 5.5)]),
)
def test_the_ends_of_the_raw_range_become_those_of_the_input_range(
    low: int, span: int, ends: tuple[float, float]
) -> None:
    high = low + span
    gain, offset = scaling((low, high), ends)
    assert [low * gain + offset, high * gain + offset] == pytest.approx([*ends], abs=1e-9)


def test_raw_data_is_clipped_before_it_is_scaled_and_stays_float(checkpoint: Checkpoint) -> None:
    (raw,) = described(checkpoint, evolve(FACTS, raw_range=(100, 300)))["inputs"]
    assert raw["data"] == {"type": "uint16", "range": [0, 65535]}
    assert raw["preprocessing"] == [
        {"id": "ensure_dtype", "kwargs": {"dtype": "float32"}},
        {"id": "clip", "kwargs": {"min": 100, "max": 300}},
        {"id": "scale_linear", "kwargs": {"gain": 0.01, "offset": -2.0}},
        {"id": "ensure_dtype", "kwargs": {"dtype": "float32"}},
    ]


def test_a_line_that_would_change_nothing_is_left_out(checkpoint: Checkpoint) -> None:
    (raw,) = described(checkpoint, input_range=(0.0, 255.0))["inputs"]
    assert [step["id"] for step in raw["preprocessing"]] == ["ensure_dtype", "clip", "ensure_dtype"]


def test_channels_and_what_the_network_is_built_from_are_the_manifests(checkpoint: Checkpoint) -> None:
    unsaid = {name: value for name, value in SMALL.items() if name != "channels"}
    said = described(
        checkpoint, architecture=Architecture("cosem-unet", {**unsaid, "input_channels": 2}), generated=True
    )
    names = {axis["type"]: axis.get("channel_names") for axis in said["outputs"][0]["axes"]}
    assert names["channel"] == ["mito", "er"]
    assert {"type": "channel", "channel_names": ["raw_0", "raw_1"]} in said["inputs"][0]["axes"]
    named = described(checkpoint, input_channels=("em",))
    assert {"type": "channel", "channel_names": ["em"]} in named["inputs"][0]["axes"]
    kwargs = said["weights"]["pytorch_state_dict"]["architecture"]["kwargs"]
    assert kwargs == {**SMALL, "input_channels": 2}
    assert said["description"].startswith("GENERATED WEIGHTS")
    assert "generated-weights" in said["tags"]


@given(
    run=st.text(min_size=1),
    labels=st.lists(st.text(min_size=1, max_size=80), min_size=2, max_size=60, unique=True),
    sampling=st.text(),
)
def test_names_and_texts_keep_to_what_the_format_allows(
    checkpoint: Checkpoint, run: str, labels: list[str], sampling: str
) -> None:
    channels = tuple(Channel(label, "distance") for label in labels)
    said = described(checkpoint, run=run, channels=channels, input_sampling=sampling)
    allowed = set("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_+- ()")
    assert set(said["name"]) <= allowed
    assert 5 <= len(said["name"]) <= 64
    assert len(said["description"]) <= 512
    assert len(said["inputs"][0]["description"]) <= 128


def test_a_package_says_what_it_was_made_from(checkpoint: Checkpoint) -> None:
    commit = "1234567890" * 4
    published = evolve(
        checkpoint, repository="cosemzoo/setup04", commit=commit, criterion="1820500", folder=None
    )
    assert described(published)["config"]["cosemzoo"] == {
        "reference": "cosemzoo/setup04@1820500",
        "commit": commit,
    }
    assert described(checkpoint)["config"]["cosemzoo"] == {"content_hash": checkpoint.content_hash}


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, True),
        ({"iteration": 7}, False),
        ({"iteration": None}, False),
        ({"run": "setup99"}, False),
        ({"lineage": Lineage(base_reference="setup04@1820500")}, False),
        ({"lineage": Lineage(source_url="https://example.org/1820500")}, False),
        ({"lineage": None}, False),
    ],
)
def test_a_run_is_cosems_by_its_name_iteration_and_source_unless_it_was_fine_tuned(
    changes: dict[str, Any], expected: bool
) -> None:
    assert is_cosem(evolve(MANIFEST, **changes)) is expected


def test_the_readme_says_channels_sizes_and_that_nothing_was_measured(checkpoint: Checkpoint) -> None:
    text = write_readme(
        evolve(checkpoint, manifest=evolve(MANIFEST, generated=True)), shapes_of(SMALL), FACTS
    )
    assert "| 1 | er | distance |" in text
    assert "- z: 20 + 2 · n in, 2 · size - 36 out" in text
    assert "## Validation" in text
    assert "GENERATED WEIGHTS" in text
    assert "every second voxel" in text
    unknown = evolve(
        MANIFEST, target=None, input_sampling=None, input_voxel_size=None, output_voxel_size=None
    )
    text = write_readme(evolve(checkpoint, manifest=unknown), shapes_of(SMALL), FACTS)
    assert "GENERATED" not in text
    assert "unknown size" in text
    assert "not stated" in text


def test_a_label_with_a_bar_stays_in_its_column(checkpoint: Checkpoint) -> None:
    first, *others = MANIFEST.channels
    manifest = evolve(MANIFEST, channels=(evolve(first, label="mito|er"), *others))
    text = write_readme(evolve(checkpoint, manifest=manifest), shapes_of(SMALL), FACTS)
    assert f"| 0 | mito\\|er | {first.kind} |" in text


VARIANTS: list[dict[str, Any]] = [
    SMALL,
    {**SMALL, "padding": "same", "final_upsample": None},
    {**SMALL, "upsampling": "transposed", "activation_on_upsample": False, "input_channels": 2},
    {**SMALL, "factors": [[1, 2, 2]], "final_upsample": [1, 2, 3], "final_width": 4},
    {**SMALL, "kernel_sizes_down": [[[1, 3, 3], 3], [3]], "kernel_sizes_final": [[3, 1]]},
]


@pytest.fixture
def alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """Import the source of the network where there is neither cosemzoo nor attrs."""
    path = tmp_path / "network.py"
    path.write_text(network_source())
    for name in [*sys.modules, "attr", "attrs", "cosemzoo"]:
        if name.split(".")[0] in ("attr", "attrs", "cosemzoo"):
            monkeypatch.setitem(sys.modules, name, None)
    spec = spec_from_file_location("network", path)
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("arguments", VARIANTS)
def test_the_source_needs_torch_alone_and_computes_the_same(
    alone: ModuleType, arguments: dict[str, Any]
) -> None:
    own, other = CosemUNet(**arguments), alone.CosemUNet(**arguments)
    generator = torch.Generator().manual_seed(1)
    for layer in own.modules():
        if isinstance(layer, torch.nn.Conv3d | torch.nn.ConvTranspose3d) and layer.bias is not None:
            # With torch's own, the output of so small a network seldom depends on its input.
            torch.nn.init.kaiming_normal_(layer.weight, generator=generator)
            torch.nn.init.zeros_(layer.bias)
    other.load_state_dict(own.state_dict())
    shape = (2, arguments.get("input_channels", 1), *own.valid_input_shape())
    raw = torch.rand(shape, generator=generator) * 2 - 1
    with torch.no_grad():
        output = own(raw)
        assert torch.equal(other(raw), output)
    assert output.std(dim=(2, 3, 4)).min() > 0.005
    with pytest.raises(ValueError, match="does not fit the network"):
        other(raw[..., :-1])


def test_the_source_refuses_arguments_that_no_network_has(alone: ModuleType) -> None:
    with pytest.raises(ValueError, match=r"widths_dawn.*did you mean 'widths_down'"):
        alone.read_arguments({"channels": 2, "widths_dawn": [1]})


def test_no_two_modules_of_the_source_define_the_same_name() -> None:
    tree = ast.parse(network_source())
    names = [node.name for node in tree.body if isinstance(node, ast.FunctionDef | ast.ClassDef)]
    targets = (
        node.targets if isinstance(node, ast.Assign) else [node.target]
        for node in tree.body
        if isinstance(node, ast.Assign | ast.AnnAssign)
    )
    names += [ast.unparse(target) for those in targets for target in those]
    # `Kernels` and `Voxels` are imported by the later modules, and so defined once.
    assert len(names) == len(set(names))


def test_without_the_library_it_is_said_what_to_install(
    write: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "bioimageio.spec", None)
    # An empty folder is no obstacle.
    package = tmp_path / "packages" / "run"
    package.mkdir(parents=True)
    with pytest.raises(ExtraMissing, match=r'pip install "cosemzoo\[bioimageio\]"'):
        export_bioimageio(write(), str(package))
    assert [*package.parent.rglob("*")] == [package]


def test_all_that_is_missing_or_wrong_is_said_at_once(write: Write, tmp_path: Path) -> None:
    folder = write(run="mine", input_range=None, output_voxel_size=(8.0, 4.0, 4.0))
    package = tmp_path / "packages" / "run"
    package.mkdir(parents=True)
    (package / "file").touch()
    with pytest.raises(ExportRefused) as caught:
        export_bioimageio(folder, package, raw_range=(9, 9))
    author, license_, there, raw, scale, voxel = caught.value.problems
    assert "--author" in author
    assert "--license" in license_
    assert "is there already" in there
    assert "9 to 9" in raw
    assert "input_range" in scale
    assert "along z" in voxel
    assert [path.name for path in (tmp_path / "packages").rglob("*")] == ["run", "file"]


def test_a_network_whose_output_is_not_finite_is_refused_because_readers_would_pass_it(
    write: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "bioimageio.spec", ModuleType("bioimageio.spec"))
    folder, state = write(), CosemUNet(**SMALL).state_dict()
    state["prediction_head.bias"][0] = float("nan")
    write_safetensors(folder / "model.safetensors", state)
    with pytest.raises(ExportRefused, match="not finite"):
        export_bioimageio(folder, tmp_path / "package")
    assert not (tmp_path / "package").exists()


@pytest.mark.parametrize("raw_range", [(-1, 255), (0, 65536), (5, 4)])
def test_a_raw_range_that_no_raw_data_has_is_refused(
    write: Write, tmp_path: Path, raw_range: tuple[int, int]
) -> None:
    with pytest.raises(ExportRefused, match=f"{raw_range[0]} to {raw_range[1]}"):
        export_bioimageio(write(), tmp_path / "package", raw_range=raw_range)


@pytest.mark.parametrize("architecture", [None, Architecture("vit"), Architecture("cosem-unet", {"x": 1})])
def test_a_network_that_cannot_be_built_is_said(
    write: Write, tmp_path: Path, architecture: Architecture | None
) -> None:
    with pytest.raises(UnknownNetwork):
        export_bioimageio(write(architecture=architecture), tmp_path / "package")


def test_the_command_hands_its_options_on(write: Write, tmp_path: Path) -> None:
    command = [str(write(run="mine")), str(tmp_path / "package"), "--author", "A", "--raw-range", "9", "3"]
    result = CliRunner().invoke(bioimageio, command)
    assert isinstance(result.exception, ExportRefused)
    license_, raw = result.exception.problems
    assert "--license" in license_
    assert "9 to 3" in raw


def test_the_help_has_examples() -> None:
    result = CliRunner().invoke(bioimageio, ["--help"])
    assert result.exit_code == 0
    assert "cosemzoo export bioimageio setup04@1820500 setup04.bioimage" in result.stdout

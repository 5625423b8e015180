"""Folders of cellmap-models: what is written into them, and what is read from their metadata."""

import json
import shutil
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from cosemzoo import load_model, resolve
from cosemzoo.checkpoints.writer import write_safetensors
from cosemzoo.errors import CosemZooWarning, ExportRefused, InvalidMetadata, UnknownNetwork
from cosemzoo.interop import cellmap
from cosemzoo.interop.cellmap import (
    CellmapExport,
    CellmapMetadata,
    export_cellmap,
    manifest_from_metadata,
)
from cosemzoo.interop.programs import write_torchscript
from cosemzoo.loading.labels import UNKNOWN_KIND
from cosemzoo.manifest import Architecture, Channel, HeadTensor, Manifest, Target
from cosemzoo.nets import CosemUNet
from cosemzoo.publishing import publish
from cosemzoo.zoo import Zoo

#: A network that takes 10, 12, 14 … voxels; torch.export reasons about a deeper one for half a minute.
SHALLOW: dict[str, Any] = {
    "channels": 3,
    "widths_down": [2, 3],
    "widths_up": [2],
    "factors": [2],
    "kernel_sizes_down": [[3], [3]],
    "kernel_sizes_up": [[3]],
    "kernel_sizes_final": [[3]],
}
CHANNELS = (Channel("mito", "distance"), Channel("mito", "one-hot"), Channel("er", "distance"))

Refuse = Callable[..., ExportRefused]
Program = Callable[[torch.Tensor], torch.Tensor]


def write_run(folder: Path, arguments: dict[str, Any] = SHALLOW, **said: Any) -> Path:
    folder.mkdir()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        write_safetensors(folder / "model.safetensors", CosemUNet(**arguments).state_dict())
    values: dict[str, Any] = {
        "run": "run_1",
        "iteration": 1000,
        "channels": CHANNELS,
        "head": (HeadTensor("prediction_head.weight"), HeadTensor("prediction_head.bias")),
        "input_voxel_size": (16.0, 8.0, 8.0),
        "output_voxel_size": (8.0, 4.0, 4.0),
        "input_range": (-1.0, 1.0),
        "target": Target("tanh(signed distance / 50 nm)"),
        "architecture": Architecture("cosem-unet", SHALLOW),
        "generated": True,
    }
    (folder / "config.json").write_text(Manifest(**values | said).to_json(), encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = write_run(tmp_path_factory.mktemp("runs") / "run_1")
    card = "---\nlicense: other\nlicense_name: of-the-lab\ntags:\n- em\n---\n# run 1\n"
    (folder / "README.md").write_text(card, encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def steps() -> list[str]:
    return []


@pytest.fixture(scope="module")
def written(run: Path, steps: list[str], tmp_path_factory: pytest.TempPathFactory) -> CellmapExport:
    """Have a folder that was there before, and empty."""
    folder = tmp_path_factory.mktemp("cellmap")
    return export_cellmap(run, folder, input_shape=(24, 26, 28), progress=steps.append)


@pytest.fixture
def quick(written: CellmapExport, monkeypatch: pytest.MonkeyPatch) -> None:
    """Take model.pt2 of the same network from there, instead of making it once more."""
    monkeypatch.setattr(
        cellmap, "write_exported", lambda _, path: shutil.copy(written.folder / "model.pt2", path)
    )


@pytest.fixture
def refuse(tmp_path: Path) -> Refuse:
    """Export a run that says something else, and give the refusal."""

    def export(said: dict[str, Any], **options: Any) -> ExportRefused:
        run = write_run(tmp_path / "refused", **said)
        with pytest.raises(ExportRefused) as caught:
            export_cellmap(run, tmp_path / "out", **options)
        assert not [*tmp_path.glob("*out*")]
        return caught.value

    return export


@pytest.fixture(scope="module")
def programs(written: CellmapExport) -> tuple[Program, Program]:
    with warnings.catch_warnings():
        # torch says of itself that parts of it are deprecated.
        warnings.simplefilter("ignore")
        script = torch.jit.load(str(written.folder / "model.ts"))  # type: ignore[no-untyped-call]
        return script, torch.export.load(written.folder / "model.pt2").module()


# --- the model files ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(1, 1, 10, 10, 10), (3, 1, 14, 12, 20)])
def test_both_files_compute_what_the_network_does_for_shapes_that_they_were_not_traced_with(
    run: Path, programs: tuple[Program, Program], shape: tuple[int, ...]
) -> None:
    network = load_model(run)
    raw = torch.rand(shape, generator=torch.Generator().manual_seed(2))
    for program in programs:
        assert torch.equal(program(raw), network(raw))


@pytest.mark.parametrize("shape", [(1, 1, 11, 10, 10), (1, 1, 10, 10, 8), (1, 2, 10, 10, 10)])
def test_both_files_refuse_what_does_not_fit_the_network(
    programs: tuple[Program, Program], shape: tuple[int, ...]
) -> None:
    for program in programs:
        with pytest.raises((torch.jit.Error, RuntimeError, AssertionError)):
            program(torch.zeros(shape))


def test_torchscript_says_which_inputs_fit(programs: tuple[Program, Program]) -> None:
    script, _ = programs
    with pytest.raises(torch.jit.Error, match=r"\[10, 10, 10\].*any number of steps, \[2, 2, 2\]"):
        script(torch.zeros(1, 1, 10, 10, 13))


def test_both_files_hold_the_tensors_of_the_network_under_their_names(
    run: Path, programs: tuple[Program, Program]
) -> None:
    network = load_model(run).state_dict()
    for program in programs:
        state = program.state_dict()  # type: ignore[attr-defined]
        assert set(state) == set(network)
        assert all(torch.equal(state[name], network[name]) for name in network)


def test_a_network_unflattened_from_the_exported_file_trains(written: CellmapExport) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        network = torch.export.unflatten(torch.export.load(written.folder / "model.pt2"))
    network.train()
    network(torch.rand(2, 1, 10, 10, 10)).square().mean().backward()
    assert all(parameter.grad is not None for parameter in network.parameters())


def test_the_files_hold_no_paths_of_this_machine_and_no_large_examples(written: CellmapExport) -> None:
    for name in ("model.ts", "model.pt2"):
        with zipfile.ZipFile(written.folder / name) as archive:
            records = {each: archive.read(each) for each in archive.namelist()}
        source = str(Path(cellmap.__file__).parents[2]).encode()
        torch_source = str(Path(torch.__file__).parent).encode()
        assert not [each for each, data in records.items() if source in data or torch_source in data]
        assert sum(map(len, records.values())) < 200_000


# --- the folder ---------------------------------------------------------------------------------------------


def test_the_metadata_say_what_the_manifest_says(written: CellmapExport) -> None:
    said = json.loads((written.folder / "metadata.json").read_text(encoding="utf-8"))
    description = said.pop("description")
    assert said == {
        "model_name": "run_1",
        "model_type": "UNet",
        "framework": "torch",
        "spatial_dims": 3,
        "in_channels": 1,
        "out_channels": 3,
        "iteration": 1000,
        "input_voxel_size": [16, 8, 8],
        "output_voxel_size": [8, 4, 4],
        "channels_names": ["mito (distance)", "mito (one-hot)", "er"],
        "input_shape": [24, 26, 28],
        "output_shape": [30, 34, 38],
        "inference_input_shape": [24, 26, 28],
        "inference_output_shape": [30, 34, 38],
        "author": "not stated",
        "version": "1.0.0",
        "format_version": "1",
    }
    assert description.startswith("GENERATED WEIGHTS: made-up numbers")
    for words in ("from -1 to 1", "tanh(signed distance / 50 nm)", "not locked", "10 + 2·n"):
        assert words in description
    assert str(written.checkpoint.folder) not in description


def test_the_output_shape_is_that_of_the_output(
    written: CellmapExport, programs: tuple[Program, Program]
) -> None:
    script, _ = programs
    assert script(torch.zeros(1, 1, 24, 26, 28)).shape == (1, 3, *(written.metadata.output_shape or ()))


def test_a_label_with_a_bar_stays_in_its_column_of_the_card(quick: None, tmp_path: Path) -> None:
    first, *others = CHANNELS
    run = write_run(tmp_path / "run_1", channels=(Channel("mito|er", first.kind), *others))
    done = export_cellmap(run, tmp_path / "out", input_shape=(24, 26, 28))
    assert "| 0 | mito\\|er" in (done.folder / "README.md").read_text(encoding="utf-8")


def test_the_card_says_what_the_metadata_say_and_the_licence_of_the_run(written: CellmapExport) -> None:
    card = (written.folder / "README.md").read_text(encoding="utf-8")
    front, _, body = card.removeprefix("---\n").partition("\n---\n")
    assert "library_name: cellmap-models\nlicense: other\nlicense_name: of-the-lab\n" in front
    assert "- mito\n- er" in front
    assert written.metadata.description is not None
    assert written.metadata.description in body
    assert "| 1 | mito (one-hot) |" in body


def test_it_tells_of_every_step_and_gives_what_it_wrote(written: CellmapExport, steps: list[str]) -> None:
    assert tuple(steps) == cellmap.STEPS
    assert sorted(written.files) == ["README.md", "metadata.json", "model.pt2", "model.ts"]
    for name, size in written.files.items():
        assert (written.folder / name).stat().st_size == size
    assert written.deviation <= 1e-6


def test_a_file_that_computes_something_else_is_refused_and_nothing_is_left(
    run: Path, quick: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def write_another(network: CosemUNet, path: Path) -> None:
        with torch.no_grad():
            network.prediction_head.bias.add_(1)  # type: ignore[union-attr]
            write_torchscript(network, path)
            network.prediction_head.bias.sub_(1)  # type: ignore[union-attr]

    monkeypatch.setattr(cellmap, "write_torchscript", write_another)
    with pytest.raises(ExportRefused, match=r"model\.ts, as torch .* gives other numbers") as caught:
        export_cellmap(run, tmp_path / "out")
    assert len(caught.value.problems) == 1
    assert not [*tmp_path.glob("*out*")]


def test_a_network_that_torch_cannot_export_is_refused_and_nothing_is_left(tmp_path: Path) -> None:
    # Along z it is one voxel deep for the smallest input, and nothing is pooled.
    arguments = {**SHALLOW, "factors": [[1, 2, 2]], "final_upsample": [1, 2, 2]}
    said = {"input_voxel_size": (8, 8, 8), "output_voxel_size": None}
    run = write_run(tmp_path / "run", arguments, architecture=Architecture("cosem-unet", arguments), **said)
    with pytest.raises(ExportRefused, match=r"cannot make model\.pt2 of its network: Constraints violated"):
        export_cellmap(run, tmp_path / "out")
    assert not [*tmp_path.glob("*out*")]


def test_everything_that_is_wrong_is_said_at_once_before_anything_is_written(
    tmp_path: Path, run: Path
) -> None:
    target = tmp_path / "out"
    target.mkdir()
    (target / "other").touch()
    with pytest.raises(ExportRefused) as caught:
        export_cellmap(run, target, input_shape=(24, 25, 24), voxel_size=(16, 9, 8))
    there, shape, voxels = caught.value.problems
    assert "is there already" in there
    assert "the nearest that fit are 24 and 26" in shape
    assert "voxel_size=(16, 8, 8) or --voxel-size 16 8 8" in voxels
    assert [path.name for path in tmp_path.glob("*out*/*")] == ["other"]


@pytest.mark.parametrize(
    ("said", "typed"),
    [
        ({"input_voxel_size": (10.48, 8, 8), "output_voxel_size": (5.24, 4, 4)}, "--voxel-size 10 8 8"),
        ({"input_voxel_size": (5, 8, 8), "output_voxel_size": None}, "--voxel-size 4 8 8"),
        ({"input_voxel_size": (0.4, 8, 8), "output_voxel_size": None}, "--voxel-size 2 8 8"),
        ({"input_voxel_size": None, "output_voxel_size": None}, "--voxel-size 8 8 8"),
        ({"output_voxel_size": (4, 4, 4)}, "the network makes them 8 x 4 x 4 nm"),
    ],
)
def test_voxel_sizes_that_the_format_cannot_say_are_refused_with_what_to_type(
    refuse: Refuse, said: dict[str, Any], typed: str
) -> None:
    (problem,) = refuse(said).problems
    assert typed in problem


def test_a_voxel_size_that_was_given_is_named_and_the_run_s_own_beside_it(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", input_voxel_size=(10.48, 8, 8), output_voxel_size=(5.24, 4, 4))
    metadata = cellmap._describe(resolve(run), tmp_path / "out", None, (10, 8, 8))
    assert metadata.input_voxel_size == (10, 8, 8)
    assert metadata.output_voxel_size == (5, 4, 4)
    assert metadata.input_shape == (216, 216, 216)
    assert metadata.description is not None
    assert "input voxels of 10.48 x 8 x 8 nm; this file says 10 x 8 x 8 nm" in metadata.description


@pytest.mark.parametrize("architecture", [None, Architecture("vit"), Architecture("cosem-unet")])
def test_a_network_that_cannot_be_built_is_not_exported(
    tmp_path: Path, architecture: Architecture | None
) -> None:
    run = write_run(tmp_path / "run", architecture=architecture)
    with pytest.raises(UnknownNetwork):
        export_cellmap(run, tmp_path / "out")


def test_a_manifest_need_not_say_its_channels_twice(tmp_path: Path) -> None:
    unsaid = {name: value for name, value in SHALLOW.items() if name != "channels"}
    run = write_run(tmp_path / "run", architecture=Architecture("cosem-unet", unsaid))
    assert cellmap._describe(resolve(run), tmp_path / "out", None, None).out_channels == 3


def test_without_the_card_of_the_run_it_is_said_that_no_licence_is_stated(
    run: Path, quick: None, make_zoo: Callable[..., Zoo], tmp_path: Path
) -> None:
    publish(run, "my-lab/run_1@1000", zoo=make_zoo())
    # As `cosemzoo fetch` does on a login node, for compute nodes without a network.
    elsewhere = {"cache_dir": tmp_path / "elsewhere"}
    zoo = make_zoo(**elsewhere)
    zoo.fetch(zoo.resolve("my-lab/run_1@1000"))
    offline = make_zoo(**elsewhere, offline=True)
    with pytest.warns(CosemZooWarning, match=r"not in the cache\); no licence is stated"):
        done = export_cellmap("my-lab/run_1@1000", tmp_path / "out", zoo=offline)
    assert "license" not in (done.folder / "README.md").read_text(encoding="utf-8")


# --- metadata.json into a manifest --------------------------------------------------------------------------

HEAD = {"prediction_head.weight": (2, 72, 1, 1, 1), "prediction_head.bias": (2,)}
GOOD: dict[str, Any] = {
    "model_name": "fly_organelles",
    "iteration": 432000,
    "out_channels": 2,
    "channels_names": ["mito", "er"],
    "input_voxel_size": [8, 8, 8],
    "output_voxel_size": [4, 4, 4],
    "input_shape": [178, 178, 178],
    "format_version": "1",
}


def problems_of(
    document: object, shapes: dict[str, tuple[int, ...]] = HEAD, **options: Any
) -> dict[str, str]:
    with pytest.raises(InvalidMetadata) as caught:
        manifest_from_metadata(json.dumps(document), shapes, **options)
    return dict(caught.value.problems)


@given(
    names=st.lists(st.text("abc_", min_size=1), min_size=1, max_size=20, unique=True),
    size=st.none() | st.tuples(*[st.integers(1, 1000)] * 3),
    iteration=st.none() | st.integers(0, 10**9),
)
def test_a_manifest_says_what_the_metadata_say(
    names: list[str], size: tuple[int, int, int] | None, iteration: int | None
) -> None:
    metadata = CellmapMetadata(
        model_name="run", channels_names=tuple(names), input_voxel_size=size, iteration=iteration
    )
    manifest = manifest_from_metadata(metadata.to_json(), {"prediction_head.bias": (len(names),)})
    assert [(channel.label, channel.kind) for channel in manifest.channels] == [
        (name, UNKNOWN_KIND) for name in names
    ]
    assert manifest.input_voxel_size == size
    assert manifest.output_voxel_size is None
    assert (manifest.run, manifest.iteration) == ("run", iteration)
    # Which form of the network it is, the metadata do not say.
    assert manifest.architecture is None


def test_what_was_exported_is_read_back_as_the_text_or_the_bytes_of_the_file(
    run: Path, written: CellmapExport
) -> None:
    content = (written.folder / "metadata.json").read_bytes()
    shapes = {name: tuple(tensor.shape) for name, tensor in load_model(run).state_dict().items()}
    manifest = manifest_from_metadata(content, shapes)
    assert manifest == manifest_from_metadata(content.decode(), shapes)
    assert manifest.labels == ("mito (distance)", "mito (one-hot)", "er")
    assert manifest.output_voxel_size == (8, 4, 4)
    assert {tensor.name for tensor in manifest.head} == {*HEAD}
    assert manifest.layout == "cellmap-models"


def test_a_network_of_dacapo_has_its_head_under_the_name_that_a_file_keeps() -> None:
    names = ["chain.1.weight", "prediction_head.weight", "chain.0.unet.x", "architecture.unet.x"]
    manifest = manifest_from_metadata(json.dumps(GOOD), dict.fromkeys(names, (2, 3)))
    assert manifest.layout == "dacapo 0.3"
    assert [tensor.name for tensor in manifest.head] == ["chain.1.weight"]


def test_a_head_of_another_name_is_named_by_the_caller() -> None:
    shapes = {"out.weight": (2, 5), "out.bias": (2,), "body.weight": (5, 1)}
    manifest = manifest_from_metadata(json.dumps(GOOD), shapes, head="out")
    assert [tensor.name for tensor in manifest.head] == ["out.bias", "out.weight"]
    assert manifest.layout is None
    assert problems_of(GOOD, shapes) == {
        "head": "there is no module 'prediction_head' with tensors; give head=; modules with 2 rows: out"
    }


def test_every_problem_is_said_at_once() -> None:
    document = {
        **GOOD,
        "model_name": None,
        "iteration": -1,
        "input_voxel_size": [8.0, 8, 8],
        "output_voxel_size": [4, 4],
        "channels_names": ["mito", "mito", " "],
        "author": 3,
        "format_version": "2",
    }
    assert problems_of(document) == {
        "$.input_voxel_size[0]": "is 8.0, not an integer",
        "$.author": "is 3, not a text",
        "$.format_version": "is '2'; this version of cosemzoo reads '1': upgrade it",
        "$.model_name": "is missing",
        "$.iteration": "is -1, less than 0",
        "$.output_voxel_size": "is [4, 4], not three lengths above 0 (nm; z, y, x)",
        "$.channels_names[1]": "mito is also channel 0",
        "$.channels_names[2]": "is empty",
        "$.out_channels": "is 2, but there are 3 names",
        "prediction_head.weight": "has the shape [2, 72, 1, 1, 1], but there are 3 channels",
        "prediction_head.bias": "has the shape [2], but there are 3 channels",
    }


@pytest.mark.parametrize("document", [[], "text", None, 1])
def test_what_is_no_object_has_one_problem(document: object) -> None:
    assert list(problems_of(document)) == ["$"]


def test_channels_without_names_are_refused() -> None:
    assert problems_of({**GOOD, "channels_names": []}) == {"$.channels_names": "is empty"}
    del (without := dict(GOOD))["channels_names"]
    assert problems_of(without) == {"$.channels_names": "is missing"}

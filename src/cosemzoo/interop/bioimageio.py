"""A checkpoint as a bioimage.io model package: what ilastik, deepImageJ and `bioimageio` itself open.

The package is a folder with the weights twice, as a state dict and as TorchScript, the source of the network,
a test input and what the network made of it. `bioimageio.spec` checks it, and writes `bioimageio.yaml`. It is
an extra: ``pip install "cosemzoo[bioimageio]"``.
"""

import ast
import os
from collections.abc import Iterator, Mapping, Sequence
from importlib import import_module
from importlib.resources import files
from pathlib import Path
from typing import Any, Final, cast

import numpy as np
import torch
from attrs import frozen
from numpy.typing import NDArray

from cosemzoo.errors import ExportRefused, ExtraMissing
from cosemzoo.interop.bioimageio_description import (
    COSEM_AUTHORS,
    COSEM_LICENSE,
    DESCRIPTION_FILE,
    NETWORK_FILE,
    README_FILE,
    STATE_DICT_FILE,
    TEST_INPUT_FILE,
    TEST_OUTPUT_FILE,
    TORCHSCRIPT_FILE,
    PackageFacts,
    describe,
    is_cosem,
    range_problem,
    raw_type,
    scaling,
    voxel_problems,
    write_readme,
)
from cosemzoo.interop.programs import write_torchscript
from cosemzoo.interop.whole_folder import absolute, float32_bytes, place_problem, whole_folder
from cosemzoo.manifest import MANIFEST_FILE, Manifest
from cosemzoo.models import ReferenceLike, resolve
from cosemzoo.nets import CosemUNet
from cosemzoo.nets.arguments import read_arguments
from cosemzoo.nets.shapes import shapes_of
from cosemzoo.ready import empty_network, load_model, network_arguments
from cosemzoo.verify import TOLERANCE, compute
from cosemzoo.zoo import Checkpoint, Zoo

_SEED: Final = 0
# By how much a reader's output may be off, relative to the root mean square: ten times what `cosemzoo verify`
# allows, because readers leave TF32 on. A missing activation is off by ten times as much again.
_TOLERANCE: Final = 10 * TOLERANCE
# The format refuses a tolerance above this part of the largest output.
_MOST_TOLERANT: Final = 0.01

# The network's source in a package: its modules one after another, with what they need of attrs.
_MODULES: Final = ("arguments", "shapes", "cosem")
_PREFACE: Final = '''\
"""The COSEM U-Net of Heinrich et al. 2021 (doi:10.1038/s41586-021-03977-3).

Copied from cosemzoo, module by module. It needs Python 3.10 or newer, and torch.
"""

from dataclasses import dataclass


def frozen(cls=None, *, kw_only=False):
    make = dataclass(frozen=True, kw_only=kw_only)
    return make if cls is None else make(cls)


def fields_dict(cls):
    return cls.__dataclass_fields__
'''


@frozen(kw_only=True)
class BioimageioPackage:
    """A package that was written.

    Attributes
    ----------
    folder : Path
    checkpoint : Checkpoint
        What it was made from.
    files : mapping of str to int
        The bytes of each file, by its name.
    input_shape, output_shape : tuple of int
        (1, channels, z, y, x) of the test input and the test output: the smallest there are.
    """

    folder: Path
    checkpoint: Checkpoint
    files: Mapping[str, int]
    input_shape: tuple[int, ...]
    output_shape: tuple[int, ...]


def export_bioimageio(
    reference: ReferenceLike,
    folder: str | os.PathLike[str],
    *,
    authors: Sequence[str] = (),
    license: str | None = None,  # noqa: A002 - it is what the format calls it
    raw_range: tuple[int, int] = (0, 255),
    zoo: Zoo | None = None,
) -> BioimageioPackage:
    """Write a bioimage.io package of a checkpoint: format 0.5, all or nothing.

    The network computes the smallest input that fits, of noise, in float32 on the CPU. COSEM setup04 takes
    about 3 GB of memory, and a minute on two cores; its package has 1.9 GB.

    Parameters
    ----------
    reference : str, os.PathLike, Reference or Checkpoint
    folder : str or os.PathLike
        Where to write it: an empty folder, or one that is not there.
    authors : sequence of str
        Who made the network; may be left out for the published COSEM checkpoints.
    license : str, optional
        Of the weights, an SPDX identifier such as ``CC-BY-4.0``; may be left out for those, too.
    raw_range : (int, int)
        The raw values that become the ends of the network's input range, by the contrast of the data; what is
        beyond is clipped. Up to 255 raw data is uint8, else uint16.
    zoo : Zoo, optional

    Returns
    -------
    BioimageioPackage

    Raises
    ------
    ExtraMissing
        If bioimageio.spec is not installed.
    UnknownNetwork
        If the manifest does not say which network it is, or says one that cannot be built here.
    ExportRefused
        With everything that is missing or wrong, if no valid package can be made.
    DiskFull
        If there is no room for the package.
    CosemZooError
        As `cosemzoo.fetch`.
    """
    zoo = Zoo() if zoo is None else zoo
    target = absolute(folder)
    checkpoint = resolve(reference, zoo=zoo)
    manifest = checkpoint.manifest
    if manifest is not None and is_cosem(manifest):
        authors, license = authors or COSEM_AUTHORS, license or COSEM_LICENSE  # noqa: A001
    _check(checkpoint, target, authors, license, raw_range)
    spec = _bioimageio_spec()
    assert manifest is not None
    assert manifest.input_range is not None
    network = cast("CosemUNet", load_model(checkpoint, dtype=torch.float32, zoo=zoo))
    raw = _noise(manifest, raw_range)
    gain, offset = scaling(raw_range, manifest.input_range)
    # As readers do it: in float32, one step after the other.
    scaled = raw.astype(np.float32) * np.float32(gain) + np.float32(offset)
    output = compute(network, torch.from_numpy(scaled))
    if not bool(torch.isfinite(output).all()):
        # `bioimageio test` takes NaN for equal to NaN, and would pass it.
        problem = "its output is not finite: the weights are of no use"
        raise ExportRefused(str(checkpoint.reference), target, [problem])
    facts = PackageFacts(
        authors=tuple(authors),
        license=str(license),
        raw_range=raw_range,
        torch_version=torch.__version__.partition("+")[0],
        tolerance=_tolerance(output),
    )
    texts = {
        NETWORK_FILE: network_source(),
        MANIFEST_FILE: manifest.to_json(),
        README_FILE: write_readme(checkpoint, network.shapes, facts),
    }
    # Both kinds of weights, and of TorchScript two files for a moment.
    needed = 3 * float32_bytes(network)
    with whole_folder(str(checkpoint.reference), target, needed=needed) as made:
        torch.save(network.state_dict(), made / STATE_DICT_FILE)
        write_torchscript(network, made / TORCHSCRIPT_FILE)
        np.save(made / TEST_INPUT_FILE, raw)
        np.save(made / TEST_OUTPUT_FILE, output.numpy())
        for name, text in texts.items():
            (made / name).write_text(text, encoding="utf-8")
        problems = _write_description(spec, describe(checkpoint, network.shapes, facts), made)
        if problems:
            raise ExportRefused(str(checkpoint.reference), target, problems)
        sizes = {path.name: path.stat().st_size for path in sorted(made.iterdir())}
    return BioimageioPackage(
        folder=target,
        checkpoint=checkpoint,
        files=sizes,
        input_shape=raw.shape,
        output_shape=tuple(output.shape),
    )


def network_source() -> str:
    """Give the source of the network as one file, which needs nothing but torch.

    It is the source of this package's own network: what is exported computes what `cosemzoo.load_model` does,
    refuses the sizes that it refuses, and takes the arguments of the manifest.
    """
    home = files("cosemzoo.nets")
    texts = (home.joinpath(f"{name}.py").read_text(encoding="utf-8") for name in _MODULES)
    return "\n\n".join([_PREFACE.rstrip(), *(_standing_alone(text).strip() for text in texts)]) + "\n"


def _bioimageio_spec() -> Any:
    try:
        return import_module("bioimageio.spec")
    except ImportError as error:
        raise ExtraMissing("A bioimage.io package", "bioimageio.spec", "bioimageio") from error


def _check(
    checkpoint: Checkpoint,
    folder: Path,
    authors: Sequence[str],
    license: str | None,  # noqa: A002
    raw_range: tuple[int, int],
) -> None:
    manifest, reference = checkpoint.manifest, str(checkpoint.reference)
    network = cast("CosemUNet", empty_network(manifest, reference))
    assert manifest is not None
    problems = list(_missing(authors, license))
    problems.extend(filter(None, [place_problem(folder)]))
    if problem := range_problem(raw_range):
        problems.append(problem)
    if manifest.input_range is None:
        problems.append("its manifest does not say input_range, the values that the network takes")
    problems.extend(voxel_problems(manifest, network.shapes))
    if problems:
        raise ExportRefused(reference, folder, problems)


def _missing(authors: Sequence[str], license: str | None) -> Iterator[str]:  # noqa: A002
    if not any(map(str.strip, authors)):
        yield "nothing says who made it: --author NAME, for each of them"
    if not (license or "").strip():
        yield "nothing says the licence of its weights: --license, such as CC-BY-4.0"


def _noise(manifest: Manifest, raw_range: tuple[int, int]) -> NDArray[Any]:
    low, high = raw_range
    arguments = read_arguments(network_arguments(manifest))
    shape = (1, arguments.input_channels, *shapes_of(arguments).valid_input_shape())
    return np.random.default_rng(_SEED).integers(low, high, shape, dtype=raw_type(high), endpoint=True)


def _tolerance(output: torch.Tensor) -> float | None:
    tolerance = _TOLERANCE * float(output.square().mean().sqrt())
    return tolerance if tolerance <= _MOST_TOLERANT * float(output.max()) else None


def _write_description(spec: Any, content: Mapping[str, Any], folder: Path) -> list[str]:
    """Let the format's own library complete, check and write a description; give what it objects to."""
    version = spec.ModelDescr.implemented_format_version
    context = spec.ValidationContext(root=folder, file_name=DESCRIPTION_FILE, perform_io_checks=True)
    described = spec.build_description({"format_version": version, **content}, context=context)
    if isinstance(described, spec.InvalidDescr):
        errors = described.validation_summary.errors
        return [": ".join(filter(None, (".".join(map(str, each.loc)), each.msg))) for each in errors]
    with context:
        spec.save_bioimageio_package_as_folder(described, output_path=folder)
    return []


def _standing_alone(text: str) -> str:
    """Leave out of a module its description, its ``__all__`` and what it imports of cosemzoo and attrs."""
    lines = text.splitlines()
    for node in reversed(ast.parse(text).body):
        if _is_left_out(node):
            del lines[node.lineno - 1 : node.end_lineno]
    return "\n".join(lines)


def _is_left_out(node: ast.stmt) -> bool:
    if isinstance(node, ast.ImportFrom):
        return str(node.module).split(".")[0] in ("cosemzoo", "attrs")
    if isinstance(node, ast.Assign):
        return ast.unparse(node.targets[0]) == "__all__"
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)

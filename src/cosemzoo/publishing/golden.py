"""Golden samples: what a network computes from noise, made once, where its weights are published."""

from collections.abc import Sequence
from pathlib import Path
from typing import Final

import torch

from cosemzoo.errors import CosemZooError, UnknownNetwork
from cosemzoo.manifest import Manifest
from cosemzoo.nets.arguments import read_arguments
from cosemzoo.nets.shapes import shapes_of
from cosemzoo.ready import empty_network, load_model, network_arguments
from cosemzoo.verify import GoldenSample, compute, scaled
from cosemzoo.zoo import Zoo

_SEED: Final = 0
_BYTES: Final = 256
#: Where a manifest does not say it: that of the COSEM networks.
_USUAL_RANGE: Final = (-1.0, 1.0)


def why_no_golden(manifest: Manifest, nonfinite: Sequence[object]) -> str | None:
    """Say why there can be no golden sample, as far as that is known before the network runs.

    Parameters
    ----------
    manifest : Manifest
    nonfinite : sequence
        The tensors with NaN or infinities.
    """
    if manifest.architecture is None:
        return "the manifest does not say which network it is"
    if nonfinite:
        return "the weights hold NaN or infinities"
    try:
        empty_network(manifest, manifest.run)
    except UnknownNetwork as error:
        return _one_line(error.problem)
    return None


def make_golden(folder: Path, target: Path) -> str | None:
    """Compute the golden sample of a checkpoint in a folder, in float32 on the CPU, and write it.

    COSEM setup04 takes about 2 GB of memory, and half a minute on two cores.

    Parameters
    ----------
    folder : Path
        With weights, and a manifest of which `why_no_golden` says nothing.
    target : Path
        The file to write.

    Returns
    -------
    str or None
        Why none was written; None if it was.
    """
    checkpoint = Zoo().resolve(folder)
    manifest = checkpoint.manifest
    assert manifest is not None
    input_range = manifest.input_range or _USUAL_RANGE
    try:
        raw = _noise(manifest)
        output = compute(load_model(checkpoint, dtype=torch.float32), scaled(raw, input_range))
    except (CosemZooError, RuntimeError, MemoryError) as error:
        # A sample is an extra: a publication does not fail for want of the memory for it.
        return f"the network could not be run here: {_one_line(str(error))}"
    if not bool(torch.isfinite(output).all()):
        return "the network's output is not finite"
    if bool((output == output[..., :1, :1, :1]).all()):
        return "the network's output does not depend on its input, so that it would prove nothing"
    sample = GoldenSample(
        raw=raw, output=output, input_range=input_range, seed=_SEED, torch_version=torch.__version__
    )
    sample.write(target)
    return None


def _noise(manifest: Manifest) -> torch.Tensor:
    arguments = read_arguments(network_arguments(manifest))
    shape = (1, arguments.input_channels, *shapes_of(arguments).valid_input_shape())
    generator = torch.Generator("cpu").manual_seed(_SEED)
    return torch.randint(0, _BYTES, shape, dtype=torch.uint8, generator=generator, device="cpu")


def _one_line(text: str) -> str:
    return " ".join(text.split())

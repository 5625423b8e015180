"""Whether a network computes here what it computed where it was published: the golden sample.

Beside the weights lies a block of noise and what the network made of it. Two machines agree to a few units in
the last place of float32; another network with the same weights, such as one without an activation, does not.
"""

import math
import time
from pathlib import Path
from typing import Final

import torch
from attrs import frozen
from huggingface_hub.utils import tqdm  # type: ignore[attr-defined]
from torch import nn

from cosemzoo.checkpoints.header import read_header
from cosemzoo.checkpoints.mapped import MappedWeights
from cosemzoo.checkpoints.shards import WeightsTable
from cosemzoo.checkpoints.writer import write_safetensors
from cosemzoo.errors import InvalidOption, InvalidSafetensors
from cosemzoo.models import ReferenceLike, resolve
from cosemzoo.ready import load_model
from cosemzoo.zoo import Zoo
from cosemzoo.zoo.weights import GOLDEN_FILE

#: By how much an output may be off, relative to its root mean square. Rounding grows with the values, not
#: with their spread: for COSEM U-Nets with random weights, float32 was up to 6e-6 of the largest value off
#: float64, and a missing activation 1e-2 or more.
TOLERANCE: Final = 1e-4

_AXES: Final = 5
_LARGEST_BYTE: Final = 255


@frozen(kw_only=True, eq=False)
class GoldenSample:
    """A block of raw data, and what a network computed from it.

    Attributes
    ----------
    raw : torch.Tensor
        uint8, (1, input channels, z, y, x).
    output : torch.Tensor
        float32, (1, channels, z, y, x).
    input_range : (float, float)
        What the bytes 0 and 255 are to the network.
    seed : int
        What `raw` was drawn with.
    torch_version : str
        With which torch `output` was computed.
    """

    raw: torch.Tensor
    output: torch.Tensor
    input_range: tuple[float, float]
    seed: int
    torch_version: str

    def write(self, path: Path) -> None:
        """Write it to a file."""
        low, high = self.input_range
        metadata = {
            "seed": str(self.seed),
            "torch": self.torch_version,
            "input_range": f"{low} {high}",
            "computed_in": "float32",
        }
        write_safetensors(path, {"input": self.raw, "output": self.output}, metadata)

    @classmethod
    def read(cls, path: Path) -> "GoldenSample":
        """Read what `write` wrote.

        Raises
        ------
        InvalidSafetensors
            If it is not such a file.
        """
        header = read_header(path)
        kinds = {name: (entry.dtype, len(entry.shape)) for name, entry in header.tensors.items()}
        shapes = [entry.shape for entry in header.tensors.values()]
        problems = []
        if kinds != {"input": ("U8", _AXES), "output": ("F32", _AXES)}:
            problems.append("it does not hold input (uint8) and output (float32), of five axes each")
        elif any(shape[0] != 1 or 0 in shape for shape in shapes):
            problems.append(f"it holds not one block, but tensors of the shapes {shapes}")
        try:
            low, high = map(float, str(header.metadata["input_range"]).split())
            seed, torch_version = int(str(header.metadata["seed"])), str(header.metadata["torch"])
            if not -math.inf < low < high < math.inf:
                raise ValueError
        except (KeyError, ValueError):
            problems.append("its metadata does not say input_range (two numbers), seed and torch")
        if problems:
            raise InvalidSafetensors(str(path), problems)
        tensors = MappedWeights(WeightsTable.single(path.name, header), {path.name: path})
        return cls(
            raw=tensors.tensor("input"),
            output=tensors.tensor("output"),
            input_range=(low, high),
            seed=seed,
            torch_version=torch_version,
        )


@frozen(kw_only=True)
class Deviation:
    """How far an output is off the golden one.

    Attributes
    ----------
    sample : GoldenSample
    largest : float
        The largest absolute difference; NaN if there are NaN, infinite where nothing could be compared.
    magnitude : float
        Root mean square of the golden output.
    tolerance : float
        What `relative` may be.
    device : str
        Where it was computed.
    seconds : float
        How long that took.
    problem : str
        Why nothing could be compared: the sample is of a network of other shapes. Empty where it could.
    """

    sample: GoldenSample
    largest: float
    magnitude: float
    tolerance: float
    device: str
    seconds: float
    problem: str = ""

    @property
    def relative(self) -> float:
        """The largest difference, relative to `magnitude`."""
        if self.magnitude == 0:
            return 0.0 if self.largest == 0 else math.inf
        return self.largest / self.magnitude

    @property
    def within(self) -> bool:
        """Whether that is within the tolerance."""
        return self.relative <= self.tolerance


def check_forward(
    reference: ReferenceLike, *, device: str = "cpu", tolerance: float = TOLERANCE, zoo: Zoo | None = None
) -> Deviation | None:
    """Compute a checkpoint's golden sample here, and compare.

    Parameters
    ----------
    reference : str, os.PathLike, Reference or Checkpoint
    device : {"cpu", "cuda"}
        Where to compute it. On a GPU, TF32 is switched off for this.
    tolerance : float
        By how much the output may be off, relative to its root mean square.
    zoo : Zoo, optional

    Returns
    -------
    Deviation or None
        None if the checkpoint was published without a golden sample.

    Raises
    ------
    UnknownNetwork
        If its network cannot be built here.
    InvalidSafetensors
        If the sample is malformed.
    InvalidOption
        If there is no such device, or `tolerance` is less than 0 or not a number.
    CosemZooError
        As `cosemzoo.fetch`.
    """
    zoo = Zoo() if zoo is None else zoo
    if device != "cpu" and not (device == "cuda" and torch.cuda.is_available()):
        raise InvalidOption("device", device, '"cpu", or "cuda" where torch finds a GPU')
    if not tolerance >= 0:
        raise InvalidOption("tolerance", tolerance, "a number from 0 on")
    checkpoint = resolve(reference, zoo=zoo)
    path = zoo.fetch_beside(checkpoint, GOLDEN_FILE)
    if path is None:
        return None
    sample = GoldenSample.read(path)
    network = load_model(checkpoint, device=device, dtype=torch.float32, zoo=zoo)
    golden = sample.output.double()
    largest, problem = math.inf, ""
    began = time.perf_counter()
    try:
        output = compute(network, scaled(sample.raw, sample.input_range).to(device))
    except ValueError as error:
        problem = f"it does not take the sample's input: {error}"
    else:
        if output.shape == golden.shape:
            largest = float((output.double() - golden).abs().max())
        else:
            problem = f"its output is {tuple(output.shape)}, the sample's {tuple(golden.shape)}"
    return Deviation(
        sample=sample,
        largest=largest,
        magnitude=float(golden.square().mean().sqrt()),
        tolerance=tolerance,
        device=device,
        seconds=time.perf_counter() - began,
        problem=problem,
    )


def scaled(raw: torch.Tensor, input_range: tuple[float, float]) -> torch.Tensor:
    """Give raw data of bytes as a network takes it: float32, from ``low`` for 0 to ``high`` for 255."""
    low, high = input_range
    return low + raw.float() / _LARGEST_BYTE * (high - low)


def compute(network: nn.Module, raw: torch.Tensor) -> torch.Tensor:
    """Give a network's output, on the CPU; a terminal shows how many of its layers are done.

    Raises
    ------
    ValueError
        If the network does not take such an input.
    """
    layers = [module for module in network.modules() if not [*module.children()]]
    with tqdm(total=len(layers), desc="running the network", unit="layer", disable=None) as bar:  # type: ignore[no-untyped-call]

        def show(*_: object) -> None:
            bar.update()

        hooks = [layer.register_forward_hook(show) for layer in layers]
        try:
            # TF32 would leave three digits, and a caller's autocast two.
            with (
                torch.inference_mode(),
                torch.autocast(raw.device.type, enabled=False),
                torch.backends.cudnn.flags(enabled=True, allow_tf32=False),
            ):
                output: torch.Tensor = network(raw).cpu()
        finally:
            for hook in hooks:
                hook.remove()
    return output

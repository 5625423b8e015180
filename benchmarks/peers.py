"""What else loads the same network: the packages as they are published, if they are installed."""

import shutil
from collections.abc import Callable, Mapping
from importlib.machinery import SourceFileLoader
from importlib.metadata import PackageNotFoundError, distribution
from importlib.util import module_from_spec, spec_from_loader
from pathlib import Path
from typing import Any, Final

import torch
from torch import nn

#: Where DaCapo 0.3.5 has its loader. The module needs the standard library only, the package very much more.
_DACAPO_START: Final = "dacapo/experiments/starts/start.py"
_CELLMAP_SETUP: Final = "cellmap_models/pytorch/cosem/setup04"
#: The prefixes of COSEM's checkpoints for each canonical one.
_ALIASES: Final = {
    "backbone.": ("architecture.unet.", "chain.0.unet."),
    "prediction_head.": ("prediction_head.", "chain.1."),
}

NOT_INSTALLED: Final = "not installed; `make bench` installs it"


def installed(package: str) -> bool:
    """Tell whether a package is installed here."""
    try:
        distribution(package)
    except PackageNotFoundError:
        return False
    return True


def aliased(tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Give tensors the two names that DaCapo up to 0.3.5 gives each."""
    return {
        other + name.removeprefix(prefix): tensor
        for prefix, others in _ALIASES.items()
        for other in others
        for name, tensor in tensors.items()
        if name.startswith(prefix)
    }


class AliasedNetwork(nn.Module):
    """A network whose tensors have the names of DaCapo's models up to 0.3.5."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.architecture = nn.Module()
        self.architecture.unet = network.get_submodule("backbone")
        self.prediction_head = network.get_submodule("prediction_head")
        self.chain = nn.Sequential(self.architecture, self.prediction_head)


def dacapo_set_weights() -> Callable[..., None]:
    """Give ``_set_weights`` of the DaCapo that is installed."""
    path = str(distribution("dacapo-ml").locate_file(_DACAPO_START))
    loader = SourceFileLoader("dacapo_start", path)
    spec = spec_from_loader(loader.name, loader)
    assert spec is not None
    module = module_from_spec(spec)
    loader.exec_module(module)
    set_weights: Callable[..., None] = module._set_weights
    return set_weights


def copy_cellmap_models(folder: Path, weights: Path, arguments: Mapping[str, Any]) -> None:
    """Copy the cellmap-models that is installed, with weights where it would have downloaded them to.

    Parameters
    ----------
    folder : Path
        To import it from.
    weights : Path
        What the bucket has.
    arguments : mapping
        Those of `CosemUNet` that are not those of setup04: the copy then builds that network.
    """
    source = Path(str(distribution("cellmap-models").locate_file("cellmap_models")))
    shutil.copytree(source, folder / "cellmap_models")
    setup = folder / _CELLMAP_SETUP
    (setup / "1820500.pth").symlink_to(weights)
    names = {"widths_down": "feature_widths_down", "widths_up": "feature_widths_up"}
    lines = [f"{names[name]} = {value}" for name, value in arguments.items()]
    if lines:
        # As many as it has levels; the last one is not used.
        lines.append("feature_widths_up.append(feature_widths_down[-1])")
        lines.append("final_feature_width = feature_widths_up[0]")
        with (setup / "model.py").open("a", encoding="utf-8") as file:
            file.write("\n" + "\n".join(lines) + "\n")

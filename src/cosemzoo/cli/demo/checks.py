"""Whether a load did what was promised, found out from the numbers themselves, not from its report."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Final

import click
import torch
from torch import Tensor, nn

#: The tensors of the head.
HEAD: Final = ("prediction_head.weight", "prediction_head.bias")


def check_load(
    network: nn.Module,
    before: Mapping[str, Tensor],
    weights: Mapping[str, Tensor],
    wanted: Sequence[str],
    labels: Sequence[str],
) -> Iterator[str]:
    """Give a line for each thing that is as it should be.

    Parameters
    ----------
    network : torch.nn.Module
        The network that was loaded into.
    before : mapping of str to Tensor
        Its head's tensors before.
    weights : mapping of str to Tensor
        The checkpoint's tensors.
    wanted, labels : sequence of str
        The labels of the network's rows, and of the checkpoint's.

    Raises
    ------
    click.ClickException
        At the first thing that is not.
    """
    now = network.state_dict()
    backbone = [name for name in now if name not in HEAD]
    line = f"all {len(backbone)} tensors of the backbone hold the checkpoint's values"
    _expect(all(torch.equal(now[name], weights[name]) for name in backbone), line)
    yield line
    for row, label in enumerate(wanted):
        if label in labels:
            source = labels.index(label)
            line = f"row {row} ({label}) holds row {source} of the checkpoint"
            same = all(torch.equal(now[name][row], weights[name][source]) for name in HEAD)
        else:
            line = f"row {row} ({label}) holds the network's own values"
            same = all(torch.equal(now[name][row], before[name][row]) for name in HEAD)
        _expect(same, line)
        yield line


def _expect(holds: bool, line: str) -> None:
    if not holds:
        raise click.ClickException(f"the demonstration failed; this should be true, and is not: {line}")

"""The values of weights before they are written: what is not finite, and what a conversion would change."""

import math
from collections.abc import Callable, Mapping

import torch
from attrs import frozen

from cosemzoo.checkpoints.writer import aligned_pieces, written_dtype


@frozen
class Values:
    """What was found in the values of tensors.

    Attributes
    ----------
    nonfinite : tuple of (str, int, int)
        (tensor, how many NaN, how many infinities), for those that have any.
    beyond : tuple of str
        One line for each tensor with finite values that the conversion makes infinite.
    error : float or None
        The largest relative error of the conversion; None where nothing is converted.
    error_tensor : str or None
        The tensor that it occurs in.
    """

    nonfinite: tuple[tuple[str, int, int], ...]
    beyond: tuple[str, ...]
    error: float | None
    error_tensor: str | None


def inspect_values(
    tensors: Mapping[str, torch.Tensor], dtype: torch.dtype | None, progress: Callable[[int], None]
) -> Values:
    """Count what is not finite, and measure what a conversion of floating-point tensors to `dtype` changes.

    Memory beyond the tensors stays constant.

    Parameters
    ----------
    tensors : mapping of str to torch.Tensor
    dtype : torch.dtype or None
        None for no conversion.
    progress : callable
        Told of every piece that was inspected, by its number of bytes.
    """
    nonfinite, beyond = [], []
    error, error_tensor = None, None
    for name in sorted(tensors):
        tensor = tensors[name]
        converted = written_dtype(tensor, dtype)
        nan = infinite = overflowing = 0
        for (piece,) in aligned_pieces(tensor):
            progress(piece.nbytes)
            if not piece.numel() or not (piece.is_floating_point() or piece.is_complex()):
                continue
            # Of the narrow types, not all can be asked.
            values = piece if piece.element_size() >= 4 else piece.float()
            # One value that is not finite leaves no finite sum.
            if not bool(torch.isfinite(values.sum())):
                nan += int(torch.isnan(values).sum())
                infinite += int((torch.isinf(values) & ~torch.isnan(values)).sum())
            if converted != tensor.dtype:
                more, largest = _rounding(values.double(), piece.to(converted).double())
                overflowing += more
                if error is None or largest > error:
                    error, error_tensor = largest, name
        if nan or infinite:
            nonfinite.append((name, nan, infinite))
        if overflowing:
            beyond.append(f"{name}: {overflowing:,} finite values become infinite in {converted}")
    return Values(tuple(nonfinite), tuple(beyond), error, error_tensor)


def _rounding(values: torch.Tensor, converted: torch.Tensor) -> tuple[int, float]:
    """Give how many finite values became infinite, and the largest relative error of the others."""
    # NaN for 0 and for what was not finite before; infinite for what became so.
    relative = ((converted - values) / values).abs_()
    largest = float(relative.nan_to_num_(nan=0, posinf=math.inf).max())
    if largest < math.inf:
        return 0, largest
    overflowing = torch.isinf(relative)
    return int(overflowing.sum()), float(relative.masked_fill(overflowing, 0).max())

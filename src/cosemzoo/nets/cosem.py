"""The COSEM U-Net of Heinrich et al. 2021 (doi:10.1038/s41586-021-03977-3): 8 nm in, 4 nm out.

Names and shapes of its tensors are those of cellmap-models 0.2.4, which are the canonical ones here.
"""

from collections import OrderedDict
from collections.abc import Sequence
from typing import Final, cast

import torch
from torch import Tensor, nn

#: The feature widths of the published networks, by level: before and after the bottom.
WIDTHS_DOWN: Final = (12, 72, 432, 2592)
WIDTHS_UP: Final = (72, 72, 432)

_FACTORS: Final = (2, 3, 3)
# Upsampled features are cropped to whole steps of all the pooling below, so that an input moved by a step
# gives the same output, moved.
_STEPS: Final = (18, 9, 3)
_FINAL_FACTOR: Final = 2
_SMALLEST_INPUT: Final = 198
# What two valid convolutions of 3 voxels take from an axis.
_CONVOLVED: Final = 4


class CosemUNet(nn.Module):
    """The U-Net of the COSEM runs with 8 nm input and 4 nm output.

    Parameters
    ----------
    channels : int
        Output rows of the head.
    widths_down : sequence of four int
        Feature maps of each level before the bottom, and of the bottom.
    widths_up : sequence of three int
        Feature maps of each level after the bottom, the finest first.
    activation_on_upsample : bool
        Whether ReLU follows the convolution after each upsampling, as in the published networks. Without it
        the same weights give other results.

    Examples
    --------
    >>> network = CosemUNet(3, widths_down=(1, 2, 3, 4), widths_up=(2, 2, 3))
    >>> network(torch.zeros(1, 1, 198, 198, 198)).shape
    torch.Size([1, 3, 32, 32, 32])
    """

    def __init__(
        self,
        channels: int,
        *,
        widths_down: Sequence[int] = WIDTHS_DOWN,
        widths_up: Sequence[int] = WIDTHS_UP,
        activation_on_upsample: bool = True,
    ) -> None:
        super().__init__()
        width = widths_up[0]
        self.backbone = nn.Sequential(
            _UNet(widths_down, widths_up, activation_on_upsample),
            _upsample(width, width, _FINAL_FACTOR, activation_on_upsample),
            _conv_pass(width, width),
        )
        self.prediction_head = nn.Conv3d(width, channels, 1)

    def forward(self, raw: Tensor) -> Tensor:
        """Predict the channels in the centre of a volume.

        Parameters
        ----------
        raw : Tensor
            (batch, 1, z, y, x), voxels of 8 nm; 198 + 18·k of them along each axis.

        Returns
        -------
        Tensor
            (batch, channels, z, y, x), voxels of 4 nm; `output_size` of them along each axis.

        Raises
        ------
        ValueError
            If an axis has another length.
        """
        for size in raw.shape[-3:]:
            output_size(size)
        return cast("Tensor", self.prediction_head(self.backbone(raw)))


def output_size(input_size: int) -> int:
    """Give the voxels of the output along an axis: 2·(input - 180) - 4.

    Raises
    ------
    ValueError
        If no input has this size.

    Examples
    --------
    >>> output_size(216)
    68
    """
    if input_size < _SMALLEST_INPUT or input_size % _STEPS[0]:
        nearest = max(_SMALLEST_INPUT, round(input_size / _STEPS[0]) * _STEPS[0])
        raise ValueError(
            f"an axis of {input_size} voxels does not fit the network: it takes {_SMALLEST_INPUT} + "
            f"{_STEPS[0]}·k of them (k = 0, 1, 2, …); the nearest is {nearest}"
        )
    return _FINAL_FACTOR * (input_size - 180) - _CONVOLVED


def _conv_pass(width_in: int, width: int) -> nn.Module:
    layers = [nn.Conv3d(width_in, width, 3), nn.ReLU(), nn.Conv3d(width, width, 3), nn.ReLU()]
    return nn.Sequential(OrderedDict(conv_pass=nn.Sequential(*layers)))


def _upsample(width_in: int, width: int, factor: int, activation: bool) -> nn.Module:
    layers = [nn.Upsample(scale_factor=factor), nn.Conv3d(width_in, width, 1)]
    layers += [nn.ReLU()] if activation else []
    return nn.Sequential(OrderedDict(up=nn.Sequential(*layers)))


class _UNet(nn.Module):
    def __init__(self, widths_down: Sequence[int], widths_up: Sequence[int], activation: bool) -> None:
        super().__init__()
        down = list(zip([1, *widths_down], widths_down, strict=False))
        below = [*widths_up[1:], widths_down[-1]]
        ups = zip(below, widths_up, _FACTORS, strict=True)
        joined = zip(widths_down[:-1], widths_up, strict=True)
        self.l_conv = nn.ModuleList(_conv_pass(*widths) for widths in down)
        self.l_down = nn.ModuleList(nn.MaxPool3d(factor) for factor in _FACTORS)
        # The other level of lists is for several decoders, of which the published networks have one.
        self.r_up = nn.ModuleList([nn.ModuleList(_upsample(*up, activation) for up in ups)])
        self.r_conv = nn.ModuleList([nn.ModuleList(_conv_pass(left + up, up) for left, up in joined)])

    def forward(self, features: Tensor) -> Tensor:
        skipped = []
        for convolve, pool in zip(self.l_conv, self.l_down, strict=False):
            skipped.append(convolve(features))
            features = pool(skipped[-1])
        features = self.l_conv[-1](features)
        r_up, r_conv = cast("nn.ModuleList", self.r_up[0]), cast("nn.ModuleList", self.r_conv[0])
        for level in reversed(range(len(_FACTORS))):
            up, step = r_up[level](features), _STEPS[level]
            size = [(length - _CONVOLVED) // step * step + _CONVOLVED for length in up.shape[-3:]]
            joined = torch.cat([_centre(skipped.pop(), size), _centre(up, size)], dim=1)
            features = r_conv[level](joined)
        return features


def _centre(features: Tensor, size: Sequence[int]) -> Tensor:
    for axis, length in zip((-3, -2, -1), size, strict=True):
        features = features.narrow(axis, (features.shape[axis] - length) // 2, length)
    return features

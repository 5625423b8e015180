"""The COSEM U-Net of Heinrich et al. 2021 (doi:10.1038/s41586-021-03977-3), in all its forms.

Names and shapes of its tensors are those of cellmap-models 0.2.4, which are the canonical ones here, wherever
that builds the network: the feature maps of its finest level must be those of the level below. With the same
weights and the same activations it gives the same numbers.
"""

from collections import OrderedDict
from collections.abc import Iterable, Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn

from cosemzoo.nets.arguments import (
    FACTORS,
    FINAL_UPSAMPLE,
    WIDTHS_DOWN,
    WIDTHS_UP,
    CosemArguments,
    Kernels,
    Voxels,
    read_arguments,
)
from cosemzoo.nets.shapes import Crop, Shapes, shapes_of

__all__ = ["WIDTHS_DOWN", "WIDTHS_UP", "CosemUNet"]

_Triple = int | Sequence[int]
_Passes = Sequence[Sequence[_Triple]]


class CosemUNet(nn.Module):
    """A COSEM U-Net. As it is made by default, it is that of the runs with 8 nm input and 4 nm output.

    It is exported for every shape where the axes are given as so many steps: 18 · ``torch.export.Dim``. It is
    compiled with ``torch.compile(network, dynamic=False)``: torch 2.13 cannot compile two convolutions one
    after the other for shapes of which all three axes may vary (pytorch/pytorch#188323).

    Parameters
    ----------
    channels : int
        Output rows of the head.
    input_channels : int
        Feature maps of the input.
    widths_down : sequence of int
        Feature maps of each level before the bottom, and of the bottom.
    widths_up : sequence of int
        Feature maps of each level after the bottom, the finest first: one fewer.
    factors : sequence of (int or three int)
        By how much the features of each level are pooled, for all axes or for z, y and x.
    upsampling : {"constant", "transposed"}
        Voxels are repeated and then convolved, or a transposed convolution does both.
    final_upsample : int, three int or None
        Voxels of the output along one of the input: by so much is the output of the U-Net upsampled, before
        a last pass of convolutions. None leaves out both.
    final_width : int, optional
        Feature maps before the head; those of the finest level if it is left out.
    kernel_sizes_down, kernel_sizes_up : sequence of sequences of (int or three int), optional
        Kernel sizes of each convolution, by level; two of 3 x 3 x 3 voxels if they are left out.
    kernel_sizes_final : sequence of one sequence of (int or three int), optional
        The same for the pass after the final upsampling.
    padding : {"valid", "same"}
        Whether convolutions take voxels from the border, or pad it with zeros. Features are cropped to whole
        steps of the pooling with both, so that the output is smaller than the input with both.
    activation_on_upsample : bool
        Whether ReLU follows the convolution of each upsampling, as in the published networks. Without it
        the same weights give other results.
    device, dtype : optional
        Where the parameters are made, and as what.

    Attributes
    ----------
    shapes : Shapes
        What fits, and how large the output is.

    Raises
    ------
    ValueError
        If an argument is out of range or at odds with another; all of them are listed.

    Examples
    --------
    >>> network = CosemUNet(3, widths_down=(1, 2, 3, 4), widths_up=(2, 2, 3))
    >>> network(torch.zeros(1, 1, 198, 198, 198)).shape
    torch.Size([1, 3, 32, 32, 32])
    >>> network.valid_input_shape((200, 200, 200)), network.output_shape((216, 216, 216))
    ((216, 216, 216), (68, 68, 68))
    """

    def __init__(
        self,
        channels: int,
        *,
        input_channels: int = 1,
        widths_down: Sequence[int] = WIDTHS_DOWN,
        widths_up: Sequence[int] = WIDTHS_UP,
        factors: Sequence[_Triple] = FACTORS,
        upsampling: str = "constant",
        final_upsample: _Triple | None = FINAL_UPSAMPLE,
        final_width: int | None = None,
        kernel_sizes_down: _Passes | None = None,
        kernel_sizes_up: _Passes | None = None,
        kernel_sizes_final: _Passes | None = None,
        padding: str = "valid",
        activation_on_upsample: bool = True,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        arguments = read_arguments(
            {
                "channels": channels,
                "input_channels": input_channels,
                "widths_down": widths_down,
                "widths_up": widths_up,
                "factors": factors,
                "upsampling": upsampling,
                "final_upsample": final_upsample,
                "final_width": final_width,
                "kernel_sizes_down": kernel_sizes_down,
                "kernel_sizes_up": kernel_sizes_up,
                "kernel_sizes_final": kernel_sizes_final,
                "padding": padding,
                "activation_on_upsample": activation_on_upsample,
            }
        )
        self.shapes = shapes_of(arguments)
        layers = _Layers(arguments, device, dtype)
        self.backbone: nn.Module = _UNet(arguments, self.shapes, layers)
        if arguments.final_upsample is not None:
            width = arguments.widths_up[0]
            self.backbone = nn.Sequential(
                self.backbone,
                layers.upsample(width, width, arguments.final_upsample),
                *(
                    layers.conv_pass(width, arguments.final_width, each)
                    for each in arguments.kernel_sizes_final
                ),
            )
        self.prediction_head = layers.convolution(arguments.final_width, channels, (1, 1, 1))
        self._takes = arguments.input_channels
        self._sizes = tuple((axis.smallest, axis.step) for axis in self.shapes.axes)

    @property
    def context(self) -> tuple[float, float, float]:
        """Voxels of the input, at each end of z, y and x, that the output does not reach; see `Shapes`."""
        return self.shapes.context

    def valid_input_shape(self, at_least: Sequence[int] = (1, 1, 1)) -> Voxels:
        """Give the smallest input (z, y, x) that fits and is at least this large along each axis."""
        return self.shapes.valid_input_shape(at_least)

    def output_shape(self, input_shape: Sequence[int]) -> Voxels:
        """Give the shape (z, y, x) of the output of an input.

        Raises
        ------
        ValueError
            If no input of this shape fits; it says which are the nearest that do.
        """
        return self.shapes.output_shape(input_shape)

    def forward(self, raw: Tensor) -> Tensor:
        """Predict the channels in the centre of a volume.

        Parameters
        ----------
        raw : Tensor
            (batch, input channels, z, y, x), of a shape that `valid_input_shape` gives.

        Returns
        -------
        Tensor
            (batch, channels, z, y, x), of the shape that `output_shape` gives.

        Raises
        ------
        ValueError
            If the input has another number of axes or channels, or a shape that does not fit.
        """
        if raw.dim() != 5 or raw.shape[1] != self._takes:
            raise ValueError(
                f"the network takes (batch, {self._takes}, z, y, x), not a tensor of shape {tuple(raw.shape)}"
            )
        sizes = zip(raw.shape[2:], self._sizes, strict=True)
        if any(size < smallest or (size - smallest) % step for size, (smallest, step) in sizes):
            self.output_shape(raw.shape[2:])
        return cast("Tensor", self.prediction_head(self.backbone(raw)))


class _Layers:
    """Makes the layers, all of them alike."""

    def __init__(
        self, arguments: CosemArguments, device: torch.device | str | None, dtype: torch.dtype | None
    ) -> None:
        self._arguments = arguments
        self._made: dict[str, Any] = {"device": device, "dtype": dtype}

    def convolution(self, width_in: int, width: int, kernel: Voxels) -> nn.Conv3d:
        z, y, x = (size // 2 if self._arguments.padding == "same" else 0 for size in kernel)
        return nn.Conv3d(width_in, width, kernel, padding=(z, y, x), **self._made)

    def conv_pass(self, width_in: int, width: int, kernels: Kernels) -> nn.Module:
        layers: list[nn.Module] = []
        for kernel in kernels:
            layers += [self.convolution(width_in, width, kernel), _relu()]
            width_in = width
        return nn.Sequential(OrderedDict(conv_pass=nn.Sequential(*layers)))

    def upsample(self, width_in: int, width: int, factor: Voxels) -> nn.Module:
        layers: list[nn.Module]
        if self._arguments.upsampling == "constant":
            layers = [nn.Upsample(scale_factor=factor), self.convolution(width_in, width, (1, 1, 1))]
        else:
            layers = [nn.ConvTranspose3d(width_in, width, factor, stride=factor, **self._made)]
        if self._arguments.activation_on_upsample:
            layers.append(_relu())
        # A transposed convolution without activation has no place in a sequence in its name.
        up = nn.Sequential(*layers) if len(layers) > 1 else layers[0]
        return nn.Sequential(OrderedDict(up=up))


class _UNet(nn.Module):
    def __init__(self, arguments: CosemArguments, shapes: Shapes, layers: _Layers) -> None:
        super().__init__()
        down, up, factors = arguments.widths_down, arguments.widths_up, arguments.factors
        passes = zip((arguments.input_channels, *down), down, arguments.kernel_sizes_down, strict=False)
        ups = zip((*up[1:], down[-1]), up, factors, strict=True)
        joined = zip(down, up, arguments.kernel_sizes_up, strict=False)
        self.l_conv = nn.ModuleList(layers.conv_pass(*each) for each in passes)
        self.l_down = nn.ModuleList(nn.MaxPool3d(factor) for factor in factors)
        # The other level of lists is for several decoders, of which these networks have one.
        self.r_up = nn.ModuleList([nn.ModuleList(layers.upsample(*each) for each in ups)])
        self.r_conv = nn.ModuleList(
            [nn.ModuleList(layers.conv_pass(left + right, right, each) for left, right, each in joined)]
        )
        self._skipped = tuple(zip(*(axis.skipped for axis in shapes.axes), strict=True))
        self._upsampled = tuple(zip(*(axis.upsampled for axis in shapes.axes), strict=True))

    def forward(self, features: Tensor) -> Tensor:
        skipped = []
        for convolve, pool, crop in zip(self.l_conv, self.l_down, self._skipped, strict=False):
            features = convolve(features)
            # A copy of what will be joined, which is little, lets go of the features of a whole level.
            skipped.append(_cropped(features, crop).clone())
            features = pool(features)
        features = self.l_conv[-1](features)
        r_up, r_conv = cast("nn.ModuleList", self.r_up[0]), cast("nn.ModuleList", self.r_conv[0])
        for level in reversed(range(len(r_up))):
            features = _cropped(r_up[level](features), self._upsampled[level])
            features = r_conv[level](torch.cat([skipped.pop(), features], dim=1))
        return features


def _relu() -> nn.Module:
    # What it follows is a convolution, whose output nothing else reads.
    return nn.ReLU(inplace=True)


def _cropped(features: Tensor, crops: Iterable[Crop]) -> Tensor:
    for axis, crop in zip((2, 3, 4), crops, strict=True):
        features = features.narrow(axis, crop.start, features.shape[axis] - crop.total)
    return features

"""The COSEM network."""

from cosemzoo.nets.cosem import CosemUNet, output_size

__all__ = ["CosemUNet", "output_size"]

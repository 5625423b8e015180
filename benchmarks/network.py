"""The network that is loaded: setup04 of COSEM, and a small one of the same form to try the program with."""

from collections.abc import Mapping
from typing import Any, Final

RUN: Final = "setup04"
ITERATION: Final = 1820500
#: Its channels, in the order of the head (janelia-cellmap/cellmap-models 0.2.4).
LABELS: Final = (
    *("ecs", "pm", "mito", "mito_mem", "ves", "ves_mem", "endo", "endo_mem"),
    *("er", "er_mem", "eres", "nuc", "mt", "mt_out"),
)
#: What `CosemUNet` is given besides the channels: nothing for setup04, which it is by default.
SIZES: Final[Mapping[str, Mapping[str, Any]]] = {
    "full": {},
    "small": {"widths_down": [1, 2, 3, 4], "widths_up": [2, 2, 3]},
}

"""Where checkpoints come from: the Hub and its cache, the local zoo, folders; found, pinned and verified."""

from cosemzoo.zoo.checkpoint import Checkpoint, WeightsFile
from cosemzoo.zoo.zoo import Zoo

__all__ = ["Checkpoint", "WeightsFile", "Zoo"]

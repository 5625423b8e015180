"""Publishing runs on the Hub."""

from cosemzoo.publishing.publish import publish
from cosemzoo.publishing.publisher import Published

__all__ = ["Published", "publish"]

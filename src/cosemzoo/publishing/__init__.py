"""Publishing runs on the Hub."""

from cosemzoo.publishing.publish import Published, publish

__all__ = ["Published", "publish"]

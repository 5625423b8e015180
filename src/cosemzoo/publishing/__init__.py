"""Publishing runs on the Hub."""

from cosemzoo.publishing.publish import publish

__all__ = ["publish"]

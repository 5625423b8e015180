"""Publishing runs on the Hub."""

from cosemzoo.publishing.publish import publish
from cosemzoo.publishing.refusals import DescriptionDiffers, PublicationRefused, WriteDenied

__all__ = ["DescriptionDiffers", "PublicationRefused", "WriteDenied", "publish"]

"""`cosemzoo demo`."""

from cosemzoo.cli.demo.command import demo

__all__ = ["demo"]

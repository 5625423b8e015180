"""The `cosemzoo` command: it asks the other rooms and prints what they answer."""

from cosemzoo.cli.group import main

__all__ = ["main"]

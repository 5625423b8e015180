"""Publish a training checkpoint on the Hub: `cosemzoo push` as a script.

    python scripts/push_run.py setup04@1820500 --weights CHECKPOINT --card model_cards/setup04.md --alias best

Options, output and exit codes are those of `cosemzoo push`; see `--help`. From Python, call
`cosemzoo.publishing.push.push`.
"""

import sys

from cosemzoo.cli import main

if __name__ == "__main__":
    main(["push", *sys.argv[1:]])

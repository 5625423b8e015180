"""The other end of `benchmarks.children`: prepare, say so, and act each time that a line comes."""

import json
import os
import sys
import time
from importlib import import_module


def main() -> None:
    """Do what the command line says."""
    # What others print must not come between the answers.
    with os.fdopen(os.dup(1), "w") as answers:
        os.dup2(2, 1)
        module, _, function = sys.argv[1].partition(":")
        act = getattr(import_module(module), function)(**json.loads(sys.argv[2]))
        print("ready", file=answers, flush=True)
        kept: list[object] = []
        for _line in sys.stdin:
            # Freed before the clock runs: what it was is no part of the next.
            kept.clear()
            start = time.perf_counter()
            kept.append(act())
            print(time.perf_counter() - start, file=answers, flush=True)


if __name__ == "__main__":
    main()

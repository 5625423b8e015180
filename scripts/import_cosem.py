"""Import the published COSEM checkpoints into the local zoo, and publish them on the Hub if asked to.

    python scripts/import_cosem.py                                   # all of them
    python scripts/import_cosem.py setup04@1820500 setup36@500000
    python scripts/import_cosem.py --from-dir cosem_models --push --namespace my-lab

One after another, each as `cosemzoo import` does it. After a failure it goes on with the next; at the end a
table says what became of each, and the exit code is 1 if any failed. Run it again to repeat what failed: what
is there already is neither downloaded nor uploaded again.
"""

import argparse
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from cosemzoo.cli.output import print_table
from cosemzoo.cli.progress import bytes_bar
from cosemzoo.errors import CosemZooError
from cosemzoo.publishing.cosem import Original, find_original, originals
from cosemzoo.publishing.importing import import_checkpoint, push_imported
from cosemzoo.zoo import Zoo


def main(arguments: Sequence[str] | None = None) -> int:
    """Import what the arguments name, and give the exit code."""
    options = parser().parse_args(arguments)
    zoo = Zoo(local_dir=options.local_dir, endpoint=options.endpoint)
    rows, failures = [], 0
    for wanted in options.references or map(str, originals()):
        print(f"{wanted}:", file=sys.stderr)
        done: list[str] = []
        problem = ""
        try:
            # What was done before a failure is in the table, too.
            done.extend(steps(find_original(wanted), zoo, options))
        except (CosemZooError, OSError) as error:
            failures += 1
            problem = f"FAILED: {str(error).partition(chr(10))[0]}"
            print(error, file=sys.stderr)
        rows.append([wanted, "; ".join(done) or "nothing", problem])
    print_table("published COSEM checkpoints", ("checkpoint", "what was done", "problem"), rows)
    return 1 if failures else 0


def steps(original: Original, zoo: Zoo, options: argparse.Namespace) -> Iterator[str]:
    """Import one checkpoint and publish it if asked to; say what was done."""
    source = None if options.from_dir is None else original.under(options.from_dir)
    with bytes_bar(str(original)) as progress:
        imported = import_checkpoint(
            str(original),
            zoo=zoo,
            source=source,
            base_url=options.base_url,
            keep_download=options.keep_download,
            generated=options.generated,
            progress=progress,
        )
    yield f"{'was there' if imported.was_there else 'imported'}: {imported.reference}"
    if options.push:
        published = push_imported(imported, zoo=zoo, namespace=options.namespace)
        yield f"{'published' if published.changes else 'was published'}: {published.reference}"


def parser() -> argparse.ArgumentParser:
    """Give the parser of the command line."""
    what, _, how = (__doc__ or "").partition("\n\n")
    made = argparse.ArgumentParser(
        description=what, epilog=how, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    made.add_argument(
        "references", nargs="*", metavar="RUN@ITERATION", help="which; by default all that were published"
    )
    where = made.add_mutually_exclusive_group()
    where.add_argument(
        "--from-dir", type=Path, metavar="DIR", help="a folder of originals, <run>/<iteration>"
    )
    where.add_argument("--base-url", metavar="URL", help="a mirror of the bucket")
    made.add_argument("--local-dir", type=Path, metavar="DIR", help="the local zoo")
    made.add_argument("--keep-download", action="store_true", help="keep the originals after conversion")
    made.add_argument("--generated", action="store_true", help="say that the weights are made-up numbers")
    made.add_argument("--push", action="store_true", help="publish each on the Hub, too")
    made.add_argument("--namespace", metavar="NAME", help="where to publish; by default the zoo's own")
    made.add_argument("--endpoint", metavar="URL", help="the Hub")
    return made


if __name__ == "__main__":
    sys.exit(main())

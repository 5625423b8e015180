"""`cosemzoo import`."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from cosemzoo.cli.description import identity_pairs, identity_values, weights_pair, weights_values
from cosemzoo.cli.options import json_option
from cosemzoo.cli.output import print_json, print_pairs
from cosemzoo.cli.progress import bytes_bar

if TYPE_CHECKING:
    from cosemzoo.manifest import Manifest
    from cosemzoo.publishing.importing import Imported

_EXAMPLES: Final = """\b
Examples:
  cosemzoo import --list
  cosemzoo import setup04@1820500
  cosemzoo import setup04@1820500 --from-file ./1820500
  cosemzoo import setup26.1@650000 --from-dir cosem_models    (which holds setup26.1/650000)
"""
_PATH: Final = click.Path(path_type=Path)


@click.command(name="import", epilog=_EXAMPLES)
@click.argument("reference", metavar="RUN@ITERATION", required=False)
@click.option("--from-file", type=_PATH, metavar="FILE", help="The original, where it is on disk already.")
@click.option("--from-dir", type=_PATH, metavar="DIR", help="A folder that holds it as <run>/<iteration>.")
@click.option("--base-url", metavar="URL", help="A mirror of the bucket.  [default: COSEMZOO_COSEM_URL]")
@click.option("--local-dir", type=_PATH, metavar="DIR", help="The local zoo.  [default: COSEMZOO_LOCAL_DIR]")
@click.option("--keep-download", is_flag=True, help="Keep the original after it was converted.")
@click.option("--generated", is_flag=True, help="Say that the weights are made-up numbers, as for tests.")
@click.option("--list", "list_them", is_flag=True, help="Print what can be imported.")
@json_option
def import_command(
    reference: str | None,
    *,
    from_file: Path | None,
    from_dir: Path | None,
    base_url: str | None,
    local_dir: Path | None,
    list_them: bool,
    as_json: bool,
    **options: Any,
) -> None:
    """Put a published COSEM checkpoint into the local zoo.

    The original is downloaded from the public bucket of the COSEM project, converted to safetensors, and
    described by the card of its run. Afterwards local:RUN@ITERATION names it. A download that is interrupted
    goes on where it stopped; what is there already is not downloaded again.
    """
    from cosemzoo.publishing.cosem import find_original, originals  # noqa: PLC0415 - not for the help
    from cosemzoo.publishing.importing import import_checkpoint  # noqa: PLC0415 - the help needs no torch
    from cosemzoo.zoo import Zoo  # noqa: PLC0415

    if list_them:
        names = [str(original) for original in originals()]
        print_json(names) if as_json else click.echo("\n".join(names))
        return
    if reference is None:
        raise click.UsageError("say which one, as in setup04@1820500; --list prints what can be imported")
    if sum(given is not None for given in (from_file, from_dir, base_url)) > 1:
        raise click.UsageError("--from-file, --from-dir and --base-url all say where it is; give one of them")
    source = from_file if from_dir is None else find_original(reference).under(from_dir)
    with bytes_bar("downloading and converting" if source is None else "converting") as progress:
        done = import_checkpoint(
            reference,
            zoo=Zoo(local_dir=local_dir),
            source=source,
            base_url=base_url,
            progress=progress,
            **options,
        )
    if as_json:
        print_json(_values(done))
    else:
        _print(done)
        if from_file is not None:
            name = f"{done.checkpoint.reference.run}@{done.checkpoint.criterion}"
            click.echo(
                f"\nThat the file is {name} was taken on trust: its tensors say neither the iteration\n"
                "nor, among runs with as many channels (setup28, setup36, setup45), which one it is."
            )


def _values(done: "Imported") -> dict[str, Any]:
    return {
        **identity_values(done.checkpoint),
        "already_there": done.was_there,
        "weights": weights_values(done.checkpoint),
        "manifest": json.loads(_manifest(done).to_json()),
        "dropped": [] if done.conversion is None else list(done.conversion.dropped),
    }


def _print(done: "Imported") -> None:
    manifest, conversion = _manifest(done), done.conversion
    network, lineage = manifest.architecture, manifest.lineage
    assert network is not None
    assert lineage is not None
    pairs = [*identity_pairs(done.checkpoint), weights_pair(done.checkpoint)]
    if manifest.generated:
        pairs.append(("GENERATED", "made-up numbers in the network's shapes, not a trained network"))
    arguments = (f"{name} = {json.dumps(value)}" for name, value in network.arguments.items())
    pairs.append(("network", f"{network.name}: {', '.join(arguments)}"))
    pairs.append(("channels", ", ".join(map(str, manifest.channels))))
    pairs.append(("original", f"{lineage.source_url or 'a file'}, SHA-256 {lineage.source_sha256}"))
    if conversion is not None:
        pairs.extend(("left out", line) for line in conversion.dropped)
    print_pairs(pairs)
    click.echo("\nAlready there: nothing was changed." if done.was_there else "\nImported.")
    click.echo(f'To load it:\n  CosemStart("{done.reference}").initialize_weights(model, new_head=[…])')


def _manifest(done: "Imported") -> "Manifest":
    # An imported checkpoint has one.
    assert done.checkpoint.manifest is not None
    return done.checkpoint.manifest

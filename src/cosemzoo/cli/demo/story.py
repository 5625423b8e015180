"""The demonstration, step by step."""

import json
import time
import warnings
from pathlib import Path
from typing import Final

import click
from safetensors.torch import load_file
from torch import Tensor

from cosemzoo.cli.demo.checks import HEAD, check_load
from cosemzoo.cli.demo.run import FULL, ITERATION, LABELS, REDUCED, Size, make_network, write_run
from cosemzoo.cli.output import print_pairs
from cosemzoo.cli.progress import no_download_bars
from cosemzoo.errors import PartialLoad
from cosemzoo.localhub import LocalHub
from cosemzoo.nets import CosemUNet
from cosemzoo.publishing import publish
from cosemzoo.starts import CosemStart
from cosemzoo.zoo import Zoo
from cosemzoo.zoo.weights import SINGLE_FILE

#: What the network to be trained shall predict; setup04 knows all but lipid droplets.
WANTED: Final = ("mito", "er", "nuc", "ld")
_REFERENCE: Final = "setup04@best"


def tell(root: Path, *, full: bool) -> str:
    """Go through all of it, in a folder, and give the address that its Hub had.

    Raises
    ------
    click.ClickException
        If a load did not do what was promised.
    CosemZooError
        If it fails otherwise.
    """
    began = time.perf_counter()
    size = FULL if full else REDUCED
    click.echo(
        f"A run in the form of COSEM setup04, {size.words},\n"
        "is published, planned for, and loaded into a network with another head.\n"
        "Its weights are GENERATED random numbers: not COSEM's, and they predict nothing."
    )
    with LocalHub(root / "hub") as hub:
        _step(1, "A Hub of its own")
        click.echo(f"{hub.endpoint}, on this machine only")
        _step(2, "Publish the run there")
        published = _publish(root, hub, size)
        _step(3, f"Resolve {_REFERENCE}, and plan a load into a head of {', '.join(WANTED)}")
        network = make_network(size, len(WANTED), seed=1)
        zoo = Zoo(endpoint=hub.endpoint, cache_dir=root / "cache", token=False)
        start = CosemStart(_REFERENCE, store=zoo)
        _plan(hub, start, network)
        _step(4, "Download, verify, load")
        hub.reset_counts()
        lines = _load(start, network, published)
        click.echo(f"The Hub sent {hub.bytes_sent:,} bytes.\n\n{start.report}\n")
        _tell_checks(lines)
    _step(5, "The same again: the Hub is stopped, the cache is all there is")
    offline = Zoo(endpoint=hub.endpoint, cache_dir=root / "cache", token=False, offline=True)
    start, network = CosemStart(_REFERENCE, store=offline), make_network(size, len(WANTED), seed=1)
    lines = _load(start, network, published)
    click.echo(f"{start.checkpoint}\n")
    _tell_checks(lines)
    _close(time.perf_counter() - began)
    return hub.endpoint


def _publish(root: Path, hub: LocalHub, size: Size) -> dict[str, Tensor]:
    write_run(root / "run", size)
    maintainer = Zoo(endpoint=hub.endpoint, cache_dir=root / "maintainer", token=False)
    published = publish(root / "run", f"setup04@{ITERATION}", zoo=maintainer, aliases=["best"])
    weights = root / "run" / SINGLE_FILE
    print_pairs(
        [
            ("run", f"setup04@{ITERATION}, also called best"),
            ("commit", str(published.commit)),
            ("weights", f"{weights.stat().st_size:,} bytes, generated"),
            ("channels", ", ".join(LABELS)),
        ]
    )
    return load_file(weights)


def _plan(hub: LocalHub, start: CosemStart, network: CosemUNet) -> None:
    hub.reset_counts()
    with no_download_bars():
        plan = start.plan(network, new_head=WANTED)
    weights = sum(file.size for file in start.checkpoint.files)
    click.echo(
        f"{start.checkpoint}\n"
        f"{len(hub.requests)} requests, {hub.bytes_sent:,} bytes; the weights, {weights:,} bytes, "
        f"were not needed.\n\n{plan}"
    )


def _load(start: CosemStart, network: CosemUNet, published: dict[str, Tensor]) -> list[str]:
    before = {name: tensor.clone() for name, tensor in network.state_dict().items() if name in HEAD}
    with warnings.catch_warnings():
        # `ld` is new: the load is partial on purpose, and the report says so.
        warnings.simplefilter("ignore", PartialLoad)
        start.initialize_weights(network, new_head=WANTED)
    return list(check_load(network, before, published, WANTED, LABELS))


def _tell_checks(lines: list[str]) -> None:
    click.echo("What the numbers themselves say:")
    for line in lines:
        click.echo(f"  {click.style('ok', fg='green')}  {line}")


def _step(number: int, title: str) -> None:
    click.echo(f"\n{click.style(f'{number}. {title}', bold=True)}\n")


def _close(seconds: float) -> None:
    click.echo(
        f"""
{click.style(f"Done in {seconds:.1f} s.", bold=True)} This was shown:

  a name became a pinned commit; the load was planned from the header alone;
  the weights were verified; head rows went by label, not by position, and the
  new one kept its values; and all of it again without a network.

The weights were GENERATED: this says nothing about the networks of COSEM.

With a run on a real Hub:

  from cosemzoo import CosemStart
  start = CosemStart("namespace/run@best")
  start.initialize_weights(model, new_head={json.dumps(WANTED)})
  print(start.report)

and, for machines without a network: cosemzoo fetch namespace/run@best"""
    )

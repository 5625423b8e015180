import re
from pathlib import Path

import pytest
from huggingface_hub import ModelCard

from cosemzoo.reference import known_runs, parse_reference

CARDS = sorted((Path(__file__).parents[1] / "model_cards").glob("*.md"))

# Heads of the published networks, in their order.
HEADS = {
    "setup04": "ecs pm mito mito_mem ves ves_mem endo endo_mem er er_mem eres nuc mt mt_out",
}

every_card = pytest.mark.parametrize("path", CARDS, ids=lambda path: path.stem)


@every_card
def test_a_card_says_what_the_hub_asks_of_it(path: Path) -> None:
    data = ModelCard.load(path).data
    assert path.stem in known_runs()
    assert (data.license, data.library_name) == ("bsd-3-clause", "cosemzoo")
    assert data.pipeline_tag == "image-segmentation"
    assert data.tags is not None
    assert len(data.tags) == len(set(data.tags))


@every_card
def test_a_card_claims_no_scores(path: Path) -> None:
    card = ModelCard.load(path)
    assert card.data.eval_results is None
    assert "metrics" not in card.data.to_dict()


@every_card
def test_the_channels_of_a_card_are_those_of_the_head_in_order(path: Path) -> None:
    rows = re.findall(r"^\| (\d+) \| `(\w+)` \|", path.read_text(encoding="utf-8"), re.MULTILINE)
    assert [int(row) for row, _ in rows] == list(range(len(rows)))
    assert [label for _, label in rows] == HEADS[path.stem].split()


@every_card
def test_the_code_of_a_card_loads_an_iteration_of_its_run_into_labels_of_its_head(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    (asked,) = re.findall(r'CosemStart\("([^"]+)"\)', text)
    reference = parse_reference(asked)
    assert reference.run == path.stem
    (published,) = re.findall(r"Iterations published for this run: ([\d, ]+)\.", text)
    assert reference.criterion in published.split(", ")
    (new_head,) = re.findall(r"new_head=\[(.*)\]", text)
    assert set(re.findall(r'"(\w+)"', new_head)) <= set(HEADS[path.stem].split())

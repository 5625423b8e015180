"""What labels mean, against the table of what was confirmed; and what is said where nothing fits."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cosemzoo.errors import InvalidOption
from cosemzoo.loading.vocabularies import Dialects, find_vocabulary, parents, vocabularies

# label of COSEM: class ids, and the names in the challenge, in CNNectome and in OpenOrganelle (or none).
CONFIRMED = """
ecs       | 1     | ecs        | ecs              | ecs
pm        | 2     | pm         | plasma_membrane  | pm
mito      | 3-5   | mito       | mito             | mito
mito_mem  | 3     | mito_mem   | mito_membrane    | mito-mem
mito_ribo | 5     | mito_ribo  | mito_DNA         | –
ves       | 8,9   | ves        | vesicle          | vesicle / vs
endo      | 10,11 | endo       | MVB              | endo
er        | 16-23 | er         | er               | er
er_mem    | 16,18,20 | er_mem_all | er_membrane   | er-mem
eres      | 18,19 | eres       | ERES             | eres
nuc       | 20-29,37 | nuc     | nucleus          | nucleus
nucleo    | 29    | nucleo     | nucleolus        | nucleolus
mt        | 30,36 | mt         | microtubules     | –
mt_out    | 30    | mt_out     | microtubules_out | mt-out
"""  # noqa: RUF001 - the sign that the table has
ROWS = [[cell.strip() for cell in line.split("|")] for line in CONFIRMED.strip().splitlines()]
ELSEWHERE = ("cellmap-challenge", "cnnectome", "openorganelle")


def ids(text: str) -> frozenset[int]:
    spans = [part.split("-") for part in text.split(",")]
    return frozenset(one for span in spans for one in range(int(span[0]), int(span[-1]) + 1))


def names(cell: str) -> list[str]:
    return [] if cell == "–" else [name.strip() for name in cell.split("/")]  # noqa: RUF001


@pytest.mark.parametrize("row", ROWS, ids=lambda row: str(row[0]))
def test_a_class_has_its_ids_and_its_name_in_every_vocabulary(row: list[str]) -> None:
    label, classes, *cells = row
    assert find_vocabulary("cosem").identity(label) == ids(classes)
    for name, cell in zip(ELSEWHERE, cells, strict=True):
        assert list(find_vocabulary(name).labels_of(ids(classes))) == names(cell)


def test_there_is_nothing_but_what_was_confirmed() -> None:
    confirmed = {name: {one for row in ROWS for one in names(row[2 + i])} for i, name in enumerate(ELSEWHERE)}
    confirmed["cosem"] = {row[0] for row in ROWS} | {"ves_mem", "endo_mem"}
    confirmed["cellmap-challenge"] |= {"er_mem"}
    assert {name: set(one.identities) for name, one in vocabularies().items()} == confirmed


def test_er_mem_of_the_challenge_is_not_that_of_cosem() -> None:
    assert find_vocabulary("cellmap-challenge").identity("er_mem") == frozenset({16})
    dialects = Dialects.of("cellmap-challenge", "cosem")
    assert dialects.same_class("er_mem", "er_mem") is False
    assert dialects.same_class("er_mem_all", "er_mem") is True


def test_a_label_whose_class_was_not_confirmed_means_nothing() -> None:
    assert find_vocabulary("cosem").identity("ves_mem") is None
    assert Dialects.of("cosem", "cosem").same_class("ves_mem", "endo_mem") is None


def test_parents_are_labels_of_cosem_and_their_children_are_not() -> None:
    assert set(parents()) == {"er_lum", "eres_mem", "ne_mem", "mito_lum", "mt_in"}
    cosem = find_vocabulary("cosem")
    assert all(cosem.identity(parent) for parent in parents().values())
    assert not parents().keys() & cosem.identities.keys()


@pytest.mark.parametrize("name", ["COSEM", "", 7, ["cosem"], b"cosem"], ids=repr)
def test_a_vocabulary_that_there_is_not_is_refused_with_those_that_there_are(name: object) -> None:
    with pytest.raises(InvalidOption) as caught:
        find_vocabulary(name)
    assert (caught.value.option, caught.value.value) == ("vocabulary", name)
    assert "'cosem', 'cellmap-challenge', 'cnnectome', 'openorganelle'" in str(caught.value)


def test_a_manifests_vocabulary_that_is_not_known_here_counts_as_none() -> None:
    assert Dialects.of("cosem", "of a later release").checkpoint is None
    assert Dialects.of("cosem", "of a later release").same_class("er", "er") is None


known = st.sampled_from(list(vocabularies()))
labels = st.sampled_from(
    sorted({label for one in vocabularies().values() for label in one.identities} | {"x"})
)


@given(known, known, labels, labels)
def test_what_means_the_same_does_so_from_both_sides(model: str, checkpoint: str, new: str, old: str) -> None:
    forth = Dialects.of(model, checkpoint).same_class(new, old)
    assert forth == Dialects.of(checkpoint, model).same_class(old, new)


def test_a_plan_without_a_vocabulary_does_not_read_the_table() -> None:
    vocabularies.cache_clear()
    assert Dialects.of(None, "cosem").same_class("er", "er") is None
    assert vocabularies.cache_info().misses == 0

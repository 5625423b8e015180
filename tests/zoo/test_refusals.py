"""What the Hub will not give, and what the caller reads then."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from cosemzoo.errors import AccessDenied, RunNotFound
from cosemzoo.localhub import LocalHub
from cosemzoo.publishing import publish
from cosemzoo.zoo import Zoo

OWNER, STRANGER = "owner-token", "stranger-token"
MODEL = "lab/run_1"


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[LocalHub]:
    """A Hub that asks for tokens."""
    with LocalHub(tmp_path / "hub", tokens={OWNER: "lab", STRANGER: "other-lab"}) as running:
        yield running


@pytest.fixture
def owner(make_zoo: Callable[..., Zoo], write_checkpoint: Callable[..., Path]) -> Zoo:
    """The zoo of the owner, who has published a private run."""
    zoo = make_zoo(token=OWNER)
    publish(write_checkpoint(run="run_1"), MODEL, zoo=zoo, private=True, aliases=["best"])
    return zoo


def test_a_repository_that_does_not_exist_may_be_private(zoo: Zoo) -> None:
    with pytest.raises(RunNotFound, match=r"private and needs a token.*hf auth login") as caught:
        zoo.resolve("lab/nothing")
    assert zoo.endpoint in caught.value.where


def test_a_cosem_run_that_is_not_there_is_not_published_yet(zoo: Zoo) -> None:
    with pytest.raises(RunNotFound, match=r"cosemzoo/setup04 on http://127.*not published there yet"):
        zoo.resolve("setup04")


@pytest.mark.parametrize("text", ["setup26.1@650000", "cosemzoo/setup26.1@650000"])
def test_a_published_original_that_is_not_there_can_be_imported(zoo: Zoo, text: str) -> None:
    with pytest.raises(
        RunNotFound, match=r"run: cosemzoo import setup26\.1@650000; then ask for local:setup"
    ):
        zoo.resolve(text)


@pytest.mark.parametrize("criterion", ["", "@best", "@123", f"@{'0' * 40}"])
def test_where_no_original_is_meant_one_is_named_with_all_there_are(zoo: Zoo, criterion: str) -> None:
    with pytest.raises(RunNotFound, match=r"import setup45@1634500 \(.*iterations 625000, 1634500\)"):
        zoo.resolve(f"setup45{criterion}")


def test_a_run_of_somebody_else_cannot_be_imported(zoo: Zoo) -> None:
    with pytest.raises(RunNotFound) as caught:
        zoo.resolve("lab/setup04@1820500")
    assert "cosemzoo import" not in str(caught.value)


@pytest.mark.parametrize("token", [False, STRANGER])
def test_a_private_run_is_found_only_with_its_token(
    make_zoo: Callable[..., Zoo], owner: Zoo, token: bool | str
) -> None:
    assert owner.fetch(MODEL)
    with pytest.raises(RunNotFound, match="token"):
        make_zoo(token=token).resolve(MODEL)


@pytest.mark.parametrize("token", [False, STRANGER])
def test_a_gated_run_says_where_to_ask_for_access(
    hub: LocalHub, make_zoo: Callable[..., Zoo], owner: Zoo, token: bool | str
) -> None:
    hub.set_private(MODEL, False)
    hub.set_gated(MODEL, True)
    with pytest.raises(AccessDenied, match=f"{hub.endpoint}/{MODEL}") as caught:
        make_zoo(token=token).resolve(MODEL)
    assert caught.value.gated


def test_a_token_that_is_not_valid_is_denied(make_zoo: Callable[..., Zoo], owner: Zoo) -> None:
    with pytest.raises(AccessDenied, match="present token") as caught:
        make_zoo(token="expired").resolve(MODEL)
    assert not caught.value.gated


def test_a_token_that_is_required_and_missing_is_denied(make_zoo: Callable[..., Zoo]) -> None:
    with pytest.raises(AccessDenied, match="hf auth login"):
        make_zoo(token=True).resolve(MODEL)


def test_a_checkpoint_of_another_hub_is_not_sent_the_token(make_zoo: Callable[..., Zoo], owner: Zoo) -> None:
    checkpoint = owner.resolve(MODEL)
    other = make_zoo(endpoint="http://127.0.0.1:9", token=OWNER)
    with pytest.raises(RunNotFound, match="needs a token"):
        other.fetch(checkpoint)


def test_a_commit_that_is_cached_is_read_without_asking_who_may(
    make_zoo: Callable[..., Zoo], owner: Zoo
) -> None:
    commit = owner.resolve(MODEL).commit
    paths = owner.fetch(MODEL)
    assert make_zoo(token=False).fetch(f"{MODEL}@{commit}") == paths

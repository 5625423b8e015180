"""Without a network, and with a Hub that is down: what the cache answers, and what it cannot."""

import re
import warnings
from collections.abc import Callable
from pathlib import Path

import huggingface_hub.constants
import pytest

from cosemzoo.errors import CriterionNotFound, HubUnavailable, NotCached, StaleAnswer
from cosemzoo.localhub import LocalHub
from cosemzoo.publishing import publish
from cosemzoo.zoo import Zoo

Asked = Callable[[], list[str]]


@pytest.mark.parametrize("name", ["setup04", "setup04@best", "setup04@1820500", "the commit"])
def test_what_was_fetched_online_works_offline_under_the_same_reference(
    zoo: Zoo, make_zoo: Callable[..., Zoo], run: str, name: str, asked: Asked
) -> None:
    reference = f"setup04@{run}" if name == "the commit" else name
    before, paths = zoo.resolve(reference), zoo.fetch(reference)
    asked()
    offline = make_zoo(offline=True)
    assert offline.resolve(reference) == before
    assert offline.fetch(reference) == paths
    assert asked() == []


def test_shards_work_offline(
    zoo: Zoo, make_zoo: Callable[..., Zoo], write_checkpoint: Callable[..., Path]
) -> None:
    publish(write_checkpoint(files=2), "setup04", zoo=zoo, aliases=["best"])
    paths = zoo.fetch("setup04")
    assert make_zoo(offline=True).fetch("setup04") == paths


def test_hf_hub_offline_is_honoured_when_it_is_set_at_run_time(
    zoo: Zoo, run: str, asked: Asked, monkeypatch: pytest.MonkeyPatch
) -> None:
    paths = zoo.fetch("setup04")
    asked()
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    assert zoo.offline
    assert zoo.fetch("setup04") == paths
    assert asked() == []


def test_hf_hub_offline_of_the_environment_is_honoured(
    zoo: Zoo, run: str, asked: Asked, run_python: Callable[..., str]
) -> None:
    zoo.fetch("setup04")
    asked()
    script = (
        "from cosemzoo.zoo import Zoo; print(Zoo().resolve('setup04').commit, len(Zoo().fetch('setup04')))"
    )
    assert run_python(script, HF_HUB_OFFLINE="1") == f"{run} 1\n"
    assert asked() == []


def test_a_pin_that_the_index_has_left_behind_works_offline(
    zoo: Zoo, make_zoo: Callable[..., Zoo], run: str, write_checkpoint: Callable[..., Path]
) -> None:
    paths = zoo.fetch(f"setup04@{run}")
    publish(
        write_checkpoint(seed=3, iteration=2000000), "setup04", zoo=zoo, aliases=["best"], move_aliases=True
    )
    zoo.fetch("setup04@best")
    assert make_zoo(offline=True).fetch(f"setup04@{run}") == paths


@pytest.mark.parametrize("reference", ["setup04", "setup04@500000", f"setup04@{'0' * 40}"])
def test_offline_with_nothing_cached_says_what_to_run(make_zoo: Callable[..., Zoo], reference: str) -> None:
    with pytest.raises(NotCached, match=re.escape(f"run: cosemzoo fetch {reference}")):
        make_zoo(offline=True).resolve(reference)


def test_offline_a_checkpoint_of_the_cached_index_can_lack_its_weights(
    zoo: Zoo, make_zoo: Callable[..., Zoo], run: str
) -> None:
    zoo.fetch("setup04@best")
    with pytest.raises(NotCached, match="cosemzoo fetch setup04@first"):
        make_zoo(offline=True).resolve("setup04@first")


def test_offline_a_checkpoint_that_was_only_resolved_lacks_its_weights(
    zoo: Zoo, make_zoo: Callable[..., Zoo], run: str
) -> None:
    checkpoint = zoo.resolve("setup04")
    with pytest.raises(NotCached, match=r"model\.safetensors"):
        make_zoo(offline=True).fetch(checkpoint)
    with pytest.raises(NotCached):
        make_zoo(offline=True).resolve("setup04")


def test_offline_an_unknown_criterion_is_refused_with_those_of_the_cached_index(
    zoo: Zoo, make_zoo: Callable[..., Zoo], run: str
) -> None:
    zoo.resolve("setup04")
    with pytest.raises(CriterionNotFound, match="1820500"):
        make_zoo(offline=True).resolve("setup04@1820501")


def test_offline_the_cached_index_can_be_read(zoo: Zoo, make_zoo: Callable[..., Zoo], run: str) -> None:
    with pytest.raises(NotCached):
        make_zoo(offline=True).criteria("setup04")
    assert make_zoo(offline=True).criteria("setup04") if zoo.resolve("setup04") else False


def test_a_hub_that_is_down_leaves_the_cached_answer_and_that_is_said(
    hub: LocalHub, zoo: Zoo, run: str
) -> None:
    paths = zoo.fetch("setup04")
    hub.set_down(True)
    with pytest.warns(StaleAnswer, match="503"):
        assert zoo.fetch("setup04") == paths


@pytest.mark.parametrize("status", [429, 500, 502, 504])
def test_every_answer_that_means_not_now_counts_as_down(
    hub: LocalHub, zoo: Zoo, run: str, status: int
) -> None:
    zoo.fetch("setup04")
    hub.fail_next(status=status)
    with pytest.warns(StaleAnswer, match=str(status)):
        assert zoo.resolve("setup04").commit == run


def test_a_hub_that_refuses_connections_leaves_the_cached_answer(hub: LocalHub, zoo: Zoo, run: str) -> None:
    paths = zoo.fetch("setup04")
    hub.stop()
    with pytest.warns(StaleAnswer, match="ConnectError"):
        assert zoo.fetch("setup04") == paths
    with pytest.warns(StaleAnswer):
        assert zoo.criteria("setup04") is not None


def test_a_cached_commit_needs_no_hub_and_so_no_warning(hub: LocalHub, zoo: Zoo, run: str) -> None:
    paths = zoo.fetch(f"setup04@{run}")
    hub.stop()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert zoo.fetch(f"setup04@{run}") == paths


def test_a_hub_that_is_down_with_nothing_cached_is_unavailable(hub: LocalHub, zoo: Zoo, run: str) -> None:
    hub.set_down(True)
    with pytest.raises(HubUnavailable, match="cosemzoo fetch setup04") as caught:
        zoo.resolve("setup04")
    assert caught.value.status == 503


def test_a_hub_that_is_down_may_have_a_criterion_that_the_cache_does_not_know(
    hub: LocalHub, zoo: Zoo, run: str
) -> None:
    zoo.fetch("setup04")
    hub.stop()
    with pytest.raises(HubUnavailable) as caught:
        zoo.resolve("setup04@2000000")
    assert caught.value.status is None


def test_a_host_that_is_no_hub_is_unavailable(make_zoo: Callable[..., Zoo], hub: LocalHub) -> None:
    with pytest.raises(HubUnavailable, match="X-Repo-Commit"):
        make_zoo(endpoint=f"{hub.endpoint}/localhub/stats?").resolve("setup04")

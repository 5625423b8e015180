"""Tokens, private and gated repositories."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from huggingface_hub import HfApi
from huggingface_hub.errors import GatedRepoError, HfHubHTTPError, RepositoryNotFoundError

from cosemzoo.localhub import LocalHub

REPO = "cosem/setup04"


@pytest.fixture
def hub(root: Path) -> Iterator[LocalHub]:
    with LocalHub(root, tokens={"token-a": "alice", "token-b": "bob"}) as running:
        yield running


@pytest.fixture
def alice(hub: LocalHub) -> HfApi:
    api = HfApi(endpoint=hub.endpoint, token="token-a")
    api.create_repo(REPO)
    api.upload_file(path_or_fileobj=b"1", path_in_repo="a.txt", repo_id=REPO)
    return api


@pytest.fixture
def bob(hub: LocalHub) -> HfApi:
    return HfApi(endpoint=hub.endpoint, token="token-b")


@pytest.fixture
def anonymous(hub: LocalHub) -> HfApi:
    return HfApi(endpoint=hub.endpoint, token=False)


def _status(error: pytest.ExceptionInfo[HfHubHTTPError]) -> int:
    return int(error.value.response.status_code)


def test_a_token_says_who_is_asking(alice: HfApi, bob: HfApi) -> None:
    assert (alice.whoami()["name"], bob.whoami()["name"]) == ("alice", "bob")
    assert alice.list_repo_commits(REPO)[0].authors == ["alice"]


def test_writes_need_a_token(alice: HfApi, anonymous: HfApi) -> None:
    writes: list[Callable[[], object]] = [
        lambda: anonymous.create_repo("cosem/new"),
        lambda: anonymous.delete_repo(REPO),
        lambda: anonymous.upload_file(path_or_fileobj=b"2", path_in_repo="a.txt", repo_id=REPO),
        lambda: anonymous.create_tag(REPO, tag="v1"),
        lambda: anonymous.create_branch(REPO, branch="side"),
        lambda: anonymous.update_repo_settings(REPO, private=True),
        lambda: anonymous.delete_file("a.txt", REPO),
    ]
    before = alice.model_info(REPO)
    for write in writes:
        with pytest.raises(HfHubHTTPError) as refused:
            write()
        assert _status(refused) == 401
    after = alice.model_info(REPO)
    assert (after.sha, after.private) == (before.sha, False)


def test_a_wrong_token_is_refused_even_for_what_is_public(alice: HfApi, hub: LocalHub) -> None:
    stranger = HfApi(endpoint=hub.endpoint, token="token-c")
    with pytest.raises(HfHubHTTPError, match="Invalid credentials") as refused:
        stranger.model_info(REPO)
    assert _status(refused) == 401
    with pytest.raises(HfHubHTTPError):
        stranger.whoami()


def test_a_repository_is_changed_by_its_owner_only(alice: HfApi, bob: HfApi) -> None:
    with pytest.raises(HfHubHTTPError, match="belongs to alice") as refused:
        bob.upload_file(path_or_fileobj=b"2", path_in_repo="a.txt", repo_id=REPO)
    assert _status(refused) == 403


def test_nobody_makes_a_repository_in_anothers_namespace(bob: HfApi) -> None:
    with pytest.raises(HfHubHTTPError, match="namespace 'alice'") as refused:
        bob.create_repo("alice/setup04")
    assert _status(refused) == 403
    assert bob.create_repo("setup04").repo_id == "bob/setup04"


def test_a_public_repository_is_read_without_a_token(alice: HfApi, anonymous: HfApi, tmp_path: Path) -> None:
    assert anonymous.hf_hub_download(REPO, "a.txt", cache_dir=tmp_path)


def test_a_private_repository_looks_missing_to_others(
    alice: HfApi, bob: HfApi, anonymous: HfApi, tmp_path: Path
) -> None:
    alice.update_repo_settings(REPO, private=True)
    for other, status in ((bob, 404), (anonymous, 401)):
        assert not other.repo_exists(REPO)
        assert list(other.list_models()) == []
        for repo_id in (REPO, "cosem/missing"):
            with pytest.raises(RepositoryNotFoundError) as refused:
                other.hf_hub_download(repo_id, "a.txt", cache_dir=tmp_path)
            assert _status(refused) == status
    with pytest.raises(RepositoryNotFoundError):
        bob.upload_file(path_or_fileobj=b"2", path_in_repo="a.txt", repo_id=REPO)
    assert [model.id for model in alice.list_models()] == [REPO]
    assert alice.hf_hub_download(REPO, "a.txt", cache_dir=tmp_path)


def test_a_repository_can_be_private_from_the_start(alice: HfApi, anonymous: HfApi) -> None:
    alice.create_repo("cosem/secret", private=True)
    assert not anonymous.repo_exists("cosem/secret")


def test_a_gated_repository_is_seen_but_not_downloaded_by_others(
    alice: HfApi, bob: HfApi, anonymous: HfApi, hub: LocalHub, tmp_path: Path
) -> None:
    hub.set_gated(REPO, True)
    for other, status in ((bob, 403), (anonymous, 401)):
        assert other.model_info(REPO).gated == "manual"
        with pytest.raises(GatedRepoError) as refused:
            other.hf_hub_download(REPO, "a.txt", cache_dir=tmp_path)
        assert _status(refused) == status
    assert alice.hf_hub_download(REPO, "a.txt", cache_dir=tmp_path)
    hub.set_gated(REPO, False)
    assert bob.hf_hub_download(REPO, "a.txt", cache_dir=tmp_path)


def test_a_gate_set_through_the_client_holds(alice: HfApi, bob: HfApi, tmp_path: Path) -> None:
    alice.update_repo_settings(REPO, gated="auto")
    with pytest.raises(GatedRepoError):
        bob.hf_hub_download(REPO, "a.txt", cache_dir=tmp_path)


def test_a_repository_hidden_from_python_is_hidden(alice: HfApi, bob: HfApi, hub: LocalHub) -> None:
    hub.set_private(REPO, True)
    assert not bob.repo_exists(REPO)


def test_what_was_made_without_tokens_is_everyones(root: Path, tmp_path: Path) -> None:
    with LocalHub(tmp_path / "open") as hub:
        HfApi(endpoint=hub.endpoint, token=False).create_repo(REPO, private=True)
    with LocalHub(tmp_path / "open", tokens={"token-b": "bob"}) as hub:
        bob = HfApi(endpoint=hub.endpoint, token="token-b")
        assert bob.upload_file(path_or_fileobj=b"1", path_in_repo="a.txt", repo_id=REPO)
        assert not HfApi(endpoint=hub.endpoint, token=False).repo_exists(REPO)

"""Branches, tags, trees and histories, through the real client."""

import http.client
from collections.abc import Callable
from typing import Any

import pytest
from huggingface_hub import HfApi
from huggingface_hub.errors import EntryNotFoundError, HfHubHTTPError, RevisionNotFoundError
from huggingface_hub.hf_api import RepoFile, RepoFolder

from cosemzoo.localhub.api import revisions

MISSING_COMMIT = "0123456789012345678901234567890123456789"


def test_a_tag_of_any_valid_name_is_made_found_used_and_deleted(
    api: HfApi, repo: str, commit: Callable[..., str]
) -> None:
    first = commit({"a.txt": b"1"})
    commit({"a.txt": b"2"})
    tags = ["v1", "jrc_hela-2/f1_score", "a=b", "50%", "a%2Fb", "ünï", "a+b"]
    for tag in tags:
        api.create_tag(repo, tag=tag, revision=first)
    assert {ref.name: ref.target_commit for ref in api.list_repo_refs(repo).tags} == dict.fromkeys(
        tags, first
    )
    for tag in tags:
        assert api.model_info(repo, revision=tag).sha == first
        assert [entry.path for entry in api.list_repo_tree(repo, revision=tag)] == [".gitattributes", "a.txt"]
        api.delete_tag(repo, tag=tag)
        with pytest.raises(RevisionNotFoundError):
            api.model_info(repo, revision=tag)


def test_an_annotated_tag_means_its_commit(api: HfApi, repo: str, commit: Callable[..., str]) -> None:
    oid = commit({"a.txt": b"1"})
    api.create_tag(repo, tag="v1", tag_message="the first")
    assert api.list_repo_refs(repo).tags[0].target_commit == oid
    assert api.model_info(repo, revision="v1").sha == oid


def test_a_tag_never_moves(api: HfApi, repo: str, commit: Callable[..., str]) -> None:
    first = commit({"a.txt": b"1"})
    api.create_tag(repo, tag="v1")
    commit({"a.txt": b"2"})
    with pytest.raises(HfHubHTTPError) as refused:
        api.create_tag(repo, tag="v1")
    assert refused.value.response.status_code == 409
    api.create_tag(repo, tag="v1", exist_ok=True)
    assert api.model_info(repo, revision="v1").sha == first


@pytest.mark.parametrize(("existing", "new"), [("a", "a/b"), ("a/b", "a")])
def test_a_tag_that_git_cannot_hold_beside_another_is_a_conflict(
    api: HfApi, repo: str, existing: str, new: str
) -> None:
    api.create_tag(repo, tag=existing)
    with pytest.raises(HfHubHTTPError, match="git cannot hold it beside") as refused:
        api.create_tag(repo, tag=new)
    assert refused.value.response.status_code == 409
    api.delete_tag(repo, tag=existing)
    api.create_tag(repo, tag=new)


def test_a_tag_name_that_git_does_not_allow_is_refused(api: HfApi, repo: str) -> None:
    for tag in ("../../config", "a.lock", MISSING_COMMIT):
        with pytest.raises(HfHubHTTPError, match="Invalid branch or tag name") as refused:
            api.create_tag(repo, tag=tag)
        assert refused.value.response.status_code == 400


def test_a_branch_starts_where_it_is_told_and_lives_on_its_own(
    api: HfApi, repo: str, commit: Callable[..., str]
) -> None:
    first = commit({"a.txt": b"1"})
    main = commit({"a.txt": b"2"})
    api.create_branch(repo, branch="try/this", revision=first)
    on_branch = commit({"a.txt": b"3"}, revision="try/this")
    branches = {ref.name: ref.target_commit for ref in api.list_repo_refs(repo).branches}
    assert branches == {"main": main, "try/this": on_branch}
    with pytest.raises(HfHubHTTPError) as refused:
        api.create_branch(repo, branch="try/this")
    assert refused.value.response.status_code == 409
    api.delete_branch(repo, branch="try/this")
    assert [ref.name for ref in api.list_repo_refs(repo).branches] == ["main"]
    assert api.model_info(repo, revision=on_branch).sha == on_branch


def test_main_cannot_be_deleted(api: HfApi, repo: str) -> None:
    with pytest.raises(HfHubHTTPError, match="'main' cannot be deleted"):
        api.delete_branch(repo, branch="main")


def test_a_commit_is_a_revision_whole_or_abbreviated(
    api: HfApi, repo: str, commit: Callable[..., str]
) -> None:
    oid = commit({"a.txt": b"1"})
    assert api.model_info(repo, revision=oid).sha == oid
    assert api.model_info(repo, revision=oid[:7]).sha == oid


def test_a_revision_that_is_not_there_is_not_found(api: HfApi, repo: str) -> None:
    missing = ["nope", "refs/heads/nope", "../../config", MISSING_COMMIT, "a b", "abcdef0", "n" * 300]
    for revision in missing:
        with pytest.raises(RevisionNotFoundError):
            api.model_info(repo, revision=revision)
        with pytest.raises(RevisionNotFoundError):
            list(api.list_repo_tree(repo, revision=revision))
        with pytest.raises(RevisionNotFoundError):
            api.create_tag(repo, tag="v1", revision=revision)


def test_the_id_of_a_blob_is_no_revision(api: HfApi, repo: str) -> None:
    (file,) = api.list_repo_tree(repo)
    assert isinstance(file, RepoFile)
    with pytest.raises(RevisionNotFoundError):
        api.model_info(repo, revision=file.blob_id)


def test_a_tree_lists_files_and_folders(api: HfApi, repo: str, commit: Callable[..., str]) -> None:
    commit({"a.txt": b"1", "sub/deep/b.txt": b"22", "sub/model.safetensors": b"333"})

    def listed(**arguments: Any) -> list[str]:
        return [entry.path for entry in api.list_repo_tree(repo, **arguments)]

    assert listed() == [".gitattributes", "a.txt", "sub"]
    assert listed(path_in_repo="sub") == ["sub/deep", "sub/model.safetensors"]
    assert listed(recursive=True) == [
        ".gitattributes",
        "a.txt",
        "sub",
        "sub/deep",
        "sub/deep/b.txt",
        "sub/model.safetensors",
    ]
    with pytest.raises(EntryNotFoundError):
        listed(path_in_repo="nope")


def test_expanded_entries_name_the_commit_that_changed_them(
    api: HfApi, repo: str, commit: Callable[..., str]
) -> None:
    first = commit({"a.txt": b"1", "sub/b.txt": b"1"}, "one")
    second = commit({"sub/b.txt": b"2"}, "two")
    entries = {
        entry.path: entry.last_commit for entry in api.list_repo_tree(repo, expand=True, recursive=True)
    }
    changed = {path: last.oid for path, last in entries.items() if last is not None}
    assert changed["a.txt"] == first
    assert changed["sub"] == changed["sub/b.txt"] == second
    assert changed[".gitattributes"] not in {first, second}


def test_a_long_listing_is_one_commit_even_if_the_branch_moves_between_pages(
    api: HfApi, repo: str, commit: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(revisions, "_PAGE", 2)
    commit({f"{name}.txt": b"1" for name in "abcde"})
    listing = iter(api.list_repo_tree(repo))
    paths = [next(listing).path]
    commit({"aa.txt": b"new", "a0.txt": b"new"})
    paths += [entry.path for entry in listing]
    assert paths == [".gitattributes", "a.txt", "b.txt", "c.txt", "d.txt", "e.txt"]


def test_paths_info_tells_of_what_is_there(api: HfApi, repo: str, commit: Callable[..., str]) -> None:
    commit({"a.txt": b"1", "sub/model.safetensors": b"333"})
    info = api.get_paths_info(repo, ["a.txt", "sub", "sub/model.safetensors", "nope", "a.txt/x"], expand=True)
    assert [entry.path for entry in info] == ["a.txt", "sub", "sub/model.safetensors"]
    file, folder, weights = info
    assert isinstance(file, RepoFile)
    assert isinstance(folder, RepoFolder)
    assert isinstance(weights, RepoFile)
    assert weights.lfs is not None
    assert (weights.size, weights.lfs.size) == (3, 3)


def test_commits_are_listed_newest_first(
    api: HfApi, repo: str, commit: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(revisions, "_PAGE", 2)
    ids = [
        commit({"a.txt": str(number).encode()}, f"number {number}", commit_description="why")
        for number in range(4)
    ]
    listed = api.list_repo_commits(repo)
    assert [entry.commit_id for entry in listed][:4] == ids[::-1]
    assert [entry.title for entry in listed] == [
        "number 3",
        "number 2",
        "number 1",
        "number 0",
        "initial commit",
    ]
    assert listed[0].message == "why"
    assert listed[0].authors == ["local"]


def test_two_spellings_of_a_slash_are_two_routes(repo: str, api: HfApi, raw: Callable[..., Any]) -> None:
    api.create_tag(repo, tag="a/b")
    assert raw("GET", f"/api/models/{repo}/revision/a%2Fb").status == http.client.OK
    assert raw("GET", f"/api/models/{repo}/revision/a/b").status == http.client.NOT_FOUND

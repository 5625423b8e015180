"""How files get in, through the real client and past it."""

import base64
import hashlib
import json
import subprocess
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import CommitOperationAdd, CommitOperationCopy, CommitOperationDelete, HfApi
from huggingface_hub.errors import BadRequestError, EntryNotFoundError, HfHubHTTPError, RevisionNotFoundError
from huggingface_hub.hf_api import RepoFile

from cosemzoo.localhub import LocalHub
from cosemzoo.localhub.attributes import DEFAULT_ATTRIBUTES, LARGE_FILE_BYTES, LfsRules, is_ignored

CommitOperation = CommitOperationAdd | CommitOperationCopy | CommitOperationDelete


def _paths(api: HfApi, repo: str) -> list[str]:
    return [file for file in api.list_repo_files(repo) if file != ".gitattributes"]


def _ndjson(*lines: Mapping[str, Any]) -> bytes:
    header = {"key": "header", "value": {"summary": "test"}}
    return b"\n".join(json.dumps(line).encode() for line in (header, *lines))


def _put(path: str, content: bytes = b"1") -> dict[str, Any]:
    value = {"path": path, "content": base64.b64encode(content).decode(), "encoding": "base64"}
    return {"key": "file", "value": value}


def test_git_itself_finds_the_repository_sound(
    api: HfApi, root: Path, repo: str, commit: Callable[..., str]
) -> None:
    oid = commit({"a.txt": b"1", "sub/model.safetensors": b"weights", "sub.txt": b"2", "sub-a/b.txt": b"3"})
    api.create_tag(repo, tag="v/1", tag_message="annotated")
    api.create_branch(repo, branch="side")

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(root / "models" / f"{repo}.git"), *arguments]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout

    git("fsck", "--strict", "--no-dangling")
    assert git("rev-parse", "HEAD", "v/1^{commit}", "side").split() == [oid] * 3
    pointer = git("show", "HEAD:sub/model.safetensors")
    sha256 = hashlib.sha256(b"weights").hexdigest()
    assert pointer == f"version https://git-lfs.github.com/spec/v1\noid sha256:{sha256}\nsize 7\n"
    (entry,) = api.get_paths_info(repo, "sub/model.safetensors")
    assert isinstance(entry, RepoFile)
    assert entry.blob_id == git("rev-parse", "HEAD:sub/model.safetensors").strip()
    assert entry.lfs is not None
    assert entry.lfs.pointer_size == len(pointer)


def test_files_and_folders_are_put_replaced_copied_and_deleted_in_one_commit(
    api: HfApi, repo: str, commit: Callable[..., str], tmp_path: Path
) -> None:
    commit({"a.txt": b"1", "b.txt": b"1", "old/x.txt": b"1", "old/y/z.bin": b"1", "w.bin": b"w"})
    operations: list[CommitOperation] = [
        CommitOperationAdd("a.txt", b"2"),
        CommitOperationDelete("b.txt"),
        CommitOperationDelete("old/", is_folder=True),
        CommitOperationCopy("w.bin", "copies/w.bin"),
        CommitOperationAdd("new/c.txt", b"3"),
    ]
    api.create_commit(repo, operations, commit_message="all at once")
    assert _paths(api, repo) == ["a.txt", "copies/w.bin", "new/c.txt", "w.bin"]
    copied = api.hf_hub_download(repo, "copies/w.bin", cache_dir=tmp_path)
    assert Path(copied).read_bytes() == b"w"


def test_a_commit_on_another_parent_than_expected_is_refused_and_changes_nothing(
    api: HfApi, repo: str, commit: Callable[..., str]
) -> None:
    first = commit({"a.txt": b"1"})
    second = commit({"a.txt": b"2"}, parent_commit=first)
    with pytest.raises(HfHubHTTPError, match="A commit has happened since") as refused:
        commit({"a.txt": b"3"}, parent_commit=first)
    assert refused.value.response.status_code == 412
    assert api.model_info(repo).sha == second
    commit({"a.txt": b"3"}, parent_commit=second[:7])


def test_of_commits_at_once_on_one_parent_exactly_one_happens(
    api: HfApi, repo: str, commit: Callable[..., str]
) -> None:
    parent = commit({"a.txt": b"1"})

    def attempt(number: int) -> int:
        try:
            commit({f"{number}.txt": b"1"}, parent_commit=parent)
        except HfHubHTTPError as error:
            return int(error.response.status_code)
        return 200

    with ThreadPoolExecutor(4) as threads:
        assert sorted(threads.map(attempt, range(4))) == [200, 412, 412, 412]
    assert len(_paths(api, repo)) == 2


def test_commits_at_once_without_a_parent_all_happen(
    api: HfApi, repo: str, commit: Callable[..., str]
) -> None:
    with ThreadPoolExecutor(4) as threads:
        ids = list(threads.map(lambda number: commit({f"{number}.txt": b"1"}), range(8)))
    assert _paths(api, repo) == [f"{number}.txt" for number in range(8)]
    assert {entry.commit_id for entry in api.list_repo_commits(repo)} > set(ids)


def test_stored_lfs_content_of_another_size_than_announced_is_refused(
    raw: Callable[..., Any], repo: str, commit: Callable[..., str]
) -> None:
    commit({"model.safetensors": b"weights"})
    oid = hashlib.sha256(b"weights").hexdigest()
    line = {"key": "lfsFile", "value": {"path": "copy.safetensors", "oid": oid, "size": 8}}
    answer = raw("POST", f"/api/models/{repo}/commit/main", _ndjson(line))
    assert answer.status == 400
    assert b"with 8 bytes was not uploaded" in answer.body


def test_deleting_what_is_not_there_is_an_error(api: HfApi, repo: str) -> None:
    with pytest.raises(EntryNotFoundError):
        api.delete_file("nope.txt", repo)
    with pytest.raises(EntryNotFoundError):
        api.delete_folder("nope", repo)


def test_a_commit_needs_a_branch(api: HfApi, repo: str, commit: Callable[..., str]) -> None:
    first = commit({"a.txt": b"1"})
    api.create_tag(repo, tag="v1")
    for revision in ("nope", "v1", first):
        with pytest.raises(RevisionNotFoundError):
            commit({"a.txt": b"2"}, revision=revision)


def test_a_pull_request_is_refused(api: HfApi, repo: str, commit: Callable[..., str]) -> None:
    with pytest.raises(BadRequestError, match="no pull requests"):
        commit({"a.txt": b"1"}, create_pr=True)


def test_files_that_have_not_changed_are_not_sent_again(
    api: HfApi, hub: LocalHub, repo: str, commit: Callable[..., str]
) -> None:
    files = {"a.txt": b"1", "model.safetensors": b"weights"}
    first = commit(files)
    hub.reset_counts()
    assert commit(files) == first
    assert not any("/commit/" in record.path or record.method == "PUT" for record in hub.requests)


def test_lfs_takes_files_by_attributes_and_by_size(api: HfApi, repo: str, commit: Callable[..., str]) -> None:
    large = b"x" * LARGE_FILE_BYTES
    commit({"sub/a.safetensors": b"1", "small.txt": b"1", "large.txt": large, "empty.safetensors": b""})
    in_lfs = {
        file.path: file.lfs is not None
        for file in api.list_repo_tree(repo, recursive=True)
        if isinstance(file, RepoFile)
    }
    assert in_lfs == {
        ".gitattributes": False,
        "empty.safetensors": False,
        "large.txt": True,
        "small.txt": False,
        "sub/a.safetensors": True,
    }


def test_the_attributes_of_the_repository_itself_count(
    api: HfApi, repo: str, commit: Callable[..., str]
) -> None:
    commit({".gitattributes": b"*.txt filter=lfs diff=lfs merge=lfs -text\n"})
    commit({"a.txt": b"1", "b.safetensors": b"1"})
    files = api.get_paths_info(repo, ["a.txt", "b.safetensors"])
    assert [isinstance(file, RepoFile) and file.lfs is not None for file in files] == [True, False]


@pytest.mark.parametrize(
    "path", ["model.safetensors", "sub/a.h5", "saved_model/a/b", "x.tar.gz", "x.tfevents.1"]
)
def test_the_hubs_own_attributes_send_weights_to_lfs(path: str) -> None:
    assert LfsRules(DEFAULT_ATTRIBUTES).is_lfs(path, 1)


@pytest.mark.parametrize("path", ["config.json", "sub/README.md", "safetensors", "x.model/readme.txt"])
def test_the_hubs_own_attributes_keep_text_in_git(path: str) -> None:
    assert not LfsRules(DEFAULT_ATTRIBUTES).is_lfs(path, 1)


def test_the_last_attribute_that_matches_decides() -> None:
    rules = LfsRules(b"# comment\n\n*.bin filter=lfs -text\nsmall/*.bin -filter\n*.md text\n")
    assert rules.is_lfs("a/b.bin", 1)
    assert not rules.is_lfs("small/b.bin", 1)
    assert not rules.is_lfs("a.md", 1)
    assert rules.is_lfs("a.md", LARGE_FILE_BYTES)


def test_ignored_files_are_left_out(api: HfApi, repo: str, tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    for name in (".gitignore", "a.txt", "a.log", "keep.log"):
        (folder / name).write_text("*.log\n!keep.log\n" if name == ".gitignore" else "x")
    api.upload_folder(repo_id=repo, folder_path=folder)
    assert _paths(api, repo) == [".gitignore", "a.txt", "keep.log"]
    assert not is_ignored("#a.log", b"#a.log\n\n")


def test_no_way_to_name_a_path_leads_out_of_the_repository(
    raw: Callable[..., Any], root: Path, api: HfApi, repo: str
) -> None:
    def files() -> list[Path]:
        return sorted(found for found in root.rglob("*") if "objects" not in found.parts)

    before = files()
    for path in ("../a", "a/../../b", "/a", "\ud800"):
        lfs = {"path": path, "algo": "sha256", "oid": "0" * 64, "size": 1}
        deleted = {"key": "deletedFolder", "value": {"path": path}}
        for line in (_put(path), {"key": "lfsFile", "value": lfs}, deleted):
            answer = raw("POST", f"/api/models/{repo}/commit/main", _ndjson(line))
            assert answer.status == 400
            assert b"Invalid path" in answer.body
        body = json.dumps({"files": [{"path": path, "size": 1, "sample": ""}]}).encode()
        assert raw("POST", f"/api/models/{repo}/preupload/main", body).status == 400
    assert files() == before
    assert _paths(api, repo) == []


@pytest.mark.parametrize(
    ("body", "problem"),
    [
        (b"", "no header line"),
        (b"{", "Line 1 of the commit is malformed"),
        (b'{"key": "header", "value": {}}', "Line 1 of the commit is malformed"),
        (b'{"key": "header", "value": {"summary": "x", "parentCommit": 1}}', "parentCommit"),
        (_ndjson({"key": "rename", "value": {"path": "a"}}), "does not know the commit operation 'rename'"),
        (_ndjson({"key": "file", "value": {"path": "a", "content": "eA=="}}), "not base64"),
        (
            _ndjson({"key": "file", "value": {"path": "a", "content": "!", "encoding": "base64"}}),
            "not base64",
        ),
        (_ndjson({"key": "lfsFile", "value": {"path": "a", "oid": "zz", "size": 1}}), "Invalid LFS oid"),
        (_ndjson({"key": "lfsFile", "value": {"path": "a", "oid": "0" * 64, "size": 1}}), "was not uploaded"),
        (_ndjson(_put("a"), _put("a/b")), "cannot be a file and"),
        (_ndjson(_put("a", b"x" * LARGE_FILE_BYTES)), "must go through LFS"),
        (
            _ndjson(
                _put(
                    "a", b"version https://git-lfs.github.com/spec/v1\noid sha256:%b\nsize 3\n" % (b"0" * 64)
                )
            ),
            "content that was not uploaded",
        ),
    ],
)
def test_a_commit_that_cannot_be_says_what_is_wrong_and_changes_nothing(
    raw: Callable[..., Any], api: HfApi, repo: str, body: bytes, problem: str
) -> None:
    before = api.model_info(repo).sha
    answer = raw("POST", f"/api/models/{repo}/commit/main", body)
    assert answer.status == 400
    assert problem in json.loads(answer.body)["error"]
    assert api.model_info(repo).sha == before

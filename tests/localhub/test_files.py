"""How files get out, through the real client and past it."""

import hashlib
import json
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import HfApi, get_hf_file_metadata, hf_hub_url
from huggingface_hub.errors import EntryNotFoundError, RepositoryNotFoundError, RevisionNotFoundError
from hypothesis import given
from hypothesis import strategies as st

from cosemzoo.localhub import LocalHub
from cosemzoo.localhub.api.files import requested_range
from cosemzoo.localhub.errors import HubError

WEIGHTS = bytes(range(256)) * 100
SHA256 = hashlib.sha256(WEIGHTS).hexdigest()


@pytest.fixture
def oid(commit: Callable[..., str]) -> str:
    """The commit that holds the files of these tests."""
    return commit({"config.json": b"{}", "sub/model.safetensors": WEIGHTS})


@pytest.fixture(params=["config.json", "sub/model.safetensors"])
def path(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def test_a_file_is_downloaded_by_any_name_of_its_commit(
    api: HfApi, repo: str, oid: str, tmp_path: Path
) -> None:
    api.create_tag(repo, tag="jrc_hela-2/f1=best")
    for revision in (None, "main", oid, "jrc_hela-2/f1=best", "refs/heads/main"):
        file = api.hf_hub_download(repo, "sub/model.safetensors", revision=revision, cache_dir=tmp_path)
        assert Path(file).read_bytes() == WEIGHTS
        assert oid in file


def test_a_snapshot_is_whole_and_its_checksums_hold(api: HfApi, repo: str, oid: str, tmp_path: Path) -> None:
    folder = Path(api.snapshot_download(repo, cache_dir=tmp_path))
    assert (folder / "sub/model.safetensors").read_bytes() == WEIGHTS
    result = api.verify_repo_checksums(repo, cache_dir=tmp_path)
    assert (result.revision, result.checked_count) == (oid, 3)
    assert not result.mismatches
    (folder / "sub/model.safetensors").resolve().write_bytes(WEIGHTS[::-1])
    result = api.verify_repo_checksums(repo, cache_dir=tmp_path)
    assert [mismatch["path"] for mismatch in result.mismatches] == ["sub/model.safetensors"]


def test_a_cached_file_of_a_commit_is_opened_without_the_hub(
    api: HfApi, hub: LocalHub, repo: str, oid: str, tmp_path: Path
) -> None:
    api.hf_hub_download(repo, "config.json", revision=oid, cache_dir=tmp_path)
    hub.stop()
    assert api.hf_hub_download(repo, "config.json", revision=oid, cache_dir=tmp_path)


def test_the_metadata_of_a_file_names_commit_etag_and_size(api: HfApi, repo: str, oid: str) -> None:
    def metadata(path: str) -> tuple[str | None, str | None, int | None]:
        found = get_hf_file_metadata(hf_hub_url(repo, path, endpoint=api.endpoint), token=False)
        return found.commit_hash, found.etag, found.size

    assert metadata("config.json") == (oid, "9e26dfeeb6e641a33dae4961196235bdb965b21b", 2)
    assert metadata("sub/model.safetensors") == (oid, SHA256, len(WEIGHTS))


def test_head_and_get_have_the_same_headers(raw: Callable[..., Any], repo: str, oid: str, path: str) -> None:
    head, get = (raw(method, f"/{repo}/resolve/main/{path}") for method in ("HEAD", "GET"))
    assert head.status == get.status == 200
    del head.headers["date"], get.headers["date"]
    assert head.headers == get.headers
    assert head.body == b""
    assert int(get.headers["content-length"]) == len(get.body)
    assert get.headers["accept-ranges"] == "bytes"
    in_lfs = path == "sub/model.safetensors"
    assert get.headers.get("x-linked-etag") == (f'"{SHA256}"' if in_lfs else None)
    assert get.headers.get("x-linked-size") == (str(len(WEIGHTS)) if in_lfs else None)


def test_head_reads_no_content(raw: Callable[..., Any], hub: LocalHub, repo: str, oid: str) -> None:
    for stored in hub.root.rglob("lfs/objects/*/*/*"):
        stored.unlink()
    assert raw("HEAD", f"/{repo}/resolve/main/sub/model.safetensors").status == 200


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        ("bytes=0-99", range(100)),
        ("bytes=100-", range(100, 25600)),
        ("bytes=-100", range(25500, 25600)),
        ("bytes=0-999999", range(25600)),
    ],
)
def test_a_range_is_answered_with_exactly_its_bytes(
    raw: Callable[..., Any], repo: str, oid: str, header: str, expected: range
) -> None:
    answer = raw("GET", f"/{repo}/resolve/main/sub/model.safetensors", headers={"Range": header})
    assert answer.status == 206
    assert answer.headers["content-range"] == f"bytes {expected.start}-{expected.stop - 1}/25600"
    assert answer.body == WEIGHTS[expected.start : expected.stop]


@pytest.mark.parametrize("header", ["bytes=25600-", "bytes=99999-100000", "bytes=-0"])
def test_a_range_of_nothing_is_a_416_with_the_size(
    raw: Callable[..., Any], repo: str, oid: str, header: str
) -> None:
    answer = raw("GET", f"/{repo}/resolve/main/sub/model.safetensors", headers={"Range": header})
    assert answer.status == 416
    assert answer.headers["content-range"] == "bytes */25600"


@pytest.mark.parametrize("header", ["bytes=9-3", "bytes=-", "bytes=0-1,5-6", "lines=0-1", "bytes=a-b"])
def test_a_range_that_is_malformed_or_several_gets_the_whole_file(
    raw: Callable[..., Any], repo: str, oid: str, header: str
) -> None:
    answer = raw("GET", f"/{repo}/resolve/main/config.json", headers={"Range": header})
    assert (answer.status, answer.body) == (200, b"{}")


@given(size=st.integers(0, 50), first=st.integers(0, 60), length=st.none() | st.integers(1, 60))
def test_a_range_is_the_bytes_that_are_there_or_refused(size: int, first: int, length: int | None) -> None:
    content = bytes(range(size))
    last = "" if length is None else first + length - 1
    expected = content[first:] if length is None else content[first : first + length]
    if expected:
        assert bytes(requested_range(f"bytes={first}-{last}", size) or []) == expected
    else:
        with pytest.raises(HubError) as refused:
            requested_range(f"bytes={first}-{last}", size)
        assert refused.value.status == 416


@given(size=st.integers(1, 50), count=st.integers(1, 60))
def test_a_range_from_the_end_is_the_last_bytes(size: int, count: int) -> None:
    content = bytes(range(size))
    assert bytes(requested_range(f"bytes=-{count}", size) or []) == content[-count:]


def test_an_empty_file_is_downloaded(
    api: HfApi, repo: str, commit: Callable[..., str], tmp_path: Path
) -> None:
    commit({"empty.txt": b""})
    assert Path(api.hf_hub_download(repo, "empty.txt", cache_dir=tmp_path)).read_bytes() == b""


def test_what_is_not_there_is_the_clients_own_error(api: HfApi, repo: str, oid: str, tmp_path: Path) -> None:
    with pytest.raises(EntryNotFoundError):
        api.hf_hub_download(repo, "nope.txt", cache_dir=tmp_path)
    with pytest.raises(EntryNotFoundError):
        api.hf_hub_download(repo, "sub", cache_dir=tmp_path)
    with pytest.raises(RevisionNotFoundError):
        api.hf_hub_download(repo, "config.json", revision="nope", cache_dir=tmp_path)
    with pytest.raises(RepositoryNotFoundError):
        api.hf_hub_download("cosem/nope", "config.json", cache_dir=tmp_path)


def test_the_absence_of_a_file_is_cached_by_its_commit(
    api: HfApi, repo: str, oid: str, tmp_path: Path
) -> None:
    assert not api.file_exists(repo, "nope.txt")
    with pytest.raises(EntryNotFoundError):
        api.hf_hub_download(repo, "nope.txt", cache_dir=tmp_path)
    assert list(tmp_path.glob(f"*/.no_exist/{oid}/nope.txt"))


@pytest.mark.parametrize(
    "path",
    [
        "..%2F..%2Flocalhub.json",
        "../../localhub.json",
        "%2e%2e/localhub.json",
        "sub/..%2fconfig.json",
        "a%00b",
        "%ff",
        "",
    ],
)
def test_a_path_out_of_the_commit_is_not_found(
    raw: Callable[..., Any], repo: str, oid: str, path: str
) -> None:
    assert raw("GET", f"/{repo}/resolve/main/{path}").status == 404


def test_a_revision_is_resolved_to_its_commit(api: HfApi, repo: str, oid: str, tmp_path: Path) -> None:
    api.create_tag(repo, tag="a/b")
    resolved = api.resolve_revision(repo, revision="a/b", cache_dir=tmp_path)
    assert resolved.resolved == oid


def test_the_header_of_weights_is_read_without_the_weights(
    api: HfApi, hub: LocalHub, repo: str, commit: Callable[..., str]
) -> None:
    header = json.dumps({"w": {"dtype": "U8", "shape": [500000], "data_offsets": [0, 500000]}}).encode()
    commit({"model.safetensors": struct.pack("<Q", len(header)) + header + bytes(500000)})
    hub.reset_counts()
    metadata = api.get_safetensors_metadata(repo)
    assert metadata.files_metadata["model.safetensors"].tensors["w"].shape == [500000]
    assert hub.bytes_sent == 100001
    assert [record.range for record in hub.requests] == [None, "bytes=0-100000"]

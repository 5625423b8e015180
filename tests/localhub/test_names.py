"""Which repository ids, paths and ref names are allowed."""

import subprocess
from pathlib import PurePosixPath

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cosemzoo.localhub.errors import HubError
from cosemzoo.localhub.names import check_new_ref_name, check_path, check_repo_id

NASTY = st.text(st.sampled_from("aB.-_/\\~ \x00\n:é"), max_size=12)


@pytest.mark.parametrize("repo_id", ["cosem/setup04", "a/b", "A1/b_c.d-e", "a/0"])
def test_a_valid_repository_id_is_returned(repo_id: str) -> None:
    assert check_repo_id(repo_id) == repo_id


@pytest.mark.parametrize(
    "repo_id",
    [
        "a", "../x", "a/..", ".a/b", "a/.b", "a/b.", "-a/b", "a/b-", "a/b.git", "a/b.ipynb", "a/b--c",
        "a/b..c", "a/" + "b" * 100, "a/b/c", "a\\b/c", "a/b\x00", "a/b\n", "", "/", "é/b",
    ],
)  # fmt: skip
def test_an_invalid_repository_id_is_refused(repo_id: str) -> None:
    with pytest.raises(HubError, match="Invalid repository id") as refused:
        check_repo_id(repo_id)
    assert refused.value.status == 400


@pytest.mark.parametrize(
    "path", ["a", "a/b.txt", ".gitattributes", "a b/ünï.txt", "...", "x" * 200, ".github/x"]
)
def test_a_valid_path_is_returned(path: str) -> None:
    assert check_path(path) == path


@pytest.mark.parametrize(
    "path",
    [
        "", ".", "..", "../a", "/a", "a/", "a/../b", "a//b", "./a", "a\\b", "a\x00b", "a\nb", "a\x7fb",
        ".git/config", "sub/.GIT/x", "git~1/x", "\ud800", "x" * 201, "/".join(["x" * 100] * 11),
    ],
)  # fmt: skip
def test_a_path_that_no_file_may_have_is_refused(path: str) -> None:
    with pytest.raises(HubError, match="Invalid path in repository") as refused:
        check_path(path)
    assert refused.value.status == 400


@given(NASTY)
def test_an_allowed_path_is_relative_and_stays_below_its_root(path: str) -> None:
    try:
        check_path(path)
    except HubError:
        return
    parts = PurePosixPath(path).parts
    assert "/".join(parts) == path
    assert not {"..", "/"} & set(parts)
    assert "\\" not in path
    assert path.isprintable()


@pytest.mark.parametrize(
    "name", ["v1", "1820500", "jrc_hela-2/f1_score", "a=b", "50%", "a%2Fb", "ünï", "a+b"]
)
def test_a_valid_ref_name_is_returned(name: str) -> None:
    assert check_new_ref_name(name) == name


@pytest.mark.parametrize(
    "name",
    [
        "", "a..b", "a b", "../../config", "a.lock", "a.lock/b", "a\x00b", "a~1", "a^", "a:b", "a?", "a*",
        "a[", "a\\b", "a@{b", "/a", "a/", "a//b", ".a", "a/.b", "a.", "refs/heads/x", "-a", "HEAD", "f" * 40,
        "x" * 201, "\ud800",
    ],
)  # fmt: skip
def test_an_invalid_ref_name_is_refused(name: str) -> None:
    with pytest.raises(HubError, match="Invalid branch or tag name") as refused:
        check_new_ref_name(name)
    assert refused.value.status == 400


@given(NASTY.filter(lambda name: "\x00" not in name))
def test_every_allowed_ref_name_is_allowed_by_git(name: str) -> None:
    try:
        check_new_ref_name(name)
    except HubError:
        return
    subprocess.run(["git", "check-ref-format", f"refs/tags/{name}"], check=True)

import os
import subprocess
from pathlib import Path

import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from cosemzoo.errors import InvalidReference
from cosemzoo.reference import (
    Reference,
    check_criterion,
    criterion_of,
    is_iteration,
    known_runs,
    parse_reference,
    tag_of,
)

COMMIT = "0123456789abcdef0123456789abcdef01234567"

names = st.from_regex(r"\A[A-Za-z0-9_](?:[A-Za-z0-9._-]{0,20}[A-Za-z0-9_])?\Z").filter(
    lambda name: "--" not in name and ".." not in name and not name.endswith(".git")
)
# Anything printable, with the characters that git, HTTP and file systems treat specially made likely.
characters = st.sampled_from("ab01-._/~^:?*[=+%#&@{}é漢 \\") | st.characters()


def is_criterion(text: str) -> bool:
    try:
        check_criterion(text)
    except InvalidReference:
        return False
    return True


criteria = st.text(characters, min_size=1, max_size=24).filter(is_criterion) | st.sampled_from(
    [
        "best",
        "1820500",
        "0",
        "jrc_hela-2/f1_score",
        COMMIT,
        "main",
        "HEAD",
        "a.lock",
        ".hidden",
        "-x",
        "x.",
        "a/b",
    ]
)
references = st.one_of(
    st.builds(Reference, st.just("hub"), names, st.none(), st.none() | criteria),
    st.builds(Reference, st.just("hub"), names, names, st.none() | criteria),
    st.builds(Reference, st.just("local"), names, st.none(), st.none() | criteria),
)


@pytest.mark.parametrize(
    ("text", "place", "namespace", "run", "criterion"),
    [
        ("setup04", "hub", None, "setup04", None),
        ("setup04@1820500", "hub", None, "setup04", "1820500"),
        ("setup26.1@best", "hub", None, "setup26.1", "best"),
        ("run_1@jrc_hela-2/f1_score", "hub", None, "run_1", "jrc_hela-2/f1_score"),
        ("my-lab/run_1", "hub", "my-lab", "run_1", None),
        ("my-lab/run_1@best", "hub", "my-lab", "run_1", "best"),
        ("hf://my-lab/run_1", "hub", "my-lab", "run_1", None),
        ("hf://my-lab/run_1@" + COMMIT, "hub", "my-lab", "run_1", COMMIT),
        ("hf://my-lab/1820500", "hub", "my-lab", "1820500", None),
        ("local:setup04", "local", None, "setup04", None),
        ("local:setup04@1820500", "local", None, "setup04", "1820500"),
        ("./folder", "folder", None, "./folder", None),
        ("../folder@2", "folder", None, "../folder@2", None),
        ("/a/folder", "folder", None, "/a/folder", None),
        (".", "folder", None, ".", None),
    ],
)
def test_every_form_of_the_grammar_is_parsed(
    text: str, place: str, namespace: str | None, run: str, criterion: str | None
) -> None:
    parsed = parse_reference(text)
    assert (parsed.place, parsed.namespace, parsed.run, parsed.criterion) == (
        place,
        namespace,
        run,
        criterion,
    )


@given(references)
@example(Reference("hub", "1820500", "my-lab", None))
@example(Reference("hub", "repo", "setup04", None))
@example(Reference("hub", "repo", "setup04", "best"))
def test_a_reference_parses_back_from_its_text(reference: Reference) -> None:
    assert parse_reference(str(reference)) == reference


@given(st.text(characters, max_size=40))
def test_any_text_is_parsed_or_refused_with_a_message(text: str) -> None:
    try:
        parsed = parse_reference(text)
    except InvalidReference as error:
        refused = error
    else:
        assert parse_reference(str(parsed)) == parsed
        return
    assert repr(text) in str(refused)


@pytest.mark.parametrize(
    ("text", "suggestion"),
    [
        ("setup04/1820500", "setup04@1820500"),
        ("setup04/best", "setup04@best"),
        ("run_1/1820500", "run_1@1820500"),
        ("setup04/jrc_hela-2/f1_score", "setup04@jrc_hela-2/f1_score"),
        ("local:setup04/1820500", "local:setup04@1820500"),
        (" setup04@best ", "setup04@best"),
        ("setup04/", "setup04"),
        ("my-lab/run_1/", "my-lab/run_1"),
        ("setup04:best", "setup04@best"),
        ("https://hub.example.org/my-lab/run_1", "hf://my-lab/run_1"),
        ("runs/setup04/best", "./runs/setup04/best"),
        ("setup04@001", "setup04@1"),
        ("setup04@1,820,500", "setup04@1820500"),
        ("setup04@1_820_500", "setup04@1820500"),
        ("setup04@" + COMMIT.upper(), "setup04@" + COMMIT),
    ],
)
def test_a_misspelt_reference_is_refused_with_the_one_that_was_meant(text: str, suggestion: str) -> None:
    with pytest.raises(InvalidReference, match="did you mean") as caught:
        parse_reference(text)
    assert caught.value.suggestion == suggestion
    parse_reference(suggestion)


@pytest.mark.parametrize(
    "text",
    [
        "",
        " ",
        "@best",
        "setup04@",
        "setup04@@best",
        "setup 04",
        "a/b/c/@",
        "s3://bucket/setup04",
        "https://huggingface.co/a/b",
        "hf://setup04",
        "hf://a/b/c",
        "local:",
        "-run",
        "run.",
        "a..b",
        "a--b",
        "run.git",
        "x" * 97,
        "run@a b",
        "run@a//b",
        "run@../b",
        "run@a\\b",
        "run@a\nb",
        "run@" + "x" * 300,
        "rün",
    ],
)
def test_what_cannot_be_a_reference_is_refused(text: str) -> None:
    with pytest.raises(InvalidReference) as caught:
        parse_reference(text)
    assert caught.value.text == text


@pytest.mark.parametrize("value", [None, 1820500, b"setup04", ["setup04"]])
def test_what_is_neither_text_nor_path_is_refused(value: object) -> None:
    with pytest.raises(InvalidReference, match="not a text or a path"):
        parse_reference(value)  # type: ignore[arg-type]


@pytest.mark.parametrize("path", ["setup04", "setup04@1820500", "hf:/x", "local:a"])
def test_a_path_object_is_a_folder_whatever_its_name(path: str) -> None:
    parsed = parse_reference(Path(path))
    assert (parsed.place, parsed.run) == ("folder", os.path.join(".", path))
    assert parse_reference(str(parsed)) == parsed


def test_a_bare_word_is_never_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "setup04").mkdir()
    monkeypatch.chdir(tmp_path)
    assert parse_reference("setup04").place == "hub"


def test_without_a_criterion_best_is_wanted() -> None:
    assert parse_reference("setup04").wanted == "best"
    assert parse_reference("setup04@1").wanted == "1"


def test_only_forty_small_hexadecimal_digits_are_a_commit() -> None:
    assert parse_reference("setup04@" + COMMIT).commit == COMMIT
    assert parse_reference("setup04@" + COMMIT[:39]).commit is None
    assert parse_reference("setup04").commit is None


def test_the_five_cosem_runs_are_known() -> None:
    assert list(known_runs()) == ["setup04", "setup26.1", "setup28", "setup36", "setup45"]


@pytest.mark.parametrize(
    ("text", "expected"), [("0", True), ("12", True), ("012", False), ("1e5", False), ("٣", False)]
)
def test_an_iteration_is_decimal_digits(text: str, expected: bool) -> None:
    assert is_iteration(text) is expected


# --- tags --------------------------------------------------------------------------------------------------


@given(criteria)
def test_a_criterion_comes_back_from_its_tag(criterion: str) -> None:
    assert criterion_of(tag_of(criterion)) == criterion


@given(criteria, criteria)
def test_two_criteria_never_share_a_tag(one: str, other: str) -> None:
    assume(one != other)
    assert tag_of(one) != tag_of(other)


@given(criteria)
def test_a_tag_has_no_folders_and_is_no_commit_branch_or_option(criterion: str) -> None:
    tag = tag_of(criterion)
    assert "/" not in tag
    assert tag.isascii()
    assert len(tag) <= 240
    assert tag not in {"main", "HEAD"}
    assert not tag.startswith(("-", "."))
    assert parse_reference("run@x").at(tag).commit is None


@given(criteria)
@settings(max_examples=60)
def test_git_takes_every_tag(criterion: str) -> None:
    found = subprocess.run(["git", "check-ref-format", f"refs/tags/{tag_of(criterion)}"], check=False)
    assert found.returncode == 0


def test_a_name_and_a_longer_name_under_it_are_tags_of_one_repository(tmp_path: Path) -> None:
    def git(*words: str) -> str:
        identity = ["-c", "user.name=a", "-c", "user.email=a@b.c"]
        done = subprocess.run(
            ["git", *identity, *words], cwd=tmp_path, check=True, capture_output=True, text=True
        )
        return done.stdout

    git("init", "--quiet")
    git("commit", "--quiet", "--allow-empty", "--message", "x")
    sample = ["jrc_hela-2", "jrc_hela-2/f1_score", "jrc_hela-2/f1_score/x", "main", "1820500", COMMIT]
    for criterion in sample:
        git("tag", tag_of(criterion))
    assert sorted(map(criterion_of, git("tag").split())) == sorted(sample)


@pytest.mark.parametrize("tag", ["a/b", "a=2fb", "a=", "a=61", "=FF", "main", "a%2Fb", "", "a b", "a=2F"])
def test_a_tag_that_no_criterion_has_is_refused(tag: str) -> None:
    with pytest.raises(InvalidReference, match="not the tag of a criterion"):
        criterion_of(tag)

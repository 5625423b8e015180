"""The chain of a checkpoint's bases."""

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from attrs import evolve
from huggingface_hub import CommitOperationAdd

from cosemzoo.errors import YankedCheckpoint
from cosemzoo.manifest import Lineage, read_index, read_manifest
from cosemzoo.publishing import publish
from cosemzoo.publishing.chain import LineageStep, lineage_chain
from cosemzoo.publishing.lineage import read_lineage
from cosemzoo.zoo import Checkpoint, Zoo

Write = Callable[..., Path]
SOURCE = {"source_url": "https://example.org/setup04/1820500", "source_sha256": "b" * 64}


@pytest.fixture
def write(write_checkpoint: Write) -> Callable[..., Path]:
    """Write a checkpoint into a folder, with a lineage."""

    def write(lineage: Lineage | None = None, **arguments: Any) -> Path:
        folder = write_checkpoint(**arguments)
        path = folder / "config.json"
        path.write_text(evolve(read_manifest(path.read_bytes(), "it"), lineage=lineage).to_json())
        return folder

    return write


@pytest.fixture
def push(write: Callable[..., Path], zoo: Zoo) -> Callable[..., Checkpoint]:
    """Publish a checkpoint with a lineage, and resolve it."""

    def push(reference: str, lineage: Lineage | None, iteration: int = 1000) -> Checkpoint:
        run = reference.partition("/")[2] or reference
        publish(write(lineage, run=run, iteration=iteration), reference, zoo=zoo)
        return zoo.resolve(f"{reference}@{iteration}")

    return push


def based_on(base: Checkpoint) -> Lineage:
    return read_lineage(None, base, ())


@pytest.fixture
def three(push: Callable[..., Checkpoint]) -> list[Checkpoint]:
    """Have setup04, my-lab/run_1 that was fine-tuned from it, and my-lab/run_2 from that."""
    oldest = push("setup04", Lineage(**SOURCE), 1820500)  # type: ignore[arg-type]
    middle = push("my-lab/run_1", based_on(oldest))
    return [push("my-lab/run_2", based_on(middle)), middle, oldest]


def step(checkpoint: Checkpoint, reference: str, **others: str) -> LineageStep:
    return LineageStep(
        reference=reference, repository=checkpoint.repository, commit=checkpoint.commit, **others
    )


def test_a_chain_ends_with_the_file_that_was_converted(three: list[Checkpoint], zoo: Zoo) -> None:
    assert lineage_chain(three[0], zoo) == (
        step(three[0], "my-lab/run_2@1000"),
        step(three[1], "my-lab/run_1@1000"),
        step(three[2], "setup04@1820500", **SOURCE),
    )


def test_a_checkpoint_without_a_base_is_a_chain_of_one(
    zoo: Zoo, write: Callable[..., Path], write_checkpoint: Write
) -> None:
    for folder in (write(None), write_checkpoint(manifest=False)):
        checkpoint = zoo.resolve(folder)
        (only,) = lineage_chain(checkpoint, zoo)
        assert (only.content_hash, only.problem) == (checkpoint.content_hash, None)


def test_no_weights_are_downloaded_for_a_chain(
    three: list[Checkpoint], make_zoo: Any, tmp_path: Path
) -> None:
    zoo = make_zoo(cache_dir=tmp_path / "empty")
    assert len(lineage_chain(three[0], zoo)) == 3
    cached = {path.name for path in (tmp_path / "empty").rglob("*") if path.is_symlink()}
    assert cached <= {"config.json", "criteria.json"}


def test_a_chain_that_was_fetched_is_known_offline(three: list[Checkpoint], zoo: Zoo, make_zoo: Any) -> None:
    for checkpoint in three:
        zoo.fetch(checkpoint)
    offline = make_zoo(offline=True)
    assert lineage_chain(offline.resolve("my-lab/run_2@1000"), offline) == lineage_chain(three[0], zoo)


def test_a_base_that_is_not_cached_ends_the_chain_offline(
    three: list[Checkpoint], zoo: Zoo, make_zoo: Any, tmp_path: Path
) -> None:
    zoo.fetch(three[0])
    last = lineage_chain(three[0], make_zoo(offline=True, cache_dir=tmp_path / "empty"))[-1]
    assert (last.reference, last.commit) == ("my-lab/run_1@1000", three[1].commit)
    assert "offline" in str(last.problem)


@pytest.mark.parametrize(
    ("lineage", "reference", "says"),
    [
        (Lineage("my-lab/gone", "a" * 40), "my-lab/gone", "found no repository my-lab/gone"),
        (Lineage("setup04", "a" * 40), "setup04", "is not a reference"),
        (
            Lineage("my-lab/run_1", base_reference="my-lab/run_1@7"),
            "my-lab/run_1@7",
            "commit is not recorded",
        ),
        (Lineage(base_commit="a" * 40), "a checkpoint without a name", "commit is not recorded"),
        (Lineage(base_reference="x@1", base_content_hash="a" * 64), "x@1", "where is not recorded"),
        (
            Lineage(base_reference="local:x@1", base_content_hash="a" * 64),
            "local:x@1",
            "found no run x in the local zoo",
        ),
    ],
)
def test_a_base_that_cannot_be_had_is_one_line_of_the_chain(
    zoo: Zoo, write: Callable[..., Path], lineage: Lineage, reference: str, says: str
) -> None:
    _, base = lineage_chain(zoo.resolve(write(lineage)), zoo)
    assert base.reference == reference
    assert base.problem is not None
    assert says in base.problem
    assert "\n" not in base.problem


def test_a_problem_of_several_lines_is_cut_to_its_first(
    zoo: Zoo, write: Callable[..., Path], api: Any, write_checkpoint: Write
) -> None:
    folder = write_checkpoint()
    (folder / "config.json").write_text('{"format_version": 1, "head": []}')
    api.create_repo("my-lab/broken")
    operations = [CommitOperationAdd(path.name, io.BytesIO(path.read_bytes())) for path in folder.iterdir()]
    commit = api.create_commit("my-lab/broken", operations, commit_message="It").oid
    _, base = lineage_chain(zoo.resolve(write(Lineage("my-lab/broken", commit))), zoo)
    assert base.problem is not None
    assert base.problem.endswith("is not a valid manifest:")


def test_a_base_of_the_local_zoo_is_followed_where_it_is_the_same(
    make_zoo: Any, write: Callable[..., Path], tmp_path: Path
) -> None:
    zoo = make_zoo(local_dir=tmp_path / "runs")
    (tmp_path / "runs" / "setup04").mkdir(parents=True)
    place = tmp_path / "runs" / "setup04" / "1820500"
    write(Lineage(**SOURCE)).rename(place)  # type: ignore[arg-type]
    run = zoo.resolve(write(based_on(zoo.resolve("local:setup04@1820500")), run="run_1"))
    assert lineage_chain(run, zoo)[1] == LineageStep(
        reference="local:setup04@1820500", content_hash=run.manifest.lineage.base_content_hash, **SOURCE
    )
    place.rename(tmp_path / "away")
    write(seed=5).rename(place)
    assert "has other weights of that name" in str(lineage_chain(run, zoo)[1].problem)


def test_a_withdrawn_base_is_warned_of(three: list[Checkpoint], zoo: Zoo, api: Any, tmp_path: Path) -> None:
    path = Path(api.hf_hub_download("my-lab/run_1", "criteria.json", cache_dir=tmp_path / "maintainer"))
    index = read_index(path.read_bytes(), "it")
    yanked = evolve(index.criteria["1000"], state="yanked", reason="wrong labels")
    text = evolve(index, criteria={"1000": yanked}).to_json().encode()
    api.upload_file(path_or_fileobj=text, path_in_repo="criteria.json", repo_id="my-lab/run_1")
    with pytest.warns(YankedCheckpoint, match="wrong labels"):
        assert len(lineage_chain(three[0], zoo)) == 3


def test_a_name_of_the_local_zoo_that_leads_to_itself_ends(
    make_zoo: Any, write: Callable[..., Path], tmp_path: Path
) -> None:
    zoo = make_zoo(local_dir=tmp_path / "runs")
    content = zoo.resolve(write()).content_hash
    place = tmp_path / "runs" / "x" / "1"
    place.parent.mkdir(parents=True)
    write(Lineage(base_reference="local:x@1", base_content_hash=content)).rename(place)
    (_, base) = lineage_chain(zoo.resolve("local:x@1"), zoo)
    assert base.problem == "it is in this chain already"


class Loop(Zoo):
    """A zoo in which every run of a ring was fine-tuned from the next: no real Hub can have one."""

    def __init__(self, like: Checkpoint, length: int) -> None:
        super().__init__()
        self.like, self.length, self.asked = like, length, 0

    def at(self, number: int) -> Checkpoint:
        lineage = Lineage("my-lab/ring", f"{(number + 1) % self.length:040x}")
        manifest = evolve(self.like.manifest, lineage=lineage) if self.like.manifest else None
        return evolve(self.like, commit=f"{number:040x}", manifest=manifest)

    def resolve(self, ref: Any) -> Checkpoint:
        self.asked += 1
        return self.at(int(ref.criterion, 16))


@pytest.mark.parametrize("length", [1, 2, 7])
def test_a_cycle_ends(write_checkpoint: Write, length: int) -> None:
    ring = Loop(Zoo().resolve(write_checkpoint()), length)
    steps = lineage_chain(ring.at(0), ring)
    assert len(steps) == length + 1
    assert steps[-1].problem == "it is in this chain already"


def test_a_chain_without_an_end_ends(write_checkpoint: Write) -> None:
    ring = Loop(Zoo().resolve(write_checkpoint()), 10**6)
    steps = lineage_chain(ring.at(0), ring)
    assert (len(steps), ring.asked) == (33, 31)
    assert steps[-1].problem == "the chain is too long to be followed"

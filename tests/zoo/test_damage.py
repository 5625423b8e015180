"""Files that are not what was published: found, removed, fetched again once."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from attrs import evolve

from cosemzoo.errors import ContradictoryPublication, IntegrityError, InvalidIndex
from cosemzoo.localhub import LocalHub
from cosemzoo.zoo import Zoo

Asked = Callable[[], list[str]]
RUN = "cosemzoo/setup04"


def damage(path: Path, at: int = -1) -> None:
    """Flip a byte in place, as a bad disk does."""
    content = bytearray(path.read_bytes())
    content[at] ^= 0xFF
    path.resolve().write_bytes(content)


def downloads(requests: list[str], name: str = "model.safetensors") -> int:
    return sum(request.startswith("GET") and request.endswith(f"/{name}") for request in requests)


def files_in(folder: Path) -> list[str]:
    """Everything in the cache but locks and the tag of the folder itself."""
    return [
        str(path.relative_to(folder))
        for path in folder.rglob("*")
        if (path.is_file() or path.is_symlink())
        and ".locks" not in path.parts
        and path.name != "CACHEDIR.TAG"
    ]


@pytest.fixture
def fetched(zoo: Zoo, run: str, asked: Asked) -> Path:
    (path,) = zoo.fetch("setup04").values()
    asked()
    return path


def test_a_damaged_file_is_replaced_by_one_download(zoo: Zoo, fetched: Path, asked: Asked) -> None:
    published = fetched.read_bytes()
    checkpoint = zoo.resolve("setup04")
    damage(fetched)
    asked()
    assert zoo.fetch(checkpoint)["model.safetensors"].read_bytes() == published
    assert downloads(asked()) == 1


def test_a_damaged_file_is_found_by_resolving_too(zoo: Zoo, fetched: Path) -> None:
    before = zoo.resolve("setup04")
    damage(fetched, at=20)
    assert zoo.resolve("setup04") == before
    assert not fetched.exists()


def test_a_truncated_file_is_replaced(zoo: Zoo, fetched: Path) -> None:
    published = fetched.read_bytes()
    fetched.resolve().write_bytes(published[:-1])
    assert zoo.fetch("setup04")["model.safetensors"].read_bytes() == published


def test_a_download_that_is_corrupt_once_is_repeated(hub: LocalHub, zoo: Zoo, run: str, asked: Asked) -> None:
    checkpoint = zoo.resolve("setup04")
    hub.corrupt_next(f"GET /{RUN}/resolve/{run}/model.safetensors", 300)
    asked()
    zoo.fetch(checkpoint)
    assert downloads(asked()) == 2


def test_a_download_that_is_corrupt_twice_is_refused_and_removed(
    hub: LocalHub, zoo: Zoo, run: str, asked: Asked
) -> None:
    checkpoint = zoo.resolve("setup04")
    for _ in range(2):
        hub.corrupt_next(f"GET /{RUN}/resolve/{run}/model.safetensors", 300)
    asked()
    with pytest.raises(IntegrityError, match="corrupt again and removed") as caught:
        zoo.fetch(checkpoint)
    assert caught.value.expected == checkpoint.files[0].sha256
    assert downloads(asked()) == 2
    assert [name for name in files_in(zoo.cache_dir) if name.endswith((".safetensors", "incomplete"))] == []
    assert checkpoint.files[0].sha256 not in {Path(name).name for name in files_in(zoo.cache_dir)}


def test_a_damaged_file_whose_replacement_is_corrupt_is_refused(
    hub: LocalHub, zoo: Zoo, run: str, fetched: Path, asked: Asked
) -> None:
    checkpoint = zoo.resolve("setup04")
    damage(fetched)
    hub.corrupt_next(f"GET /{RUN}/resolve/{run}/model.safetensors", 300)
    asked()
    with pytest.raises(IntegrityError):
        zoo.fetch(checkpoint)
    assert downloads(asked()) == 1
    assert not fetched.exists()


def test_a_download_that_is_cut_is_completed(hub: LocalHub, zoo: Zoo, run: str) -> None:
    checkpoint = zoo.resolve("setup04")
    hub.truncate_next(f"GET /{RUN}/resolve/{run}/model.safetensors", 100)
    assert zoo.fetch(checkpoint)["model.safetensors"].stat().st_size == checkpoint.files[0].size


def test_offline_a_damaged_file_is_refused_and_removed(
    make_zoo: Callable[..., Zoo], fetched: Path, asked: Asked
) -> None:
    damage(fetched)
    with pytest.raises(IntegrityError, match="It was removed"):
        make_zoo(offline=True).fetch("setup04")
    assert not fetched.is_symlink()
    assert asked() == []


def test_a_damaged_manifest_is_replaced(zoo: Zoo, fetched: Path) -> None:
    before = zoo.resolve("setup04")
    damage(fetched.with_name("config.json"), at=40)
    assert zoo.resolve("setup04") == before


def test_a_damaged_index_is_replaced(zoo: Zoo, fetched: Path) -> None:
    before = zoo.criteria("setup04")
    (path,) = zoo.cache_dir.rglob("criteria.json")
    damage(path, at=40)
    assert zoo.criteria("setup04") == before


def test_a_damaged_shard_alone_is_replaced(
    zoo: Zoo, write_checkpoint: Callable[..., Path], commit_folder: Callable[..., str], asked: Asked
) -> None:
    commit_folder("lab/run_1", write_checkpoint(files=2))
    checkpoint = zoo.resolve("lab/run_1")
    first, second = zoo.fetch(checkpoint).values()
    damage(second)
    asked()
    zoo.fetch(checkpoint)
    requests = asked()
    assert (downloads(requests, first.name), downloads(requests, second.name)) == (0, 1)


def test_a_file_that_another_commit_shares_leaves_no_dangling_link(
    zoo: Zoo, fetched: Path, commit_files: Callable[..., str]
) -> None:
    other = commit_files(RUN, {"config.json": fetched.with_name("config.json").read_bytes() + b" "})
    zoo.fetch(f"{RUN}@{other}")
    assert len(list(zoo.cache_dir.rglob("model.safetensors"))) == 2
    damage(fetched)
    zoo.resolve("setup04")
    assert [path for path in zoo.cache_dir.rglob("*") if path.is_symlink() and not path.exists()] == []


def test_a_file_that_is_small_and_not_in_lfs_is_verified_by_its_blob_id(
    zoo: Zoo, commit_files: Callable[..., str], write_checkpoint: Callable[..., Path], asked: Asked
) -> None:
    folder = write_checkpoint()
    commit_files("lab/run_1", {".gitattributes": b""})
    commit_files("lab/run_1", {path.name: path for path in folder.iterdir()})
    checkpoint = zoo.resolve("lab/run_1")
    (file,) = checkpoint.files
    assert (file.sha256, len(file.blob_id or "")) == (None, 40)
    (path,) = zoo.fetch(checkpoint).values()
    damage(path)
    asked()
    zoo.fetch(checkpoint)
    assert downloads(asked()) == 1


def test_a_header_that_is_not_the_published_files_is_found(zoo: Zoo, run: str) -> None:
    checkpoint = zoo.resolve("setup04")
    first = checkpoint.weights.tensors["prediction_head.bias"]
    tensors = dict(checkpoint.weights.tensors)
    tensors["prediction_head.bias"] = first._replace(entry=first.entry._replace(start=0))
    with pytest.raises(ContradictoryPublication, match="header"):
        zoo.fetch(evolve(checkpoint, weights=evolve(checkpoint.weights, tensors=tensors)))


def test_weights_are_hashed_once(
    zoo: Zoo, make_zoo: Callable[..., Zoo], fetched: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_hash(*_: object) -> None:
        raise AssertionError("hashed again")

    monkeypatch.setattr("cosemzoo.zoo.digests.hash_file", no_hash)
    make_zoo().fetch("setup04")
    os.utime(fetched)
    with pytest.raises(AssertionError, match="hashed again"):
        make_zoo().fetch("setup04")


@pytest.mark.parametrize("down", [False, True])
def test_offline_a_damaged_index_is_refused_and_removed(
    hub: LocalHub, make_zoo: Callable[..., Zoo], fetched: Path, down: bool
) -> None:
    (path,) = make_zoo().cache_dir.rglob("criteria.json")
    damage(path, at=40)
    hub.set_down(down)
    with pytest.raises(IntegrityError, match=r"criteria\.json is corrupt.*It was removed"):
        make_zoo(offline=not down).resolve("setup04")
    assert not path.is_symlink()


@pytest.mark.parametrize("offline", [False, True])
def test_a_commit_needs_no_index_and_so_no_sound_one(
    make_zoo: Callable[..., Zoo], run: str, fetched: Path, offline: bool
) -> None:
    zoo = make_zoo(offline=offline)
    (path,) = zoo.cache_dir.rglob("criteria.json")
    damage(path, at=40)
    assert zoo.fetch(f"setup04@{run}") == {"model.safetensors": fetched}


def test_a_commit_needs_no_index_that_is_well_formed(
    make_zoo: Callable[..., Zoo], zoo: Zoo, run: str, commit_files: Callable[..., str]
) -> None:
    commit_files(RUN, {"criteria.json": b"{"})
    assert zoo.resolve(f"setup04@{run}").commit == run
    assert zoo.fetch(f"setup04@{run}")
    with pytest.raises(InvalidIndex):
        zoo.resolve("setup04")
    assert make_zoo(offline=True).resolve(f"setup04@{run}").commit == run


@pytest.mark.parametrize(
    "record",
    [
        '{"files": []}',
        '{"files": 1}',
        '{"files": [{"name": "config.json", "size": 1, "sha256": null, "blob_id": null}]}',
        '{"files": [{"name": "model.safetensors", "size": "1", "sha256": null, "blob_id": null}]}',
        '{"files": [{"name": "model.safetensors", "size": 1, "sha256": 5, "blob_id": null}]}',
        '{"files": [{"name": "model.safetensors", "size": 1, "sha256": "", "blob_id": null}]}',
        '{"files": [{"name": "../model.safetensors", "size": 1, "sha256": null, "blob_id": null}]}',
        "[" * 100_000,
        "{",
    ],
)
@pytest.mark.parametrize("kind", ["published", "verified"])
def test_a_damaged_record_does_not_spoil_the_cache(
    make_zoo: Callable[..., Zoo], zoo: Zoo, fetched: Path, record: str, kind: str
) -> None:
    before = zoo.resolve("setup04")
    records = list(zoo.cache_dir.glob(f"*/.cosemzoo/{kind}/*.json"))
    for path in records:
        path.write_text(record)
    assert records
    assert make_zoo(offline=True).resolve("setup04") == before
    assert zoo.fetch("setup04") == {"model.safetensors": fetched}


def test_a_sound_file_is_not_removed_on_the_word_of_a_record(zoo: Zoo, fetched: Path, asked: Asked) -> None:
    (path,) = zoo.cache_dir.glob(f"*/.cosemzoo/verified/{fetched.resolve().name}.json")
    path.write_text(path.read_text().replace(fetched.resolve().name, "0" * 64))
    zoo.fetch("setup04")
    assert downloads(asked()) == 0

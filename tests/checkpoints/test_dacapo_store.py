"""DaCapo's store of weights, laid out as `LocalWeightsStore` and `FileConfigStore` of DaCapo 0.3.5 do."""

import json
import tempfile
from contextlib import suppress
from pathlib import Path

import pytest
import yaml  # type: ignore[import-untyped]
from hypothesis import given
from hypothesis import strategies as st

from cosemzoo.checkpoints.dacapo_store import find_stored, stored_channels
from cosemzoo.errors import (
    CosemZooWarning,
    CriterionNotFound,
    InvalidDocument,
    NotReadable,
    RunNotFound,
    UnreadableCheckpoint,
)

RUN = "run_1"


class Store:
    """A store that is written as DaCapo does it."""

    def __init__(self, basedir: Path) -> None:
        self.basedir = basedir
        self.checkpoints = basedir / RUN / "checkpoints"
        (self.checkpoints / "iterations").mkdir(parents=True)

    def store_weights(self, iteration: int) -> Path:
        path = self.checkpoints / "iterations" / str(iteration)
        path.write_bytes(f"weights of {iteration}".encode())
        return path

    def store_best(self, iteration: int, dataset: str, criterion: str) -> None:
        best = self.checkpoints / dataset / criterion
        best.parent.mkdir(parents=True, exist_ok=True)
        best.symlink_to(self.checkpoints / "iterations" / f"{iteration}")
        self.note(f"{dataset}/{criterion}", iteration)

    def note(self, name: str, iteration: object) -> None:
        path = self.checkpoints / f"{name}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps({"iteration": iteration}))

    def link(self, name: str, target: str) -> None:
        path = self.checkpoints / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.symlink_to(target)

    def store_run_config(self, task: object) -> None:
        folder = self.basedir / "configs" / "runs"
        folder.mkdir(parents=True, exist_ok=True)
        # Tuples, as those of Coordinate are, become !!python/tuple.
        config = {
            "name": RUN,
            "task_config": task,
            "architecture_config": {"__type__": "CNNectomeUNetConfig", "input_shape": (216, 216, 216)},
            "start_config": None,
        }
        (folder / f"{RUN}.yaml").write_text(yaml.dump(config))


@pytest.fixture
def store(tmp_path: Path) -> Store:
    made = Store(tmp_path / "runs")
    for iteration in (1000, 2000, 10000):
        made.store_weights(iteration)
    return made


def refused(store: Store, criterion: str | None) -> CriterionNotFound:
    with pytest.raises(CriterionNotFound) as caught:
        find_stored(store.basedir, RUN, criterion)
    return caught.value


def test_an_iteration_is_found(store: Store) -> None:
    found = find_stored(store.basedir, RUN, "2000")
    assert found.path.read_bytes() == b"weights of 2000"
    assert (found.run, found.iteration, found.criterion, found.names) == (RUN, 2000, "2000", ())


@pytest.mark.parametrize("asked", ["jrc_hela-2/f1_score", "f1_score/jrc_hela-2"])
def test_what_store_best_wrote_is_found_in_either_order(store: Store, asked: str) -> None:
    store.store_best(2000, "jrc_hela-2", "f1_score")
    found = find_stored(store.basedir, RUN, asked)
    assert (found.iteration, found.criterion, found.names) == (2000, asked, ("jrc_hela-2/f1_score",))
    assert found.path == store.checkpoints / "iterations" / "2000"


@pytest.mark.parametrize("asked", ["jrc_hela-2/f1_score", "f1_score/jrc_hela-2"])
def test_what_retrieve_best_reads_is_found_in_either_order(store: Store, asked: str) -> None:
    store.note("f1_score/jrc_hela-2", 2000)
    assert find_stored(store.basedir, RUN, asked).iteration == 2000


def test_a_data_set_in_a_folder_of_its_own_is_found(store: Store) -> None:
    store.store_best(2000, "group/jrc_hela-2", "f1_score")
    assert find_stored(store.basedir, RUN, "group/jrc_hela-2/f1_score").iteration == 2000
    assert find_stored(store.basedir, RUN, "f1_score/group/jrc_hela-2").iteration == 2000


def test_every_name_of_an_iteration_is_listed_with_it(store: Store) -> None:
    store.store_best(2000, "b", "voi")
    store.store_best(2000, "a", "f1")
    store.store_best(1000, "a", "dice")
    assert find_stored(store.basedir, RUN, "2000").names == ("a/f1", "b/voi")


@pytest.mark.parametrize(
    "target",
    [
        "/elsewhere/runs/run_1/checkpoints/iterations/1000",
        "runs/run_1/checkpoints/iterations/1000",
        "../iterations/1000",
    ],
)
def test_a_link_from_another_machine_is_read_not_followed(store: Store, target: str) -> None:
    store.link("jrc_hela-2/f1_score", target)
    found = find_stored(store.basedir, RUN, "best")
    assert (found.iteration, found.path) == (1000, store.checkpoints / "iterations" / "1000")


def test_a_link_to_another_link_is_followed(store: Store) -> None:
    store.store_best(1000, "a", "f1")
    store.store_best(2000, "b", "f1")
    store.link("best", "a/f1")
    assert find_stored(store.basedir, RUN, "best").iteration == 1000


@pytest.mark.parametrize("target", ["/elsewhere/run_2/checkpoints/iterations/1000", "../best", "nowhere"])
def test_a_link_that_means_no_iteration_of_the_run_is_refused(store: Store, target: str) -> None:
    store.link("a/f1", target)
    store.link("best", "best")
    with pytest.raises(UnreadableCheckpoint) as caught:
        find_stored(store.basedir, RUN, "a/f1")
    assert f"the link a/f1 leads to {target}" in caught.value.problem


def test_a_run_that_was_renamed_goes_by_what_is_noted(store: Store) -> None:
    store.link("a/f1", "/old/name/checkpoints/iterations/1000")
    store.note("a/f1", 1000)
    assert find_stored(store.basedir, RUN, "a/f1").iteration == 1000


def test_a_link_and_a_note_that_disagree_are_named(store: Store) -> None:
    store.store_best(1000, "a", "f1")
    store.note("a/f1", 2000)
    with pytest.raises(UnreadableCheckpoint) as caught:
        find_stored(store.basedir, RUN, None)
    target = store.checkpoints / "iterations" / "1000"
    assert f"the link a/f1 leads to {target}, but a/f1.json says iteration 2000" in str(caught.value)
    assert f"{RUN}@ITERATION" in str(caught.value)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "is not JSON"),
        ("[]", "without an iteration"),
        ("{}", "without an iteration"),
        ('{"iteration": "1000"}', "says '1000'"),
        ('{"iteration": true}', "says True"),
        ('{"iteration": 1000.0}', "says 1000.0"),
        ('{"iteration": -1}', "says -1"),
        ('{"iteration": 1, "iteration": 2}', "repeats the key 'iteration'"),
        ("[" * 100_000, "nested too deeply"),
    ],
)
def test_a_damaged_note_is_refused_where_it_is_needed_and_said_where_not(
    store: Store, text: str, says: str
) -> None:
    store.store_best(1000, "a", "f1")
    store.note("b/f1", 1000)
    (store.checkpoints / "b" / "f1.json").write_text(text)
    for asked in ("best", "b/f1"):
        with pytest.raises(UnreadableCheckpoint, match=r"b/f1\.json") as caught:
            find_stored(store.basedir, RUN, asked)
        assert says in caught.value.problem
    assert find_stored(store.basedir, RUN, "a/f1").iteration == 1000
    with pytest.warns(CosemZooWarning, match="b/f1.json"):
        assert find_stored(store.basedir, RUN, "1000").names == ("a/f1",)


def test_all_that_is_damaged_is_in_one_error(store: Store) -> None:
    store.note("a/f1", "x")
    store.link("b/f1", "nowhere")
    with pytest.raises(UnreadableCheckpoint, match=r"a/f1.json.*; the link b/f1"):
        find_stored(store.basedir, RUN, "best")


def test_best_is_what_all_names_agree_on(store: Store) -> None:
    store.store_best(2000, "a", "f1")
    store.note("voi/b", 2000)
    found = find_stored(store.basedir, RUN, None)
    assert (found.iteration, found.criterion, found.names) == (2000, "best", ("a/f1", "voi/b"))


def test_best_is_no_guess_where_names_disagree(store: Store) -> None:
    store.store_best(1000, "a", "f1")
    store.store_best(2000, "b", "f1")
    error = refused(store, "best")
    assert "a/f1 means 1000, b/f1 means 2000. The iterations are: 1000, 2000, 10000." in str(error)
    assert error.available == ("1000", "2000", "10000", "a/f1", "b/f1")


def test_best_is_no_guess_where_nothing_is_recorded(store: Store) -> None:
    error = refused(store, None)
    assert error.available == ("1000", "2000", "10000")
    assert "No best is recorded" in str(error)


@pytest.mark.parametrize("asked", ["best", None])
def test_a_file_of_the_name_best_comes_before_what_is_recorded(store: Store, asked: str | None) -> None:
    store.store_best(1000, "a", "f1")
    (store.checkpoints / "best").write_bytes(b"weights of 2000")
    assert find_stored(store.basedir, RUN, asked).iteration == 2000


def test_weights_under_another_name_say_their_iteration_in_a_note(store: Store) -> None:
    (store.checkpoints / "final").write_bytes(b"weights of another")
    with pytest.raises(UnreadableCheckpoint, match="nothing says which iteration the file final is"):
        find_stored(store.basedir, RUN, "final")
    store.note("final", 3000)
    found = find_stored(store.basedir, RUN, "final")
    assert (found.iteration, found.path) == (3000, store.checkpoints / "final")


def test_other_files_do_not_stand_for_a_best(store: Store) -> None:
    store.store_best(1000, "a", "f1")
    (store.checkpoints / "notes.txt").write_text("to do")
    (store.checkpoints / "a" / ".DS_Store").write_text("x")
    store.link("latest", "iterations/10000")
    assert find_stored(store.basedir, RUN, "best").iteration == 1000
    assert refused(store, "2").available == ("1000", "2000", "10000", "a/f1", "latest")


def test_copies_in_place_of_links_are_found(store: Store) -> None:
    store.note("a/f1", 3000)
    (store.checkpoints / "a" / "f1").write_bytes(b"weights of 3000")
    assert find_stored(store.basedir, RUN, "a/f1").path == store.checkpoints / "a" / "f1"
    (store.checkpoints / "a" / "voi").write_bytes(b"weights of 2000")
    assert find_stored(store.basedir, RUN, "a/voi").iteration == 2000


def test_the_iterations_can_lie_beside_the_names(store: Store) -> None:
    (store.checkpoints / "500").write_bytes(b"weights of 500")
    assert find_stored(store.basedir, RUN, "500").path == store.checkpoints / "500"
    (store.checkpoints / "1000").write_bytes(b"weights of another")
    with pytest.raises(UnreadableCheckpoint, match="the files iterations/1000 and 1000 differ"):
        find_stored(store.basedir, RUN, "1000")


def test_a_best_whose_weights_are_gone_is_refused(store: Store) -> None:
    store.store_best(2000, "a", "f1")
    (store.checkpoints / "iterations" / "2000").unlink()
    error = refused(store, "best")
    assert "a/f1 means 2000, whose weights are not in the store any more" in str(error)


def test_what_is_not_there_is_answered_with_what_is(store: Store) -> None:
    store.store_best(2000, "jrc_hela-2", "f1_score")
    error = refused(store, "jrc_hela-3/f1_score")
    assert error.available == ("1000", "2000", "10000", "jrc_hela-2/f1_score")
    assert "Did you mean 'jrc_hela-2/f1_score'?" in str(error)
    assert refused(store, "3000").criterion == "3000"


@pytest.mark.parametrize("name", ["latest", "01000", "1000.tmp", "1_000", "-1", "²"])
def test_names_that_are_no_iterations_are_ignored_and_said(store: Store, name: str) -> None:
    (store.checkpoints / "iterations" / name).write_bytes(b"x")
    with pytest.warns(CosemZooWarning, match=f"no iterations: {name}"):
        assert find_stored(store.basedir, RUN, "1000").iteration == 1000


def test_a_folder_is_no_iteration(store: Store) -> None:
    (store.checkpoints / "iterations" / "3000").mkdir()
    with pytest.warns(CosemZooWarning, match="no iterations: 3000"):
        find_stored(store.basedir, RUN, "1000")


def test_the_folder_of_the_iterations_can_be_a_link(store: Store, tmp_path: Path) -> None:
    (store.checkpoints / "iterations").rename(tmp_path / "scratch")
    (store.checkpoints / "iterations").symlink_to(tmp_path / "scratch")
    store.store_best(1000, "a", "f1")
    assert find_stored(store.basedir, RUN, "best").path.read_bytes() == b"weights of 1000"


@pytest.mark.parametrize("inside", [RUN, f"{RUN}/checkpoints"])
@pytest.mark.parametrize("asked", [RUN, "run_2"])
def test_the_folder_of_one_run_is_answered_with_the_folder_to_give(
    store: Store, inside: str, asked: str
) -> None:
    with pytest.raises(RunNotFound, match=f"--store {store.basedir}, and the run {RUN}"):
        find_stored(store.basedir / inside, asked, "best")


def test_a_relative_folder_of_one_run_is_answered_with_the_folder_to_give(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(store.basedir / RUN)
    with pytest.raises(RunNotFound, match=f"--store {store.basedir}, and the run {RUN}"):
        find_stored(Path(), RUN, "best")


def test_a_run_that_is_not_there_is_answered_with_those_that_are(store: Store, tmp_path: Path) -> None:
    (store.basedir / "configs").mkdir()
    with pytest.raises(RunNotFound, match=r"It has: run_1\. "):
        find_stored(store.basedir, "run_2", None)
    with pytest.raises(RunNotFound, match="no such folder"):
        find_stored(tmp_path / "nowhere", "run_2", None)
    with pytest.raises(RunNotFound, match="It has: no runs"):
        find_stored(store.basedir / "configs", "run_2", None)


def test_what_the_system_says_of_a_file_is_said(store: Store) -> None:
    store.store_run_config(None)
    with pytest.raises(NotReadable, match="File name too long"):
        find_stored(store.basedir, "x" * 1000, "best")
    with pytest.raises(NotReadable, match="File name too long"):
        stored_channels(store.basedir, "x" * 1000)


iterations = st.integers(0, 10**9)
parts = st.text("abc_-2", min_size=1, max_size=3)
names = st.tuples(parts.map("data".__add__), parts.map("score".__add__)).map("/".join)


@given(st.sets(iterations, min_size=1, max_size=4), st.dictionaries(names, st.integers(0, 3), max_size=4))
def test_best_is_found_only_where_one_iteration_is_meant(there: set[int], chosen: dict[str, int]) -> None:
    with tempfile.TemporaryDirectory() as place:
        store = Store(Path(place))
        for iteration in there:
            store.store_weights(iteration)
        order = sorted(there)
        recorded = {name: order[i % len(order)] for name, i in chosen.items()}
        for name, iteration in recorded.items():
            dataset, criterion = name.split("/")
            store.store_best(iteration, dataset, criterion)
        for name, iteration in recorded.items():
            found = find_stored(store.basedir, RUN, name)
            assert found.iteration == iteration
            assert found.path.read_bytes() == f"weights of {iteration}".encode()
            assert set(found.names) == {other for other, n in recorded.items() if n == iteration}
        if len(set(recorded.values())) == 1:
            assert find_stored(store.basedir, RUN, None).iteration == next(iter(recorded.values()))
        else:
            refused(store, None)


# --- the channels in the run's configuration ---------------------------------------------------------------


@pytest.mark.parametrize(
    ("task", "expected"),
    [
        (
            {"__type__": "OneHotTaskConfig", "classes": ["background", "mito"]},
            (("background", "one-hot"), ("mito", "one-hot")),
        ),
        (
            {"__type__": "DistanceTaskConfig", "channels": ["mito", "er"], "clip_distance": 50.0},
            (("mito", "distance"), ("er", "distance")),
        ),
        (
            {"__type__": "HotDistanceTaskConfig", "channels": ["mito", "er"]},
            (("mito", "one-hot"), ("er", "one-hot"), ("mito", "distance"), ("er", "distance")),
        ),
        ({"__type__": "InnerDistanceTaskConfig", "channels": ["mito"]}, (("mito", "inner-distance"),)),
        (
            {
                "__type__": "PretrainedTaskConfig",
                "weights": "/w",
                "sub_task_config": {"__type__": "OneHotTaskConfig", "classes": ["no", "yes"]},
            },
            (("no", "one-hot"), ("yes", "one-hot")),
        ),
        ({"__type__": "AffinitiesTaskConfig", "neighborhood": [(1, 0, 0)], "lsds": False}, None),
        ({"__type__": "DummyTaskConfig", "embedding_dims": 2}, None),
        ({"__type__": "SomebodysTaskConfig", "channels": ["mito"]}, None),
        ({"channels": ["mito"]}, None),
        ({"__type__": "DistanceTaskConfig"}, None),
        ({"__type__": "DistanceTaskConfig", "channels": []}, None),
        ({"__type__": "DistanceTaskConfig", "channels": "mito"}, None),
        ({"__type__": "DistanceTaskConfig", "channels": [["mito"]]}, None),
        ({"__type__": ["DistanceTaskConfig"], "channels": ["mito"]}, None),
        ("DistanceTaskConfig", None),
        (None, None),
    ],
)
def test_the_rows_of_a_head_are_those_of_its_task(
    store: Store, task: object, expected: tuple[tuple[str, str], ...] | None
) -> None:
    store.store_run_config(task)
    assert stored_channels(store.basedir, RUN) == expected


def test_labels_that_yaml_takes_for_other_things_stay_labels(store: Store) -> None:
    labels = ["on", "null", "1e3", "2020-01-01", "~"]
    store.store_run_config({"__type__": "DistanceTaskConfig", "channels": labels})
    assert stored_channels(store.basedir, RUN) == tuple((label, "distance") for label in labels)


def test_without_a_configuration_the_channels_are_unknown(store: Store) -> None:
    assert stored_channels(store.basedir, RUN) is None


def write_config(store: Store, text: str) -> None:
    store.store_run_config(None)
    (store.basedir / "configs" / "runs" / f"{RUN}.yaml").write_text(text)


def test_a_tag_that_would_run_code_runs_nothing(store: Store, tmp_path: Path) -> None:
    write_config(
        store,
        f"start_config: !!python/object/apply:os.mkdir ['{tmp_path}/made']\n"
        "other: !unheard-of {a: 1}\n"
        "task_config: {__type__: DistanceTaskConfig, channels: !!python/tuple [mito]}\n",
    )
    assert stored_channels(store.basedir, RUN) == (("mito", "distance"),)
    assert not (tmp_path / "made").exists()


@pytest.mark.parametrize(
    "text",
    ["a: [", "a: b: c", "\0", "--- a\n--- b\n", "? [a]\n: b", "&x {task_config: *x}", "[" * 5000, "\ud800"],
)
def test_what_is_no_yaml_is_refused(store: Store, text: str) -> None:
    store.store_run_config(None)
    path = store.basedir / "configs" / "runs" / f"{RUN}.yaml"
    path.write_bytes(text.encode(errors="surrogatepass"))
    with pytest.raises(InvalidDocument) as caught:
        stored_channels(store.basedir, RUN)
    assert caught.value.source == str(path)


@given(st.text(max_size=60))
def test_no_text_crashes_the_reader_of_configurations(text: str) -> None:
    with tempfile.TemporaryDirectory() as place:
        store = Store(Path(place))
        store.store_run_config(None)
        path = store.basedir / "configs" / "runs" / f"{RUN}.yaml"
        path.write_bytes(text.encode(errors="surrogatepass"))
        with suppress(InvalidDocument):
            assert stored_channels(store.basedir, RUN) is None

"""What was asked of the Hub, and an ordinary model repository on it."""

import io
import shutil
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
from attrs import evolve
from huggingface_hub import CommitOperationAdd, HfApi

from cosemzoo.localhub import LocalHub
from cosemzoo.manifest import Index, read_index
from cosemzoo.publishing import publish
from cosemzoo.zoo import Zoo

RUN = "cosemzoo/setup04"


@pytest.fixture
def asked(hub: LocalHub) -> Callable[[], list[str]]:
    """Give the requests since this was last called."""

    def take() -> list[str]:
        requests = [f"{request.method} {request.path}" for request in hub.requests]
        hub.reset_counts()
        return requests

    return take


@pytest.fixture
def commit_files(api: HfApi) -> Callable[..., str]:
    """Commit files, by name, to an ordinary repository, which is made if it is not there."""

    def put(repository: str, files: Mapping[str, bytes | Path], revision: str = "main") -> str:
        api.create_repo(repository, exist_ok=True)
        contents = {
            name: file if isinstance(file, bytes) else file.read_bytes() for name, file in files.items()
        }
        operations = [CommitOperationAdd(name, io.BytesIO(content)) for name, content in contents.items()]
        return str(api.create_commit(repository, operations, commit_message="files", revision=revision).oid)

    return put


@pytest.fixture
def commit_folder(commit_files: Callable[..., str]) -> Callable[..., str]:
    """Commit the files of a folder to an ordinary repository."""

    def put(repository: str, folder: Path, revision: str = "main") -> str:
        return commit_files(repository, {path.name: path for path in folder.iterdir()}, revision)

    return put


@pytest.fixture(scope="session")
def published_run(
    tmp_path_factory: pytest.TempPathFactory,
    write_folder: Callable[..., Path],
    allow_uploads: Callable[[], None],
) -> tuple[Path, str]:
    """Publish setup04 with two iterations, the later of them the best.

    Gives the root of a Hub that is not running, for copies of it, and the commit of the later iteration.
    """
    place = tmp_path_factory.mktemp("published")
    early = write_folder(place / "early", seed=1, iteration=500000)
    late = write_folder(place / "late", seed=2)
    with (
        pytest.MonkeyPatch.context() as environment,
        warnings.catch_warnings(),
        LocalHub(place / "root") as hub,
    ):
        allow_uploads()
        environment.setenv("XDG_STATE_HOME", str(place / "state"))
        zoo = Zoo(endpoint=hub.endpoint, cache_dir=place / "cache", token=False)
        publish(early, "setup04@500000", zoo=zoo, aliases=["first"])
        published = publish(late, "setup04@1820500", zoo=zoo, aliases=["best"])
    assert published.commit is not None
    return place / "root", published.commit


@pytest.fixture
def hub_root(tmp_path: Path, request: pytest.FixtureRequest) -> Path:
    """Give the root of the test's Hub; with setup04 in it, for a test that asks for the run."""
    root = tmp_path / "hub"
    if "run" in request.fixturenames:
        published, _ = request.getfixturevalue("published_run")
        shutil.copytree(published, root)
    return root


@pytest.fixture
def run(published_run: tuple[Path, str], hub: LocalHub) -> str:
    """Have setup04 on the Hub; give the commit of its best iteration, 1820500."""
    return published_run[1]


@pytest.fixture
def amend_index(api: HfApi, commit_files: Callable[..., str], tmp_path: Path) -> Callable[..., None]:
    """Change the index of setup04 on the Hub by a function of an index."""

    def amend(change: Callable[[Index], Index]) -> None:
        path = api.hf_hub_download(RUN, "criteria.json", cache_dir=tmp_path / "maintainer")
        index = read_index(Path(path).read_bytes(), "criteria.json")
        commit_files(RUN, {"criteria.json": change(index).to_json().encode()})

    return amend


@pytest.fixture
def yank(amend_index: Callable[..., None], hub: LocalHub) -> Callable[[str, str], None]:
    """Withdraw an iteration of setup04."""

    def withdraw(criterion: str, reason: str) -> None:
        def change(index: Index) -> Index:
            release = evolve(index.criteria[criterion], state="yanked", reason=reason)
            return evolve(index, criteria={**index.criteria, criterion: release})

        amend_index(change)
        hub.reset_counts()

    return withdraw

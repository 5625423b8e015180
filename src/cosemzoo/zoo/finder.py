"""From a reference to a Hub repository to a pinned and described checkpoint, and to its verified files."""

from collections.abc import Callable, Mapping
from pathlib import Path

from attrs import evolve, frozen
from huggingface_hub.errors import RevisionNotFoundError

from cosemzoo.checkpoints.header import read_header
from cosemzoo.checkpoints.shards import parse_shard_index
from cosemzoo.errors import (
    CacheNotWritable,
    ContradictoryPublication,
    CriterionNotFound,
    IntegrityError,
    InvalidIndex,
    InvalidManifest,
    InvalidSafetensors,
    NotReadable,
    WeightsNotFound,
    without_credentials,
)
from cosemzoo.manifest import (
    INDEX_FILE,
    MANIFEST_FILE,
    Index,
    Manifest,
    Release,
    is_manifest,
    read_index,
    read_manifest,
)
from cosemzoo.reference import Reference
from cosemzoo.zoo.cache import RepositoryCache
from cosemzoo.zoo.checkpoint import Checkpoint, WeightsFile
from cosemzoo.zoo.criteria import choose, choose_commit, warn_of_yank
from cosemzoo.zoo.digests import published_digest
from cosemzoo.zoo.failures import Asked, read_errors
from cosemzoo.zoo.files import VerifiedFiles
from cosemzoo.zoo.remote import RemoteRepository
from cosemzoo.zoo.weights import SHARD_INDEX, SINGLE_FILE, find_shards, other_weights, read_table, shapes_of

MAIN = "main"


@frozen
class _Pin:
    commit: str
    criterion: str
    release: Release | None


class Finder:
    """Finds the checkpoints of one repository, in the cache and, with `remote`, on the Hub.

    Parameters
    ----------
    asked : Asked
        Which repository, and what for.
    cache : RepositoryCache
    remote : RemoteRepository or None
        None answers from the cache alone.
    """

    def __init__(self, asked: Asked, cache: RepositoryCache, remote: RemoteRepository | None) -> None:
        self._asked = asked
        self._cache = cache
        self._remote = remote
        self._open = VerifiedFiles(asked, cache, remote)

    def index(self) -> Index | None:
        """Give the index of criteria; None for an ordinary repository."""
        index, main = self._index()
        if main is None and self._remote is None:
            raise self._open.not_cached(f"{INDEX_FILE} of {self._asked.repository}")
        return index

    def resolve(self, reference: Reference) -> Checkpoint:
        """Pin a reference and describe its checkpoint."""
        pin = self._pin_name(reference) if reference.commit is None else self._pin_commit(reference.commit)
        return self._describe(reference, pin)

    def fetch(self, checkpoint: Checkpoint) -> dict[str, Path]:
        """Give the verified path of every weights file, by its name; download what is missing."""
        commit = checkpoint.identity
        self._open.check_room(commit, checkpoint.files)
        paths = {file.name: self._open.obtain(commit, file) for file in checkpoint.files}
        for name, path in paths.items():
            self._check_header(checkpoint, name, path)
        self._remember(checkpoint, commit)
        return paths

    def beside(self, commit: str, name: str) -> Path | None:
        """Give the verified path of another file of a commit; None if the commit has no such file."""
        file = self._cache.snapshot(commit).get(name)
        if file is None or published_digest(file) is None:
            if self._remote is None:
                raise self._open.not_cached(f"{name} of {self._asked.repository}@{commit}")
            try:
                file = self._remote.files(commit).get(name)
            except RevisionNotFoundError as error:
                raise self._no_revision(commit) from error
        if file is None:
            return None
        self._open.check_room(commit, [file])
        return self._open.obtain(commit, file)

    # --- which commit --------------------------------------------------------------------------------------

    def _pin_commit(self, commit: str) -> _Pin:
        ask = self._remote is not None and not self._is_whole(commit)
        index = self._readable(self.index if ask else self._cached_index)
        choice = choose_commit(index, commit) if index else None
        if choice is None:
            return _Pin(commit, commit, None)
        if choice.release.state == "yanked":
            warn_of_yank(self._asked.reference, choice.release)
        return _Pin(commit, choice.criterion, choice.release)

    def _pin_name(self, reference: Reference) -> _Pin:
        index, main = self._index()
        if index is not None:
            choice = choose(index, reference)
            return _Pin(choice.release.commit, choice.criterion, choice.release)
        revision = MAIN if reference.criterion is None else reference.criterion
        commit = main if revision == MAIN else self._commit_of(revision)
        if commit is None:
            raise self._no_revision(revision)
        return _Pin(commit, revision, None)

    def _commit_of(self, revision: str) -> str | None:
        if self._remote is None:
            return self._cache.ref(revision)
        try:
            return self._remote.look_up(revision, INDEX_FILE).commit
        except RevisionNotFoundError:
            return None

    def _no_revision(self, revision: str) -> Exception:
        if self._remote is None:
            return self._open.not_cached(f"{self._asked.repository}@{revision}")
        index = self._readable(self._cached_index)
        available = [*index.aliases, *index.criteria] if index else self._remote.revisions()
        return CriterionNotFound(self._asked.reference, revision, available)

    # --- the index of criteria -----------------------------------------------------------------------------

    def _index(self) -> tuple[Index | None, str | None]:
        """Give the index, if there is one, and the commit of main."""
        if self._remote is None:
            return self._cached_index(), self._cache.ref(MAIN)
        try:
            answer = self._remote.look_up(MAIN, INDEX_FILE)
        except RevisionNotFoundError:
            return None, None
        etag = answer.etag
        if etag is None:
            return None, answer.commit
        # A cache that has main elsewhere has to follow it, or an answer offline would be an older one.
        known = self._cache.ref(MAIN) == answer.commit
        path = self._cache.file(answer.commit, INDEX_FILE) if known else None
        path = self._open.verified(path, lambda: self._download_index(answer.commit, etag))
        return self._read_index(path), answer.commit

    def _cached_index(self) -> Index | None:
        path = self._cached_index_file()
        return None if path is None else self._read_index(self._open.cached(path))

    def _cached_index_file(self) -> Path | None:
        main = self._cache.ref(MAIN)
        return self._cache.file(main, INDEX_FILE) if main else None

    def _readable(self, read: Callable[[], Index | None]) -> Index | None:
        """Give an index that is not needed: a commit means the same without it, or with a damaged one."""
        try:
            with read_errors(self._asked.reference):
                return read()
        except (InvalidIndex, IntegrityError, NotReadable):
            return None

    def _read_index(self, path: Path) -> Index:
        return read_index(path.read_bytes(), f"{self._asked.repository}/{INDEX_FILE}")

    def _download_index(self, commit: str, etag: str) -> Path:
        assert self._remote is not None
        try:
            # Not by the name: main can move between the client's two requests.
            path = self._remote.download(commit, INDEX_FILE)
        except CacheNotWritable:
            # Main has moved, perhaps for its card alone: the same index can be there under another commit.
            blob = self._cache.blob(etag)
            if blob is None:
                raise
            return blob
        self._cache.remember_ref(MAIN, commit)
        return path

    # --- what the commit holds -----------------------------------------------------------------------------

    def _describe(self, reference: Reference, pin: _Pin) -> Checkpoint:
        files = self._files(pin)
        source = f"{self._asked.repository}@{pin.criterion}"
        if not {SINGLE_FILE, SHARD_INDEX} & files.keys():
            raise WeightsNotFound(self._asked.reference, source, other_weights(files))

        def read_text(name: str) -> bytes:
            return self._open.obtain(pin.commit, files[name]).read_bytes()

        shards = find_shards(files, read_text, source)
        names = (SINGLE_FILE,) if shards is None else shards.files
        published = {name: self._agreed(files[name], pin.release) for name in names if name in files}
        weights = read_table(
            files, shards, lambda name: self._open.header(pin.commit, published[name]), source
        )
        checkpoint = Checkpoint(
            reference=reference,
            repository=self._asked.repository,
            endpoint=without_credentials(self._asked.endpoint),
            commit=pin.commit,
            criterion=pin.criterion,
            manifest=_manifest(
                files, pin.release, read_text, shapes_of(weights), f"{source}/{MANIFEST_FILE}"
            ),
            weights=weights,
            files=tuple(published.values()),
        )
        self._remember_name(checkpoint, pin.commit)
        return checkpoint

    def _files(self, pin: _Pin) -> Mapping[str, WeightsFile]:
        files = self._cache.listing(pin.commit)
        if files is not None:
            return files
        if self._remote is not None and not self._is_whole(pin.commit):
            try:
                return self._remote.files(pin.commit)
            except RevisionNotFoundError as error:
                raise self._no_revision(pin.commit) from error
        files = self._cache.snapshot(pin.commit)
        needed = {MANIFEST_FILE} if pin.release else set()
        if not {SINGLE_FILE, SHARD_INDEX} & files.keys() or not needed <= files.keys():
            raise self._open.not_cached(f"{self._asked.repository}@{pin.commit}")
        return files

    def _is_whole(self, commit: str) -> bool:
        """Whether the cache holds, and can verify, everything of a commit that is needed."""
        listing = self._cache.listing(commit)
        files = listing or self._cache.snapshot(commit)
        names: tuple[str, ...] = (SINGLE_FILE,)
        path = self._cache.file(commit, SHARD_INDEX)
        if SINGLE_FILE not in files and path is not None:
            try:
                names = parse_shard_index(path.read_bytes(), SHARD_INDEX).files
            except InvalidSafetensors:
                return False
        cached = all(
            name in files and published_digest(files[name]) and self._cache.file(commit, name)
            for name in names
        )
        return cached and (listing is not None or MANIFEST_FILE in files)

    def _agreed(self, file: WeightsFile, release: Release | None) -> WeightsFile:
        if release is not None:
            listed = release.weights.get(file.name)
            if listed is None or file.sha256 not in {None, listed}:
                expected = f"the index of criteria has {listed or 'no such file'}"
                stored = f"the Hub has {published_digest(file)}"
                raise ContradictoryPublication(self._asked.reference, Path(file.name), expected, stored)
            file = evolve(file, sha256=listed)
        if published_digest(file) is None:
            raise self._open.not_cached(f"the published checksum of {file.name}")
        return file

    def _check_header(self, checkpoint: Checkpoint, name: str, path: Path) -> None:
        planned = {
            tensor: stored.entry
            for tensor, stored in checkpoint.weights.tensors.items()
            if stored.file == name
        }
        if planned != dict(read_header(path).tensors):
            before, now = "the header that was read before the download", "the verified file has another one"
            raise ContradictoryPublication(self._asked.reference, path, before, now)

    # --- what is remembered for answers without the Hub ----------------------------------------------------

    def _remember_name(self, checkpoint: Checkpoint, commit: str) -> None:
        if checkpoint.criterion != commit and self._remote and self._cached_index_file() is None:
            self._cache.remember_ref(checkpoint.criterion, commit)

    def _remember(self, checkpoint: Checkpoint, commit: str) -> None:
        self._remember_name(checkpoint, commit)
        if self._remote is None or self._cache.listing(commit) is not None:
            return
        snapshot = self._cache.snapshot(commit)
        needed = set() if checkpoint.manifest is None else {MANIFEST_FILE}
        if [file.name for file in checkpoint.files] != [SINGLE_FILE]:
            needed.add(SHARD_INDEX)
        if needed <= snapshot.keys():
            known = {file.name: file for file in checkpoint.files}
            others = (snapshot[name] for name in (MANIFEST_FILE, SHARD_INDEX) if name in snapshot)
            self._cache.remember_listing(commit, [*known.values(), *others])


def _manifest(
    files: Mapping[str, WeightsFile],
    release: Release | None,
    read_text: Callable[[str], bytes],
    shapes: Mapping[str, tuple[int, ...]],
    source: str,
) -> Manifest | None:
    if MANIFEST_FILE not in files:
        if release is not None:
            raise InvalidManifest(source, [("$", "is missing")])
        return None
    text = read_text(MANIFEST_FILE)
    if release is None and not is_manifest(text):
        return None
    return read_manifest(text, source, shapes)

"""The zoo: one object that finds, pins, fetches and verifies checkpoints, wherever they are."""

import os
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from huggingface_hub import constants

from cosemzoo.errors import (
    CriterionNotFound,
    HubUnavailable,
    NamespaceMissing,
    NotCached,
    StaleAnswer,
    without_credentials,
)
from cosemzoo.manifest import Index
from cosemzoo.reference import Reference, known_runs, parse_reference
from cosemzoo.zoo.cache import RepositoryCache
from cosemzoo.zoo.checkpoint import Checkpoint
from cosemzoo.zoo.failures import Asked, read_errors
from cosemzoo.zoo.finder import Finder
from cosemzoo.zoo.folders import fetch_folder, resolve_folder, resolve_local
from cosemzoo.zoo.remote import RemoteRepository
from cosemzoo.zoo.settings import check_endpoint, check_namespace, check_token, expanded

_T = TypeVar("_T")


class Zoo:
    """Where checkpoints come from. Making one touches neither network nor disk.

    Parameters
    ----------
    endpoint : str, optional
        The Hub; by default that of huggingface_hub (``HF_ENDPOINT``).
    namespace : str, optional
        Where runs are looked up that are not in `known_runs`; by default ``COSEMZOO_NAMESPACE``.
    cache_dir : str or Path, optional
        The cache; by default that of huggingface_hub (``HF_HUB_CACHE``).
    token : str or bool, optional
        As everywhere in huggingface_hub: by default the saved token (``HF_TOKEN``), False for none.
    offline : bool, optional
        Whether to answer from the cache alone; always so with ``HF_HUB_OFFLINE``.
    local_dir : Path, optional
        The local zoo, with a folder ``<run>/<criterion>`` for each checkpoint; by default
        ``COSEMZOO_LOCAL_DIR``, else ``$XDG_DATA_HOME/cosemzoo/runs``.

    Examples
    --------
    >>> zoo = Zoo(namespace="my-lab")
    >>> zoo.repository_of(parse_reference("run_1@best"))
    'my-lab/run_1'
    """

    def __init__(
        self,
        *,
        endpoint: str | None = None,
        namespace: str | None = None,
        cache_dir: str | Path | None = None,
        token: str | bool | None = None,
        offline: bool | None = None,
        local_dir: Path | None = None,
    ) -> None:
        self._token = token
        self._endpoint = endpoint
        self._namespace = namespace
        self._cache_dir = cache_dir
        self._offline = offline
        self._local_dir = local_dir

    @property
    def endpoint(self) -> str:
        """The Hub's address."""
        return check_endpoint(self._endpoint or constants.ENDPOINT)

    @property
    def token(self) -> str | bool | None:
        """The token, None for the saved one, False for none."""
        return check_token(self._token) if isinstance(self._token, str) else self._token

    @property
    def namespace(self) -> str | None:
        """Where other runs than the known ones are looked up."""
        return self._namespace or os.environ.get("COSEMZOO_NAMESPACE") or None

    @property
    def cache_dir(self) -> Path:
        """The cache of huggingface_hub."""
        return expanded(self._cache_dir or constants.HF_HUB_CACHE, "HF_HUB_CACHE").absolute()

    @property
    def offline(self) -> bool:
        """Whether answers come from the cache alone."""
        return bool(self._offline) or constants.HF_HUB_OFFLINE

    @property
    def local_dir(self) -> Path:
        """The local zoo."""
        data = os.environ.get("XDG_DATA_HOME") or "~/.local/share"
        chosen = self._local_dir or os.environ.get("COSEMZOO_LOCAL_DIR")
        return expanded(chosen or Path(data, "cosemzoo", "runs"), "COSEMZOO_LOCAL_DIR")

    def resolve(self, ref: str | os.PathLike[str] | Reference) -> Checkpoint:
        """Find a checkpoint and pin it, without downloading its weights.

        A commit of which everything is cached costs no request, a name of which everything is cached one; a
        tag or a branch of an ordinary repository, which has no index of criteria, costs two.

        Parameters
        ----------
        ref : str, os.PathLike or Reference
            What `parse_reference` takes.

        Raises
        ------
        InvalidReference, NamespaceMissing, RunNotFound, CriterionNotFound, WeightsNotFound
            If there is nothing of that name.
        AccessDenied, HubUnavailable, NotCached, CacheNotWritable, NotReadable, DiskFull, InvalidSetting
            If it cannot be had.
        InvalidIndex, InvalidManifest, InvalidSafetensors, IntegrityError
            If what was found cannot be trusted.

        Warns
        -----
        YankedCheckpoint
            If the checkpoint was withdrawn.
        StaleAnswer
            If the Hub could not be asked and the answer is the cache's.
        """
        reference = parse_reference(ref)
        with read_errors(str(reference)):
            if reference.place == "folder":
                return resolve_folder(reference)
            if reference.place == "local":
                return resolve_local(reference, self.local_dir)
        return self._ask(reference, lambda finder: finder.resolve(reference))

    def fetch(self, ref: str | os.PathLike[str] | Reference | Checkpoint) -> dict[str, Path]:
        """Make the weights of a checkpoint present, and verify them.

        Parameters
        ----------
        ref : str, os.PathLike, Reference or Checkpoint
            A checkpoint is fetched as it was pinned, from the Hub that it was found on (without the token, if
            that is not this zoo's Hub); anything else is resolved first.

        Returns
        -------
        dict of str to Path
            The local path of every weights file, by its name.

        Raises
        ------
        CosemZooError
            As `resolve` does.
        """
        checkpoint = ref if isinstance(ref, Checkpoint) else self.resolve(ref)
        reference, repository = checkpoint.reference, checkpoint.repository
        with read_errors(str(reference)):
            if repository is None:
                return fetch_folder(checkpoint)
            return self._finder(reference, repository, offline=self.offline, of=checkpoint).fetch(checkpoint)

    def fetch_beside(self, checkpoint: Checkpoint, name: str) -> Path | None:
        """Make another file of a checkpoint than its weights present, and verify it.

        What is cached is opened without any request. A file of a folder has no published digest, and is given
        as it is.

        Parameters
        ----------
        checkpoint : Checkpoint
        name : str
            A plain file name.

        Returns
        -------
        Path or None
            None if the checkpoint was published without such a file.

        Raises
        ------
        CosemZooError
            As `fetch` does.
        """
        reference, repository = checkpoint.reference, checkpoint.repository
        with read_errors(str(reference)):
            if repository is None:
                assert checkpoint.folder is not None
                path = checkpoint.folder / name
                return path if path.is_file() else None
            finder = self._finder(reference, repository, offline=self.offline, of=checkpoint)
            return finder.beside(checkpoint.identity, name)

    def criteria(self, ref: str | os.PathLike[str] | Reference) -> Index | None:
        """Give the index of a run's checkpoints; None for a folder and for an ordinary repository.

        Raises
        ------
        CosemZooError
            As `resolve` does.
        """
        reference = parse_reference(ref)
        return self._ask(reference, Finder.index) if reference.place == "hub" else None

    def repository_of(self, reference: Reference) -> str:
        """Give the Hub repository, ``namespace/repo``, of a reference to the Hub.

        Raises
        ------
        NamespaceMissing
            If it is a bare run that is not known, and no namespace is configured.
        InvalidSetting
            If the namespace that is configured cannot be one.
        """
        known = known_runs()
        if reference.namespace is None and reference.run in known:
            return known[reference.run]
        namespace = reference.namespace or self.namespace
        if namespace is None:
            raise NamespaceMissing(reference.run, list(known))
        return f"{check_namespace(namespace)}/{reference.run}"

    def _ask(self, reference: Reference, question: Callable[[Finder], _T]) -> _T:
        """Ask the Hub; where it cannot be asked, its cache."""
        repository = self.repository_of(reference)

        def answer_of(*, offline: bool) -> _T:
            with read_errors(str(reference)):
                return question(self._finder(reference, repository, offline=offline))

        if self.offline:
            return answer_of(offline=True)
        try:
            return answer_of(offline=False)
        except HubUnavailable as error:
            try:
                answer = answer_of(offline=True)
            except (NotCached, CriterionNotFound) as missing:
                raise error from missing
            said = f"{reference}: {error.endpoint} could not be asked ({error.reason})"
            warnings.warn(f"{said}; this is the cache's answer", StaleAnswer, stacklevel=3)
            return answer

    def _finder(
        self, reference: Reference, repository: str, *, offline: bool, of: Checkpoint | None = None
    ) -> Finder:
        endpoint, elsewhere = self.endpoint, False
        if of is not None and of.endpoint not in {None, without_credentials(endpoint)}:
            endpoint, elsewhere = check_endpoint(str(of.endpoint)), True
        asked = Asked(str(reference), repository, endpoint, self.cache_dir)
        # A checkpoint does not get to say who is sent the token of another Hub.
        remote = None if offline else RemoteRepository(asked, False if elsewhere else self.token)
        return Finder(asked, RepositoryCache(self.cache_dir, repository), remote)

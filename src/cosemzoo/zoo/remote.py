"""One model repository on the Hub, asked through huggingface_hub.

The questions a warm start asks are sent with headers of our own: the client's `build_hf_headers` sends a
request by itself (for its list of agent harnesses, unless HF_HUB_DISABLE_TELEMETRY is set), and a start by
name is to cost exactly one.
"""

import platform
import re
from pathlib import Path
from typing import Final
from urllib.parse import quote

import huggingface_hub
from attrs import frozen
from huggingface_hub import (
    HfApi,
    RepoFile,
    constants,
    get_session,
    hf_hub_download,
    hf_hub_url,
    hf_raise_for_status,
)
from huggingface_hub.errors import EntryNotFoundError
from huggingface_hub.utils import get_token_to_send  # type: ignore[attr-defined]

from cosemzoo._version import __version__
from cosemzoo.checkpoints.header import Header, header_length, parse_header
from cosemzoo.errors import HubUnavailable
from cosemzoo.zoo.checkpoint import WeightsFile
from cosemzoo.zoo.failures import Asked, hub_errors
from cosemzoo.zoo.settings import check_token

_COMMIT: Final = re.compile(r"[0-9a-f]{40}")
#: Bytes asked for first when reading a header: more than the header of nearly every model.
FIRST_BYTES: Final = 100_000


@frozen
class Answer:
    """What the Hub says of a file at a revision.

    Attributes
    ----------
    commit : str
        The commit that the revision is now.
    etag : str or None
        The digest of the file; None if the commit does not have it.
    """

    commit: str
    etag: str | None


class RemoteRepository:
    """A model repository on the Hub.

    Parameters
    ----------
    asked : Asked
        Which repository of which Hub, and what for.
    token : str, bool or None
        As everywhere in huggingface_hub: None is the saved token, False is none.

    Raises
    ------
    RunNotFound, AccessDenied, HubUnavailable, CacheNotWritable, DiskFull, InvalidSetting
        From every method.
    """

    def __init__(self, asked: Asked, token: str | bool | None) -> None:
        self._asked = asked
        self._token = token

    def look_up(self, revision: str, name: str) -> Answer:
        """Ask, with one request, what a revision and a file of it are now.

        Raises
        ------
        RevisionNotFoundError
            If there is no such branch, tag or commit.
        """
        with hub_errors(self._asked):
            response = get_session().request(
                "HEAD",
                self._url(revision, name),
                headers=self._headers(),
                timeout=constants.HF_HUB_ETAG_TIMEOUT,
                follow_redirects=True,
            )
            # Behind a redirect to a storage host, the Hub's own answer is the one before.
            answers = [*response.history, response]
            response = next((r for r in answers if r.headers.get("X-Repo-Commit")), response)
            try:
                hf_raise_for_status(response)
            except EntryNotFoundError:
                return Answer(self._checked(response.headers.get("X-Repo-Commit")), None)
            commit = self._checked(response.headers.get("X-Repo-Commit"))
            etag = response.headers.get("X-Linked-Etag") or response.headers.get("ETag") or ""
            etag = etag.removeprefix("W/").strip('"')
            if not etag:
                raise self._unavailable(
                    "its answer has no ETag: it is not a Hub, or a proxy drops headers; check HF_ENDPOINT"
                )
            return Answer(commit, etag)

    def revisions(self) -> tuple[str, ...]:
        """Give the names of all branches and tags."""
        with hub_errors(self._asked):
            refs = self._api().list_repo_refs(self._asked.repository)
        return tuple(ref.name for ref in [*refs.branches, *refs.tags])

    def files(self, commit: str) -> dict[str, WeightsFile]:
        """Give the files of a commit, those in folders left out, with the digests that the Hub recorded.

        Raises
        ------
        RevisionNotFoundError
            If there is no such commit.
        """
        with hub_errors(self._asked):
            entries = list(self._api().list_repo_tree(self._asked.repository, revision=commit))
        return {entry.path: _published(entry) for entry in entries if isinstance(entry, RepoFile)}

    def download(self, revision: str, name: str, size: int = 0) -> Path:
        """Bring a file into the cache and give its path.

        Raises
        ------
        EntryNotFoundError, RevisionNotFoundError
            If there is no such file.
        """
        with hub_errors(self._asked, size):
            path = hf_hub_download(
                self._asked.repository,
                name,
                revision=revision,
                cache_dir=self._asked.cache_dir,
                endpoint=self._asked.endpoint,
                token=self._token_to_send() or False,
                library_name="cosemzoo",
                library_version=__version__,
            )
        return Path(path)

    def has_xet(self, revision: str) -> bool:
        """Whether the Hub takes uploads to a revision by Xet, too."""
        name = quote(revision, safe="")
        with hub_errors(self._asked):
            response = get_session().get(
                f"{self._asked.endpoint}/api/models/{self._asked.repository}/xet-write-token/{name}",
                headers=self._headers(),
                timeout=constants.HF_HUB_ETAG_TIMEOUT,
            )
        return bool(response.status_code == 200)

    def header(self, commit: str, file: WeightsFile) -> Header:
        """Read the header of a weights file without downloading the file.

        Raises
        ------
        InvalidSafetensors
            If the file breaks a rule of the format.
        """
        source = f"{self._asked.repository}@{commit[:8]}/{file.name}"
        data = self._read(commit, file, 0, min(FIRST_BYTES, file.size))
        end = min(header_length(data, source), file.size)
        if end > len(data):
            data += self._read(commit, file, len(data), end)
        return parse_header(data, file_size=file.size, source=source)

    def _read(self, commit: str, file: WeightsFile, start: int, end: int) -> bytes:
        if start == end:
            return b""
        part = {"Range": f"bytes={start}-{end - 1}", "Accept-Encoding": "identity"}
        with (
            hub_errors(self._asked),
            get_session().stream(
                "GET",
                self._url(commit, file.name),
                headers=self._headers() | part,
                timeout=constants.HF_HUB_DOWNLOAD_TIMEOUT,
                follow_redirects=True,
            ) as response,
        ):
            hf_raise_for_status(response)
            # A server that ignores ranges sends the whole file: it is read as far as needed, then cut off.
            skipped = start if response.status_code == 200 else 0
            data = bytearray()
            for piece in response.iter_bytes():
                data += piece
                if len(data) >= skipped + end - start:
                    break
        if len(data) < skipped + end - start:
            raise self._unavailable(f"it sent {len(data)} bytes of {file.name}, not {skipped + end - start}")
        return bytes(data[skipped : skipped + end - start])

    def _api(self) -> HfApi:
        return HfApi(
            endpoint=self._asked.endpoint,
            token=self._token_to_send() or False,
            library_name="cosemzoo",
            library_version=__version__,
        )

    def _url(self, revision: str, name: str) -> str:
        return hf_hub_url(self._asked.repository, name, revision=revision, endpoint=self._asked.endpoint)

    def _headers(self) -> dict[str, str]:
        client = f"hf_hub/{huggingface_hub.__version__}; python/{platform.python_version()}"
        headers = {"user-agent": f"cosemzoo/{__version__}; {client}"}
        token = self._token_to_send()
        return headers if token is None else headers | {"authorization": f"Bearer {token}"}

    def _token_to_send(self) -> str | None:
        token = get_token_to_send(self._token)
        # The HTTP library prints a header that it cannot send, and so the token.
        return None if token is None else check_token(token)

    def _checked(self, commit: str | None) -> str:
        if commit is None or not _COMMIT.fullmatch(commit):
            raise self._unavailable("its answer has no X-Repo-Commit, so it is not a Hub: check HF_ENDPOINT")
        return commit

    def _unavailable(self, reason: str) -> HubUnavailable:
        return HubUnavailable(self._asked.reference, self._asked.endpoint, reason)


def _published(entry: RepoFile) -> WeightsFile:
    sha256 = None if entry.lfs is None else entry.lfs.sha256
    # The blob id of a file in LFS is that of its pointer.
    return WeightsFile(entry.path, entry.size, sha256, entry.blob_id if sha256 is None else None)

"""The Hub as a server: in a thread of this process, or in the foreground of its own."""

import logging
import signal
import socket
import threading
from collections.abc import Callable, Mapping
from pathlib import Path

import uvicorn

from cosemzoo.localhub.access import Access
from cosemzoo.localhub.api.application import application
from cosemzoo.localhub.api.context import Context
from cosemzoo.localhub.faults import BodyFault, Faults, hide_cut_connections
from cosemzoo.localhub.gateway import Gateway
from cosemzoo.localhub.ledger import Ledger, RequestRecord
from cosemzoo.localhub.repository import ModelRepository
from cosemzoo.localhub.store import RepositoryStore
from cosemzoo.localhub.tickets import UploadTickets

_LOOPBACK_HOSTS = {"127.0.0.1": "127.0.0.1", "localhost": "127.0.0.1", "::1": "::1"}

_KEEP_ALIVE_SECONDS = 600  # a client must not find its idle connection closed under its next request
_STOP_SECONDS = 2  # for answers in flight


class LocalHub:
    """A Hub on the loopback interface, served by a thread of this process.

    Use it as a context manager, or call `start` and `stop`; it can be started again, on the same port.

    Parameters
    ----------
    root
        The folder that holds its repositories; made if missing. One Hub at a time can have it.
    host
        ``127.0.0.1``, ``::1`` or ``localhost``.
    port
        The port; 0 for any that is free.
    tokens
        The user of each token. With None nobody needs a token and everything is allowed. With tokens, writes
        need one, private repositories are invisible and gated ones not downloadable to all but their owner.

    Raises
    ------
    ValueError
        If ``host`` is not a loopback address.

    See Also
    --------
    serve : The same in the foreground of its own process.

    Examples
    --------
    >>> with LocalHub(tmp_path) as hub:  # doctest: +SKIP
    ...     api = HfApi(endpoint=hub.endpoint, token=False)
    ...     api.create_repo("cosem/setup04")
    ...     hub.requests[-1].path
    '/api/repos/create'
    """

    def __init__(
        self,
        root: Path,
        *,
        host: str = "127.0.0.1",
        port: int = 0,
        tokens: Mapping[str, str] | None = None,
    ) -> None:
        if host not in _LOOPBACK_HOSTS:
            raise ValueError(f"The local Hub listens on {', '.join(_LOOPBACK_HOSTS)} only, not on {host!r}.")
        self.root = Path(root)
        self._host = _LOOPBACK_HOSTS[host]
        self._port = port
        self._tokens = dict(tokens) if tokens is not None else None
        self._tickets = UploadTickets()
        self._ledger = Ledger()
        self._faults = Faults()
        self._running: _Running | None = None

    def __enter__(self) -> "LocalHub":
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    # Life ----------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Start serving; return when connections are accepted.

        Raises
        ------
        RootInUseError
            If another Hub has the root.
        OSError
            If the port cannot be had.
        """
        if self._running is not None:
            raise RuntimeError("The local Hub is already running.")
        store = RepositoryStore(self.root)
        try:
            family = socket.AF_INET6 if ":" in self._host else socket.AF_INET
            listener = socket.create_server((self._host, self._port), family=family)
        except OSError:
            store.close()
            raise
        # Inherited by every connection. Without it, each answer waits 40 ms for the client's delayed ACK.
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._port = listener.getsockname()[1]
        parts = Context(store, Access(store, self._tokens), self._tickets, self._ledger)
        self._running = _Running(store, listener, Gateway(application(parts), self._ledger, self._faults))
        self._running.start()

    def stop(self) -> None:
        """Stop serving and free the root and the port. Answers in flight have two seconds to end."""
        if self._running is not None:
            self._running.stop()
            self._running = None

    @property
    def endpoint(self) -> str:
        """The Hub's address, for ``HfApi(endpoint=...)`` and ``HF_ENDPOINT``."""
        if self._port == 0:
            raise RuntimeError("The local Hub has no address before it is started.")
        host = f"[{self._host}]" if ":" in self._host else self._host
        return f"http://{host}:{self._port}"

    # Settings ------------------------------------------------------------------------------------------

    def set_gated(self, repo_id: str, gated: bool) -> None:
        """Put a repository behind a gate, or open it: others than its owner can then not download.

        It has no effect on a Hub without tokens, which allows everything.
        """
        self._repository(repo_id).change_settings(gated="manual" if gated else False)

    def set_private(self, repo_id: str, private: bool) -> None:
        """Hide a repository from others than its owner, or show it."""
        self._repository(repo_id).change_settings(private=private)

    # Counting ------------------------------------------------------------------------------------------

    @property
    def requests(self) -> list[RequestRecord]:
        """The requests since the last reset, oldest first; at most the last 10,000."""
        return self._ledger.records()

    @property
    def bytes_sent(self) -> int:
        """The body bytes sent since the last reset."""
        return int(self._ledger.counters()["bytes_sent"])

    def reset_counts(self) -> None:
        """Start counting from zero."""
        self._ledger.reset()

    # Faults --------------------------------------------------------------------------------------------

    def set_down(self, down: bool) -> None:
        """Answer every request with 503, or stop doing so."""
        self._faults.set_down(down)

    def fail_next(self, *, status: int = 503, match: str = "", times: int = 1) -> None:
        """Answer the next requests with a status.

        Parameters
        ----------
        status
            The status.
        match
            Which requests: a substring of ``"METHOD /path"``, the path percent-encoded.
        times
            How many of them.
        """
        self._faults.fail_next(status, match, times)

    def truncate_next(self, match: str, after_bytes: int) -> None:
        """Drop the connection of the next matching download after so many bytes of its body."""
        self._faults.damage_next(BodyFault(match, cut_after=after_bytes))

    def corrupt_next(self, match: str, at_byte: int = 0) -> None:
        """Flip a byte of the body of the next matching download; its length stays."""
        self._faults.damage_next(BodyFault(match, flip_at=at_byte))

    def _repository(self, repo_id: str) -> ModelRepository:
        if self._running is None:
            raise RuntimeError("The local Hub is not running.")
        repository = self._running.store.get(repo_id)
        if repository is None:
            raise LookupError(f"The local Hub has no repository {repo_id!r}.")
        return repository


def serve(
    root: Path,
    host: str,
    port: int,
    tokens: Mapping[str, str] | None,
    on_ready: Callable[[str], None],
) -> None:
    """Serve a Hub in the foreground until SIGINT or SIGTERM. Call it from the main thread.

    Parameters
    ----------
    root, host, port, tokens
        As of `LocalHub`.
    on_ready
        Called with the endpoint once connections are accepted.
    """
    stopped = threading.Event()
    previous = {
        number: signal.signal(number, lambda *_: stopped.set()) for number in (signal.SIGINT, signal.SIGTERM)
    }
    try:
        with LocalHub(root, host=host, port=port, tokens=tokens) as hub:
            on_ready(hub.endpoint)
            stopped.wait()
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


class _Running:
    """A server thread with all that it holds open."""

    def __init__(self, store: RepositoryStore, listener: socket.socket, app: Gateway) -> None:
        self.store = store
        self._listener = listener
        self._server = _Server(
            uvicorn.Config(
                app,
                http="h11",
                ws="none",
                lifespan="off",
                access_log=False,
                log_config=None,
                log_level="error",
                server_header=False,
                proxy_headers=False,
                timeout_keep_alive=_KEEP_ALIVE_SECONDS,
                timeout_graceful_shutdown=_STOP_SECONDS,
            )
        )
        logging.getLogger("uvicorn.error").addFilter(hide_cut_connections)
        self._thread = threading.Thread(target=self._serve, name="cosemzoo-localhub", daemon=True)

    def start(self) -> None:
        self._thread.start()
        self._server.ready.wait()
        if not self._server.started:
            self.stop()
            raise RuntimeError("The local Hub's server thread ended at once; its traceback was printed.")

    def stop(self) -> None:
        self._server.should_exit = True
        self._thread.join()
        self._listener.close()
        self.store.close()

    def _serve(self) -> None:
        try:
            self._server.run([self._listener])
        finally:
            self._server.ready.set()


class _Server(uvicorn.Server):
    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.ready = threading.Event()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self.ready.set()

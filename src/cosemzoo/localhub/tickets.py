"""Signed, expiring permissions for one LFS upload: the client sends no ``Authorization`` with its PUT."""

import hashlib
import hmac
import secrets
import time
from collections.abc import Mapping
from urllib.parse import urlencode

from cosemzoo.localhub.errors import HubError

_LIFETIME_SECONDS = 3600


class UploadTickets:
    """Issues and checks upload permissions. They die with this object."""

    def __init__(self) -> None:
        self._secret = secrets.token_bytes(32)

    def issue(self, repo_id: str, oid: str, size: int) -> str:
        """Return the query string that permits the upload of one object to one repository."""
        expires = int(time.time()) + _LIFETIME_SECONDS
        signature = self._sign(repo_id, oid, size, expires)
        return urlencode({"size": size, "expires": expires, "signature": signature})

    def check(self, repo_id: str, oid: str, query: Mapping[str, str]) -> int:
        """Return the permitted size in bytes, or refuse the upload."""
        try:
            size, expires = int(query["size"]), int(query["expires"])
            expected = self._sign(repo_id, oid, size, expires)
            genuine = hmac.compare_digest(expected.encode(), query["signature"].encode())
        except (KeyError, ValueError):
            genuine = False
        if not genuine:
            raise HubError(403, "This upload link is not one that this Hub issued.")
        if expires < time.time():
            raise HubError(403, "This upload link has expired: start the upload again.")
        return size

    def _sign(self, repo_id: str, oid: str, size: int, expires: int) -> str:
        message = f"{repo_id}\n{oid}\n{size}\n{expires}"
        return hmac.new(self._secret, message.encode(), hashlib.sha256).hexdigest()

"""What a person sets (namespace, endpoint, token, folders), checked when it is used."""

import os
from pathlib import Path
from urllib.parse import urlsplit

from cosemzoo.errors import InvalidReference, InvalidSetting
from cosemzoo.reference import parse_reference


def check_namespace(namespace: str) -> str:
    """Give a namespace back if the Hub can have it.

    Raises
    ------
    InvalidSetting
    """
    try:
        valid = parse_reference(f"hf://{namespace}/run").namespace == namespace
    except InvalidReference:
        valid = False
    if not valid:
        problem = f"{namespace!r} is not a name that the Hub allows: letters, digits, '-', '_' and '.'"
        raise InvalidSetting("namespace", problem, "Set it with Zoo(namespace=…) or COSEMZOO_NAMESPACE.")
    return namespace


def check_endpoint(endpoint: str) -> str:
    """Give the address of a Hub back, without a slash at its end.

    Raises
    ------
    InvalidSetting
        If it is not an http(s) address.
    """
    problem = ""
    try:
        parts = urlsplit(endpoint)
        if parts.scheme not in {"http", "https"} or not parts.hostname:
            problem = "it does not start with http:// or https:// and a host"
        elif parts.port == 0 or not endpoint.isprintable() or " " in endpoint:
            problem = "it has a character or a port that no address has"
    except ValueError as error:
        problem = str(error)
    if problem:
        advice = "Set it with Zoo(endpoint=…) or HF_ENDPOINT, for example https://huggingface.co."
        raise InvalidSetting("endpoint", f"{endpoint!r} is not the address of a Hub: {problem}", advice)
    return endpoint.rstrip("/")


def check_token(token: str) -> str:
    """Give a token as it can be sent: without spaces around it.

    Raises
    ------
    InvalidSetting
        If it cannot be sent; the error does not hold it.
    """
    token = token.strip()
    if not token:
        problem = "it is empty"
    elif not (token.isascii() and token.isprintable() and " " not in token):
        problem = "it has a space, or a character that is not plain ASCII"
    else:
        return token
    advice = "Copy it again from the Hub; it is set with Zoo(token=…), HF_TOKEN or `hf auth login`."
    raise InvalidSetting("token", problem, advice)


def expanded(path: str | os.PathLike[str], setting: str) -> Path:
    """Give a folder with its ``~`` replaced.

    Raises
    ------
    InvalidSetting
        If this user has no home folder; `setting` is what says the folder instead.
    """
    try:
        return Path(path).expanduser()
    except RuntimeError as error:
        problem = f"{os.fspath(path)} is in a home folder, and this user has none"
        raise InvalidSetting(setting, problem, f"Set {setting} (or HOME) to a folder.") from error

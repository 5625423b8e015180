"""What a person sets wrongly: refused in words, and without showing what is secret."""

import pwd
import traceback
from collections.abc import Callable
from pathlib import Path

import pytest

from cosemzoo.errors import HubUnavailable, InvalidSetting
from cosemzoo.zoo import Zoo
from cosemzoo.zoo.digests import state_folder

SECRET = "hf_SECRET"


def test_spaces_around_a_token_are_not_sent(make_zoo: Callable[..., Zoo], run: str) -> None:
    zoo = make_zoo(token=f" {SECRET}\r\n")
    assert zoo.token == SECRET
    assert zoo.resolve("setup04").commit == run


@pytest.mark.parametrize("token", [" \n", f"{SECRET}\nX: y", f"{SECRET}\x01", f"{SECRET}é", f"{SECRET} x"])
def test_a_token_that_cannot_be_sent_is_refused_and_never_shown(
    make_zoo: Callable[..., Zoo], token: str
) -> None:
    with pytest.raises(InvalidSetting, match="token") as caught:
        make_zoo(token=token).resolve("setup04")
    assert SECRET not in "".join(traceback.format_exception(caught.value))


@pytest.mark.parametrize("reference", ["setup04", f"setup04@{'0' * 40}"])
def test_a_saved_token_that_cannot_be_sent_is_refused_and_never_shown(
    make_zoo: Callable[..., Zoo], monkeypatch: pytest.MonkeyPatch, reference: str
) -> None:
    monkeypatch.setenv("HF_TOKEN", f"{SECRET}\x01")
    with pytest.raises(InvalidSetting, match="token") as caught:
        make_zoo(token=None).resolve(reference)
    assert SECRET not in "".join(traceback.format_exception(caught.value))


def test_a_password_in_the_endpoint_is_in_no_message(make_zoo: Callable[..., Zoo], run: str) -> None:
    endpoint = make_zoo().endpoint
    secret = endpoint.replace("://", "://user:pass@word@")
    with pytest.raises(HubUnavailable) as caught:
        make_zoo(endpoint="http://user:password@127.0.0.1:9").resolve("setup04")
    assert caught.value.endpoint == "http://127.0.0.1:9"
    assert "password" not in str(caught.value)
    with pytest.raises(InvalidSetting, match="address") as refused:
        make_zoo(endpoint="ftp://user:password@host").resolve("setup04")
    assert "password" not in str(refused.value)
    checkpoint = make_zoo(endpoint=secret).resolve("setup04")
    assert checkpoint.endpoint == endpoint
    assert make_zoo(endpoint=secret).fetch(checkpoint)


@pytest.mark.parametrize(
    "endpoint",
    ["http://[bad", "http://host:99999", "host", "ftp://host", "http://", "http://ho st", "http://h\n"],
)
def test_an_endpoint_that_is_no_address_is_refused(make_zoo: Callable[..., Zoo], endpoint: str) -> None:
    with pytest.raises(InvalidSetting, match="HF_ENDPOINT"):
        make_zoo(endpoint=endpoint).resolve("setup04")


@pytest.mark.parametrize("namespace", ["my-lab ", "a/b", "my--lab", "a@b", "lab\n"])
def test_a_namespace_that_the_hub_cannot_have_is_refused(
    make_zoo: Callable[..., Zoo], namespace: str
) -> None:
    with pytest.raises(InvalidSetting, match="COSEMZOO_NAMESPACE"):
        make_zoo(namespace=namespace).resolve("run_1")


def test_a_proxy_that_needs_a_missing_package_is_a_hub_that_cannot_be_asked(
    run_python: Callable[..., str],
) -> None:
    script = """
import cosemzoo.errors
from cosemzoo.zoo import Zoo
try:
    Zoo(token=False).resolve("setup04")
except cosemzoo.errors.HubUnavailable as error:
    print(error)
"""
    assert "socksio" in run_python(script, ALL_PROXY="socks5://127.0.0.1:9", NO_PROXY="", no_proxy="")


@pytest.fixture
def homeless(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have no home folder, as a user of a container that its image does not know."""

    def nobody(uid: int) -> None:
        raise KeyError(uid)

    monkeypatch.delenv("HOME", raising=False)
    monkeypatch.setattr(pwd, "getpwuid", nobody)


@pytest.mark.usefixtures("homeless")
def test_a_user_without_a_home_has_no_state_folder_and_needs_none(
    zoo: Zoo, run: str, write_checkpoint: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("XDG_STATE_HOME")
    assert state_folder() is None
    assert zoo.fetch("setup04")
    assert zoo.fetch(write_checkpoint())


@pytest.mark.usefixtures("homeless")
def test_a_user_without_a_home_is_told_what_to_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("XDG_DATA_HOME")
    with pytest.raises(InvalidSetting, match="COSEMZOO_LOCAL_DIR"):
        Zoo().resolve("local:run_1")
    with pytest.raises(InvalidSetting, match="HF_HUB_CACHE"):
        Zoo(cache_dir="~/cache").resolve("setup04")


def test_offline_a_token_that_cannot_be_sent_is_not_needed(
    zoo: Zoo, make_zoo: Callable[..., Zoo], run: str
) -> None:
    paths = zoo.fetch("setup04")
    assert make_zoo(token=f"{SECRET}\x01", offline=True).fetch("setup04") == paths

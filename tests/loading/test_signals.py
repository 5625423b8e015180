import asyncio
import os
import signal
import threading
from collections.abc import Iterator
from contextlib import suppress
from types import FrameType
from typing import Any

import pytest

from cosemzoo.loading import signals
from cosemzoo.loading.signals import run_to_end


class Interrupted(Exception):
    """What the handlers of these tests raise."""


@pytest.fixture
def events() -> list[str]:
    return []


@pytest.fixture(autouse=True)
def handlers(events: list[str]) -> Iterator[dict[int, Any]]:
    """Ctrl-C raises as ever, SIGUSR1 is noted, SIGUSR2 is noted and raises."""

    def note(signum: int, _: FrameType | None) -> None:
        events.append(signal.Signals(signum).name)

    def fail(signum: int, frame: FrameType | None) -> None:
        note(signum, frame)
        raise Interrupted

    own: dict[int, Any] = {
        signal.SIGINT: signal.default_int_handler,
        signal.SIGUSR1: note,
        signal.SIGUSR2: fail,
    }
    before = {signum: signal.signal(signum, handler) for signum, handler in own.items()}
    yield own
    for signum, handler in before.items():
        signal.signal(signum, handler)


def current(handlers: dict[int, Any]) -> dict[int, Any]:
    return {signum: signal.getsignal(signum) for signum in handlers}


def test_an_action_without_signals_just_runs(events: list[str], handlers: dict[int, Any]) -> None:
    run_to_end(lambda: events.append("done"))
    assert events == ["done"]
    assert current(handlers) == handlers


def test_ctrl_c_ends_the_program_after_the_action_and_not_within_it(
    events: list[str], handlers: dict[int, Any]
) -> None:
    def action() -> None:
        signal.raise_signal(signal.SIGINT)
        events.append("done")

    with pytest.raises(KeyboardInterrupt):
        run_to_end(action)
    assert events == ["done"]
    assert current(handlers) == handlers


def test_a_handler_of_the_program_is_called_once_after_the_action(events: list[str]) -> None:
    def action() -> None:
        signal.raise_signal(signal.SIGUSR1)
        signal.raise_signal(signal.SIGUSR1)
        events.append("done")

    run_to_end(action)
    assert events == ["done", "SIGUSR1"]


def test_every_signal_is_handled_even_where_a_handler_raises(
    events: list[str], handlers: dict[int, Any]
) -> None:
    def action() -> None:
        for signum in (signal.SIGUSR2, signal.SIGUSR1, signal.SIGINT):
            signal.raise_signal(signum)
        events.append("done")

    with pytest.raises(KeyboardInterrupt) as caught:
        run_to_end(action)
    assert events == ["done", "SIGUSR2", "SIGUSR1"]
    assert isinstance(caught.value.__context__, Interrupted)
    assert current(handlers) == handlers


def test_a_failing_action_puts_the_handlers_back_and_still_passes_signals_on(
    events: list[str], handlers: dict[int, Any]
) -> None:
    def action() -> None:
        signal.raise_signal(signal.SIGUSR1)
        raise RuntimeError("broken")

    with pytest.raises(RuntimeError, match="broken"):
        run_to_end(action)
    assert events == ["SIGUSR1"]
    assert current(handlers) == handlers


def test_one_run_within_another_waits_for_the_outer_one(events: list[str], handlers: dict[int, Any]) -> None:
    def inner() -> None:
        signal.raise_signal(signal.SIGUSR1)
        events.append("inner")

    def outer() -> None:
        run_to_end(inner)
        events.append("outer")

    run_to_end(outer)
    assert events == ["inner", "outer", "SIGUSR1"]
    assert current(handlers) == handlers


def test_an_event_loop_handles_a_signal_once_and_after_the_action(events: list[str]) -> None:
    def action() -> None:
        os.kill(os.getpid(), signal.SIGUSR1)
        events.append("done")

    async def load() -> None:
        loop = asyncio.get_running_loop()
        handled, second = asyncio.Event(), asyncio.Event()

        def handle() -> None:
            events.append("handled")
            (second if handled.is_set() else handled).set()

        loop.add_signal_handler(signal.SIGUSR1, handle)
        run_to_end(action)
        await handled.wait()
        with suppress(TimeoutError):
            await asyncio.wait_for(second.wait(), 0.05)
        loop.remove_signal_handler(signal.SIGUSR1)

    asyncio.run(load())
    assert events == ["done", "handled"]


def test_a_handler_that_an_earlier_one_took_away_is_not_called(
    events: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    raised: list[int] = []

    def take_away(_: int, __: FrameType | None) -> None:
        signal.signal(signal.SIGUSR1, signal.SIG_IGN)

    def action() -> None:
        for signum in (signal.SIGUSR2, signal.SIGUSR1):
            os.kill(os.getpid(), signum)

    signal.signal(signal.SIGUSR2, take_away)
    monkeypatch.setattr(signal, "raise_signal", raised.append)
    run_to_end(action)
    assert raised == [signal.SIGUSR1]
    assert events == []


def test_ignored_and_default_signals_are_left_alone() -> None:
    before = signal.signal(signal.SIGTERM, signal.SIG_IGN), signal.signal(signal.SIGHUP, signal.SIG_DFL)
    seen: list[Any] = []
    try:
        run_to_end(lambda: seen.extend(map(signal.getsignal, (signal.SIGTERM, signal.SIGHUP))))
    finally:
        signal.signal(signal.SIGTERM, before[0])
        signal.signal(signal.SIGHUP, before[1])
    assert seen == [signal.SIG_IGN, signal.SIG_DFL]


@pytest.mark.parametrize("arriving_at", range(1, 4))
def test_a_handler_that_raises_while_handlers_are_put_back_leaves_none_of_them_out(
    arriving_at: int, events: list[str], handlers: dict[int, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    put = signal.signal
    calls = 0

    def action() -> None:
        monkeypatch.setattr(signal, "signal", putting_back)

    def putting_back(signum: int, handler: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == arriving_at:
            signal.raise_signal(signal.SIGUSR2)
        return put(signum, handler)

    with pytest.raises(Interrupted):
        run_to_end(action)
    monkeypatch.undo()
    assert current(handlers) == handlers
    with pytest.raises(KeyboardInterrupt):
        signal.raise_signal(signal.SIGINT)
    signal.raise_signal(signal.SIGUSR1)
    assert events == ["SIGUSR2", "SIGUSR1"]


def test_in_another_thread_the_action_runs_and_handlers_stay(handlers: dict[int, Any]) -> None:
    seen: list[dict[int, Any]] = []
    thread = threading.Thread(target=run_to_end, args=(lambda: seen.append(current(handlers)),))
    thread.start()
    thread.join()
    assert seen == [handlers]


def test_a_signal_at_the_moment_the_handlers_are_put_back_leaves_none_replaced(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    put_back = signals._Latch.remove

    def interrupted(latch: signals._Latch) -> None:
        signal.raise_signal(signal.SIGINT)
        put_back(latch)

    monkeypatch.setattr(signals._Latch, "remove", interrupted)
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with pytest.raises(KeyboardInterrupt):
            run_to_end(lambda: None)
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    finally:
        signal.signal(signal.SIGINT, before)

import gc
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from cosemzoo.garbage import garbage_kept


@pytest.fixture(autouse=True)
def _collecting() -> Iterator[None]:
    yield
    gc.enable()


def test_cycles_are_looked_for_only_afterwards() -> None:
    with garbage_kept():
        assert not gc.isenabled()
    assert gc.isenabled()


def test_after_an_error_they_are_looked_for_again() -> None:
    with pytest.raises(ValueError, match="wrong"), garbage_kept():
        raise ValueError("wrong")
    assert gc.isenabled()


def test_who_has_switched_it_off_keeps_it_off() -> None:
    gc.disable()
    with garbage_kept(), garbage_kept():
        pass
    assert not gc.isenabled()


def test_threads_that_overlap_leave_it_as_it_was() -> None:
    first, second = garbage_kept(), garbage_kept()
    with ThreadPoolExecutor(1) as one, ThreadPoolExecutor(1) as another:
        one.submit(first.__enter__).result()
        another.submit(second.__enter__).result()
        one.submit(first.__exit__, None, None, None).result()
        assert not gc.isenabled()
        another.submit(second.__exit__, None, None, None).result()
    assert gc.isenabled()


def test_a_function_can_be_called_many_times_and_by_itself() -> None:
    @garbage_kept()
    def depth(n: int) -> int:
        assert not gc.isenabled()
        return 1 + depth(n - 1) if n else 0

    assert [depth(3), depth(3)] == [3, 3]
    assert gc.isenabled()

import ctypes
import threading

import pytest

from cosemzoo.loading import copying
from cosemzoo.loading.copying import move_bytes


@pytest.mark.parametrize("threads", [1, 2, 3, 100])
@pytest.mark.parametrize("piece", [1, 7, 64, 1000])
def test_every_byte_arrives_and_none_beside_it(
    piece: int, threads: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(copying, "_LEAST_PIECE_BYTES", piece)
    source = ctypes.create_string_buffer(bytes(i % 251 + 1 for i in range(600)), 600)
    target = ctypes.create_string_buffer(600)
    here, there = ctypes.addressof(target), ctypes.addressof(source)
    move_bytes([(here, there, 100), (here + 101, there + 101, 0), (here + 200, there + 300, 257)], threads)
    expected = bytearray(600)
    expected[:100], expected[200:457] = source.raw[:100], source.raw[300:557]
    assert target.raw == bytes(expected)


def test_without_more_threads_it_is_done_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", refuse)
    source, target = ctypes.create_string_buffer(b"moved", 5), ctypes.create_string_buffer(5)
    move_bytes([(ctypes.addressof(target), ctypes.addressof(source), 5)], 4)
    assert target.raw == b"moved"


def test_no_thread_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    before = threading.active_count()
    move_bytes([], 8)
    assert threading.active_count() == before

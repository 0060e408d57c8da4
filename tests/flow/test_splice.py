"""Pipes: they are emptied before they are used again, few are kept, and there may be none."""

from __future__ import annotations

import socket

import pytest

from interceptor.kernel import splice
from interceptor.kernel.splice import KEPT, Pipe, Pipes
from tests.support.flows import tcp_pair


def test_bytes_go_through_a_pipe_in_pieces() -> None:
    near, source = tcp_pair()
    sink, far = tcp_pair()
    with near, source, sink, far:
        near.sendall(b"hello")
        near.shutdown(socket.SHUT_WR)
        pipe = Pipe()
        assert (pipe.take_from(source.fileno()), len(pipe)) == (5, 5)
        assert (pipe.give_to(sink.fileno()), len(pipe)) == (5, 0)
        assert far.recv(10) == b"hello"
        assert pipe.take_from(source.fileno()) == 0
        pipe.close()


def test_an_empty_pipe_is_used_again_and_a_full_one_is_closed() -> None:
    near, source = tcp_pair()
    pipes = Pipes()
    with near, source:
        first = pipes.take()
        assert first is not None
        pipes.give_back(first)
        assert pipes.take() is first
        near.sendall(b"left over")
        assert first.take_from(source.fileno()) == 9
        pipes.give_back(first)
        with pytest.raises(OSError, match="Bad file descriptor"):
            first.close()
        several = [pipe for _ in range(KEPT + 2) if (pipe := pipes.take()) is not None]
        for pipe in several:
            pipes.give_back(pipe)
        assert len(pipes._idle) == KEPT
        pipes.close()
        assert pipes._idle == []


def test_where_the_kernel_refuses_the_size_there_is_no_pipe(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(splice, "CAPACITY", -1)
    assert Pipes().take() is None

"""The names of error codes."""

from __future__ import annotations

import pytest

from interceptor.protocol.http2.codes import PROTOCOL_ERROR, LegError, StreamError, error_name


@pytest.mark.parametrize(("code", "name"), [(0, "NO_ERROR"), (13, "HTTP_1_1_REQUIRED"), (0x1F, "error 0x1f")])
def test_a_code_has_a_name(code: int, name: str) -> None:
    assert error_name(code) == name


@pytest.mark.parametrize("kind", [LegError, StreamError])
def test_an_error_is_a_sentence_with_its_code(kind: type[LegError | StreamError]) -> None:
    error = kind(PROTOCOL_ERROR, "a frame too many")
    assert (str(error), error.code) == ("a frame too many (PROTOCOL_ERROR)", 1)

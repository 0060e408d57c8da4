"""The numbers of RFC 9113 (HTTP/2), RFC 8441 (extended CONNECT), and the errors that carry them."""

from __future__ import annotations

from typing import Final

from interceptor.errors import PeerError

PREFACE: Final = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"  # section 3.4

# Frame types, section 6.
DATA: Final = 0
HEADERS: Final = 1
PRIORITY: Final = 2
RST_STREAM: Final = 3
SETTINGS: Final = 4
PUSH_PROMISE: Final = 5
PING: Final = 6
GOAWAY: Final = 7
WINDOW_UPDATE: Final = 8
CONTINUATION: Final = 9

# Flags.
END_STREAM: Final = 0x1
ACK: Final = 0x1
END_HEADERS: Final = 0x4
PADDED: Final = 0x8
PRIORITIZED: Final = 0x20

# Error codes, section 7.
NO_ERROR: Final = 0x0
PROTOCOL_ERROR: Final = 0x1
INTERNAL_ERROR: Final = 0x2
FLOW_CONTROL_ERROR: Final = 0x3
STREAM_CLOSED: Final = 0x5
FRAME_SIZE_ERROR: Final = 0x6
REFUSED_STREAM: Final = 0x7
CANCEL: Final = 0x8
COMPRESSION_ERROR: Final = 0x9
ENHANCE_YOUR_CALM: Final = 0xB

ERROR_NAMES: Final = (
    *(
        "NO_ERROR",
        "PROTOCOL_ERROR",
        "INTERNAL_ERROR",
        "FLOW_CONTROL_ERROR",
        "SETTINGS_TIMEOUT",
        "STREAM_CLOSED",
    ),
    *(
        "FRAME_SIZE_ERROR",
        "REFUSED_STREAM",
        "CANCEL",
        "COMPRESSION_ERROR",
        "CONNECT_ERROR",
        "ENHANCE_YOUR_CALM",
    ),
    *("INADEQUATE_SECURITY", "HTTP_1_1_REQUIRED"),
)

# Settings, section 6.5.2, and RFC 8441 section 3.
HEADER_TABLE_SIZE: Final = 0x1
ENABLE_PUSH: Final = 0x2
MAX_CONCURRENT_STREAMS: Final = 0x3
INITIAL_WINDOW_SIZE: Final = 0x4
MAX_FRAME_SIZE: Final = 0x5
MAX_HEADER_LIST_SIZE: Final = 0x6
ENABLE_CONNECT_PROTOCOL: Final = 0x8

LARGEST: Final = (1 << 31) - 1  # of a window, of a stream id
DEFAULT_WINDOW: Final = 65_535
SMALLEST_MAX_FRAME: Final = 16_384
LARGEST_MAX_FRAME: Final = (1 << 24) - 1


def error_name(code: int) -> str:
    """The RFC's name of an error code."""
    return ERROR_NAMES[code] if code < len(ERROR_NAMES) else f"error {code:#x}"


class LegError(PeerError):
    """A fault of a peer's that ends its whole connection (section 5.4.1): a GOAWAY with this code."""

    def __init__(self, code: int, details: str) -> None:
        super().__init__(f"{details} ({error_name(code)})")
        self.code = code


class StreamError(PeerError):
    """A fault that ends one stream (section 5.4.2): a RST_STREAM with this code."""

    def __init__(self, code: int, details: str) -> None:
        super().__init__(f"{details} ({error_name(code)})")
        self.code = code

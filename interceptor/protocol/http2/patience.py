"""How much a peer may waste: two budgets that time and useful frames restore.

Against floods of PING, SETTINGS, PRIORITY, empty and unknown frames (CVE-2019-9512, 9515, 9513, 9518) and of streams
that are reset as soon as they are opened (CVE-2023-44487), or that the peer makes us reset (CVE-2025-8671).
"""

from __future__ import annotations

from typing import Final

from interceptor.protocol.http2.codes import ENHANCE_YOUR_CALM, LegError

# nghttp2's figures: its limits of glitches and of stream resets. Envoy's for one useful frame.
FRAMES: Final = 10_000
FRAMES_A_SECOND: Final = 330
FRAMES_FOR_ONE_USEFUL: Final = 10
RESETS: Final = 1000
RESETS_A_SECOND: Final = 33


class Patience:
    """What is left of it, for one connection."""

    __slots__ = ("_frames", "_resets", "_then", "now")

    def __init__(self, now: float) -> None:
        self._frames = float(FRAMES)
        self._resets = float(RESETS)
        self._then = now  # when time last restored some
        self.now = now  # set by the owner, with what it received then

    def useful(self) -> None:
        """A frame that opens a stream or carries some of a body."""
        if self._frames < FRAMES:
            self._frames += FRAMES_FOR_ONE_USEFUL

    def waste(self, cost: int = 1) -> None:
        """A frame that may be there for nothing; one that makes more work than usual costs more."""
        self._frames -= cost
        if self._frames < 0 and not self._wait_helps():
            raise LegError(ENHANCE_YOUR_CALM, "a flood of frames that ask for nothing")

    def reset(self) -> None:
        """A stream that came to nothing."""
        self._resets -= 1
        if self._resets < 0 and not self._wait_helps():
            raise LegError(ENHANCE_YOUR_CALM, "a flood of streams that are reset")

    def _wait_helps(self) -> bool:
        """Whether enough time has passed since it was last asked for; none of it is counted before it is needed."""
        passed = self.now - self._then
        self._then = self.now
        self._frames = min(FRAMES, self._frames + passed * FRAMES_A_SECOND)
        self._resets = min(RESETS, self._resets + passed * RESETS_A_SECOND)
        return self._frames >= 0 and self._resets >= 0

"""How long an opaque flow may last, whatever moves on it: the hub ends it then."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from interceptor.model.connection import Flow
    from interceptor.proxy.hub import Hub


class Lifetime:
    """Of one flow, from now on."""

    __slots__ = ("_flow", "_hub", "_setting", "slot")

    def __init__(self, hub: Hub, flow: Flow, seconds: float, setting: str) -> None:
        self._hub = hub
        self._flow = flow
        self._setting = setting
        self.slot = 0  # of the timer wheel
        hub.schedule(self, hub.now + seconds)

    def check_time(self, now: float) -> None:  # noqa: ARG002 (the timer wheel's; it is called once, when it is time)
        """End the flow."""
        self._hub.expire(self._flow, self._setting)

    def stop(self) -> None:
        """The flow is over."""
        self._hub.unschedule(self)

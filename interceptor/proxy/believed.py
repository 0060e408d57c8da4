"""Upstreams that are believed by their certificates, for as long as their connections are open.

Other authorities, revocations and expectations hold for connections that exist too: what is relayed as it is ends like
every flow that lost permission; a connection that carries requests is taken away from under them, and no other one begins on it.
"""

from __future__ import annotations

import contextlib
import socket
from typing import TYPE_CHECKING, NamedTuple
from weakref import WeakKeyDictionary

from interceptor.model.connection import ResponseFlag
from interceptor.tls import judgement

if TYPE_CHECKING:
    from collections.abc import Callable

    from interceptor.model.connection import Flow
    from interceptor.model.identity import Issued
    from interceptor.routing.destinations import Decision
    from interceptor.tls.certificates import Material
    from interceptor.tls.judgement import PeerCertificate, Refusal
    from interceptor.tls.rotation import Keeper
    from interceptor.tls.stream import TlsStream


class _Upstream(NamedTuple):
    flow: Flow  # that it was dialled for
    keeper: Keeper  # of the authorities that it is believed by
    presented: PeerCertificate


class Believed:
    """The upstreams of one proxy."""

    def __init__(self) -> None:
        self._open: WeakKeyDictionary[TlsStream, _Upstream] = WeakKeyDictionary()

    def note(self, stream: TlsStream, flow: Flow, keeper: Keeper, presented: PeerCertificate) -> None:
        """It proved who it is."""
        self._open[stream] = _Upstream(flow, keeper, presented)

    def judge_again(self, keeper: Keeper, before: Material) -> int:
        """End the connections to upstreams that the new trust bundle and revocation list do not accept; how many."""
        return self._end(
            lambda each: (
                refusal(each.presented, before, keeper.current.material) if each.keeper is keeper else None
            )
        )

    def expect_again(self, decide: Callable[[Flow], Decision]) -> int:
        """End those whose names are not what is expected now; how many. A route to another cluster is not looked at.

        The client's connection ends with it: what is decided by its beginning would expect the same as before.
        """

        def judge(each: _Upstream) -> Refusal | None:
            decision = decide(each.flow)
            if decision.tls is None or decision.cluster != each.flow.upstream_cluster:
                return None
            return judgement.judge_names(each.presented.names, decision.tls.expected)

        return self._end(judge, lasting=True)

    def _end(self, judge: Callable[[_Upstream], Refusal | None], *, lasting: bool = False) -> int:
        ended = 0
        for stream, each in tuple(self._open.items()):
            if stream.fileno() == -1 or (refused := judge(each)) is None:
                continue
            del self._open[stream]
            ended += 1
            flow = each.flow
            if flow.closed is None and flow.denied is None and (lasting or not flow.http):
                details = refused.sentence.replace("peer", "upstream")
                flow.denied, flow.flag, flow.details = refused.reason, ResponseFlag.DENY, details
            if flow.closed is not None or flow.http:
                with contextlib.suppress(OSError):
                    stream.sock.shutdown(socket.SHUT_RDWR)
        return ended


def refusal(presented: Issued | PeerCertificate, before: Material, now: Material) -> Refusal | None:
    """Whether a certificate that was good by one version of the files is no longer by another."""
    authorities = judgement.authorities(before.bundle), judgement.authorities(now.bundle)
    return judgement.judge_again(presented, *authorities, now.revoked)

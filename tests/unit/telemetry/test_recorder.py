from __future__ import annotations

import errno
from pathlib import Path

import trio

from interceptor.config.sidecar import Sidecar
from interceptor.policy.authorization import Shadow
from interceptor.telemetry.access_log import AccessLog
from interceptor.telemetry.metrics import Metrics
from interceptor.telemetry.recorder import Recorder
from tests.support.sample_flows import flow


async def test_a_flow_is_counted_at_both_ends_and_logged_at_its_end(tmp_path: Path) -> None:
    metrics = Metrics(Sidecar.model_validate({"metadata": {"name": "web"}}))
    path = tmp_path / "access.log"
    access_log = AccessLog(str(path), "json", metrics.access_log_dropped)
    recorder = Recorder(metrics, access_log)
    async with trio.open_nursery() as nursery:
        await nursery.start(access_log.run)
        recorded = flow()
        recorder.opened(recorded)
        assert b'interceptor_connections_active{direction="egress"} 1.0' in metrics.render()
        recorder.shadowed(recorded, [Shadow("AuthorizationPolicy shop/p", "deny", "denied")])
        assert b'interceptor_authorization_shadow_total{action="deny",direction="egress"' in metrics.render()
        recorder.closed(recorded)
        nursery.cancel_scope.cancel()
    assert b'interceptor_connections_active{direction="egress"} 0.0' in metrics.render()
    assert path.read_text().count("\n") == 1


def test_what_goes_wrong_beside_flows_is_counted() -> None:
    metrics = Metrics(Sidecar.model_validate({"metadata": {"name": "web"}}))
    recorder = Recorder(metrics, AccessLog("/dev/null", "json", metrics.access_log_dropped))
    recorder.accept_error(errno.EMFILE)
    recorder.internal_error()
    recorder.mirrored(sent=True)
    recorder.mirrored(sent=False)
    for result in ("sent", "dropped"):
        line = f'interceptor_mirrored_requests_total{{result="{result}"}} 1.0'
        assert line.encode() in metrics.render()
    assert b'interceptor_accept_errors_total{errno="EMFILE"} 1.0' in metrics.render()
    assert b"interceptor_internal_errors_total 1.0" in metrics.render()

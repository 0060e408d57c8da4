"""Secrets of a control plane in the credentials of a worker: what comes, what is named, and what is named no more."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from interceptor.config.configuration import Configuration
from interceptor.errors import ConfigError
from interceptor.model.identity import CertificateFiles
from interceptor.proxy.transport import Credentials
from interceptor.workers.message import Handover, Message, change
from tests.flow.test_worker_channel import both
from tests.support.documents import SIDECAR, configuration
from tests.support.identities import WEB, Root
from tests.support.until import until

SDS = f"{SIDECAR}spec: {{tls: {{sds: {{}}}}, discovery: {{xds: {{servers: [{{address: 'a:1'}}]}}}}}}\n"
OTHER = CertificateFiles("sds://other/tls.crt", "sds://other/tls.key", "sds://ROOTCA/ca.crt")


def rule(host: str, tls: str) -> str:
    head = "apiVersion: networking.istio.io/v1\nkind: DestinationRule\n"
    return f"{head}metadata: {{name: x{host[0]}}}\nspec: {{host: {host}, trafficPolicy: {{tls: {tls}}}}}\n"


def mutual(name: str) -> str:
    return (
        f"{{mode: MUTUAL, clientCertificate: 'sds://{name}/tls.crt', privateKey: 'sds://{name}/tls.key', "
        "caCertificates: 'sds://ROOTCA/ca.crt'}"
    )


def files(root: Root, *names: str) -> dict[str, bytes]:
    made = {"sds://ROOTCA/ca.crt": root.pair.certificate}
    for name in names:
        pair = root.issue()
        made |= {f"sds://{name}/tls.crt": pair.certificate, f"sds://{name}/tls.key": pair.key}
    return made


def test_the_workload_has_no_identity_until_its_secrets_come() -> None:
    credentials = Credentials(configuration(SDS), time.time)
    before = credentials.pending
    assert before == "spec.tls.sds: the control plane has not given sds://default/tls.crt"
    passed_on: list[object] = []
    credentials.secrets.pass_on = passed_on.append
    given = files(Root(), "default")
    credentials.give(given)
    assert [credentials.pending] == [None]
    assert credentials.workload is not None
    assert credentials.workload.current.material.identity == WEB
    assert passed_on == [given]
    assert Credentials(configuration(SIDECAR), time.time).pending is None


def test_certificates_that_a_new_configuration_names_are_read_and_those_of_the_one_before_stay() -> None:
    credentials = Credentials(configuration(SDS), time.time)
    first = configuration(SDS, rule("a.b", mutual("other")))
    credentials.admit(first)
    kept = credentials.others[OTHER]
    assert kept.refusal() is not None
    credentials.give(files(Root(), "default", "other"))
    assert kept.refusal() is None
    credentials.admit(configuration(SDS))
    assert credentials.others == {OTHER: kept}, "flows began by the one before"
    credentials.admit(configuration(SDS))
    assert credentials.others == {}


def test_files_that_cannot_be_used_are_refused_and_change_nothing(tmp_path: Path) -> None:
    credentials = Credentials(configuration(SDS), time.time)
    missing = f"{{mode: SIMPLE, caCertificates: {tmp_path}/none, sni: x}}"
    with pytest.raises(ConfigError, match="none: cannot be read"):
        credentials.admit(configuration(SDS, rule("a.b", mutual("other")), rule("c.d", missing)))
    assert credentials.others == {}


async def test_a_worker_takes_secrets_before_and_after_its_first_snapshot(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    root = Root()
    given = configuration(SDS)
    async with both(given, Message("secrets", files(root, "default"))) as made:
        credentials = made.worker.credentials
        assert credentials is not None
        assert credentials.pending is None

        def publish(after: Configuration) -> None:
            handover = Handover(change(made.worker.store.current.configuration, after), {}, {}, {})
            made.channel.post(Message("publish", handover))

        publish(configuration(SDS, rule("a.b", mutual("other"))))
        made.channel.post(Message("secrets", files(root, "default", "other")))
        await until(lambda: OTHER in credentials.others and credentials.others[OTHER].refusal() is None)
        publish(configuration(SDS, rule("c.d", f"{{mode: SIMPLE, caCertificates: {tmp_path}/none, sni: x}}")))
        await until(lambda: "upstreams that need new certificates are not spoken to" in caplog.text)

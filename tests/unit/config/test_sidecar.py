from __future__ import annotations

import pytest

from interceptor.config.base import Metadata
from interceptor.config.sidecar import Sidecar
from interceptor.model.address import SocketAddress
from interceptor.model.forwarding import Forwarding
from tests.support.documents import SIDECAR, configuration, problems, sidecar


def test_defaults_are_those_of_the_contract() -> None:
    made = Sidecar(metadata=Metadata(name="app"))
    assert made.own_ports == {15000, 15001, 15006, 15020, 15053}
    assert made.app_ports == frozenset()
    assert made.spec.admin.listen == SocketAddress("127.0.0.1", 15000)
    assert made.spec.telemetry.listen == SocketAddress("::", 15020)
    assert made.spec.egress.policy == "ALLOW_ANY"
    assert made.spec.workers == 1
    assert made.service_name == "app"
    assert list(made.faults()) == []
    assert made == sidecar()


def test_ports_and_names_follow_the_document() -> None:
    made = sidecar(
        "{serviceName: shop, ingress: {port: 1, ports: [{port: 80}]}, admin: {address: '[::1]:2'}}"
    )
    assert made.own_ports == {1, 2, 15001, 15020, 15053}
    assert made.app_ports == {80}
    assert made.service_name == "shop"


@pytest.mark.parametrize("workers", [1, 2, 256, "auto"])
def test_workers_are_a_number_or_one_for_each_processor(workers: int | str) -> None:
    assert sidecar(f"{{workers: {workers}}}").spec.workers == workers


@pytest.mark.parametrize(
    ("spec", "found"),
    [
        (
            "{admin: {address: '0.0.0.0:15000'}}",
            "spec.admin.address: '0.0.0.0:15000' can be reached from outside; the admin endpoint stays on loopback",
        ),
        ("{admin: {address: 'localhost:1'}}", "spec.admin.address: 'localhost' is not an IP address"),
        ("{telemetry: {address: '15020'}}", "spec.telemetry.address: '15020' is not an address with a port"),
        (
            "{egress: {port: 15006}}",
            "spec.egress.port: port 15006 is taken by spec.ingress.port; give every listener a port of its own",
        ),
        (
            "{admin: {address: '127.0.0.1:15020'}}",
            "spec.telemetry.address: port 15020 is taken by spec.admin.address",
        ),
        ("{ingress: {port: 15053}}", "spec.ingress.port: port 15053 is taken by spec.dns.port"),
        (
            "{ingress: {ports: [{port: 80}, {port: 15001}]}}",
            "spec.ingress.ports[1].port: port 15001 is taken by spec.egress.port; an app's port must be another one",
        ),
        (
            "{ingress: {ports: [{port: 80}, {port: 80}]}}",
            "spec.ingress.ports[1].port: port 80 is taken by spec.ingress.ports[0].port",
        ),
        (
            "{ingress: {ports: [{port: 80, protocol: mongo}]}}",
            "spec.ingress.ports[0].protocol: 'mongo' is not",
        ),
        ("{workers: 0}", "spec.workers: must be a number of processes from 1 to 256, or auto"),
        ("{workers: 257}", "spec.workers: must be a number of processes from 1 to 256, or auto"),
        ("{workers: true}", "spec.workers: must be a number of processes from 1 to 256, or auto"),
        ("{workers: many}", "spec.workers: must be a number of processes from 1 to 256, or auto"),
        (
            "{discovery: {push: {enabled: true}}}",
            (
                "spec.discovery.push.tokenFile: is required where pushes are enabled: the app could push as well; "
                "name a file that it cannot read"
            ),
        ),
        (
            "{discovery: {push: {enabled: true, remote: {address: '[::]:15010', subjectAltNames: [a]}}}}",
            "spec.discovery.push.remote.tls: is required where the Sidecar has no spec.tls",
        ),
        (
            (
                "{discovery: {push: {remote: {address: '[::]:15010', subjectAltNames: [a], "
                "tls: {certificate: a, privateKey: b, trustBundle: c}}}}}"
            ),
            "spec.discovery.push.remote: pushes are off; set spec.discovery.push.enabled to true",
        ),
        (
            (
                "{discovery: {push: {enabled: true, remote: {address: '[::]:15020', subjectAltNames: [a], "
                "tls: {certificate: a, privateKey: b, trustBundle: c}}}}}"
            ),
            "spec.discovery.push.remote.address: port 15020 is taken by spec.telemetry.address",
        ),
        ("{limits: {connections: 0}}", "spec.limits.connections: 0 is out of bounds; it must be at least 1"),
        ("{timeouts: {connect: 0s}}", "spec.timeouts.connect: 0s is out of bounds; it must be more than 0"),
        ("{accessLog: {path: ''}}", "spec.accessLog.path: must not be empty"),
    ],
)
def test_what_is_wrong_is_said_at_its_field(spec: str, found: str) -> None:
    [problem] = problems(f"{SIDECAR}spec: {spec}\n")
    assert problem.startswith(f"4: {found}")


def test_what_the_app_is_told_of_certificates_is_istios() -> None:
    spec = "{proxyHeaders: {forwardedClientCert: SANITIZE_SET, setCurrentClientCertDetails: {cert: true, dns: false}}}"
    told = configuration(f"{SIDECAR}spec: {spec}\n").sidecar.spec.proxyHeaders.forwarding
    assert told == ("SANITIZE_SET", (True, True, False, True))
    undefined = configuration(f"{SIDECAR}spec: {{proxyHeaders: {{forwardedClientCert: UNDEFINED}}}}\n")
    assert undefined.sidecar.spec.proxyHeaders.forwarding == Forwarding()
    found = problems(
        f"{SIDECAR}spec: {{proxyHeaders: {{setCurrentClientCertDetails: {{chain: true}}, server: {{}}}}}}\n"
    )
    assert {each.partition("spec.")[2].partition(":")[0] for each in found} == {
        "proxyHeaders.server",
        "proxyHeaders.setCurrentClientCertDetails.chain",
    }

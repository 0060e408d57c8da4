from __future__ import annotations

import pytest

from interceptor.model.connection import Direction
from interceptor.model.identity import SpiffeId
from interceptor.policy.policies import Policies, compiled
from tests.support.documents import configuration
from tests.support.policies import named, policy_text, security_text
from tests.support.sample_flows import OK, flow

SIDECAR = """
apiVersion: interceptor/v1
kind: Sidecar
metadata: {name: web, namespace: shop}
spec: {trustDomain: mesh.example, trustDomainAliases: [old.example], serviceAccount: web}
"""
STRICT = security_text("PeerAuthentication", "{mtls: {mode: STRICT}}")
TARGET = "{targetRefs: [{group: networking.istio.io, kind: ServiceEntry, name: bank}]}"


def made(*texts: str) -> Policies:
    return compiled(configuration(SIDECAR, *texts))


def test_each_direction_has_its_own_policies() -> None:
    policies = made(policy_text("{}"), policy_text(TARGET, named("bank")))
    assert policies.authorizer(Direction.INGRESS, None) is policies.ingress is not None
    assert policies.authorizer(Direction.EGRESS, "shop/bank") is policies.egress["shop/bank"]
    assert policies.authorizer(Direction.EGRESS, "shop/other") is None
    assert policies.authorizer(Direction.EGRESS, None) is None


def test_on_egress_the_source_is_the_app_itself() -> None:
    own = SpiffeId("mesh.example", "shop", "web")
    peer = SpiffeId("old.example", "a", "b")
    policies = made(STRICT)
    assert policies.identity == own
    assert policies.connection(flow(OK)).principal == own.principal
    ingress = flow(OK, direction=Direction.INGRESS, peer_identity=peer)
    assert policies.connection(ingress).principal == peer.principal
    assert policies.connection(ingress).port == "443"


@pytest.mark.parametrize(
    ("texts", "security", "refused"),
    [
        ((STRICT,), "none", True),
        ((STRICT,), "tls", True),
        ((STRICT,), "mutual_tls", False),
        ((), "none", False),
        ((STRICT.replace("STRICT", "DISABLE"),), "none", False),
    ],
)
def test_a_strict_port_refuses_what_is_not_mutual_tls(
    texts: tuple[str, ...], security: str, refused: bool
) -> None:
    found = made(*texts).refuses_plaintext(flow(OK, security=security))
    assert (found is not None) is refused
    if found:
        assert found[0] == "PeerAuthentication shop/p"
        assert "did not speak mutual TLS to port 443, and PeerAuthentication shop/p is STRICT" in found[1]

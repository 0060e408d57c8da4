from __future__ import annotations

from interceptor.model.connection import Direction, ResponseFlag
from interceptor.model.identity import SpiffeId
from interceptor.model.workload import Workload
from interceptor.telemetry.labels import MOST_IDENTITIES, Certifications, Certified, tcp_labels
from interceptor.telemetry.metrics import Metrics
from tests.support.documents import sidecar
from tests.support.sample_flows import flow

WEB = SpiffeId("cluster.local", "shop", "web")


def labels(direction: Direction, certified: Certified) -> dict[str, str]:
    return tcp_labels(sidecar(), direction, "db.shop", "shop", ResponseFlag.NONE, certified)


def test_the_principal_of_the_other_side_is_what_its_certificate_proved() -> None:
    into = labels(Direction.INGRESS, Certified("mutual_tls", WEB))
    assert into["source_principal"] == "spiffe://cluster.local/ns/shop/sa/web"
    assert into["source_workload_namespace"] == "shop"
    assert into["connection_security_policy"] == "mutual_tls"
    out = labels(Direction.EGRESS, Certified("mutual_tls", WEB))
    assert out["destination_principal"] == "spiffe://cluster.local/ns/shop/sa/web"
    assert out["connection_security_policy"] == "unknown"  # Istio's source reporter does not tell
    assert labels(Direction.INGRESS, Certified("none", None))["source_principal"] == "unknown"


def test_what_certificates_proved_is_read_for_either_direction() -> None:
    read = Certifications()
    ingress = flow(direction=Direction.INGRESS, peer_identity=WEB, security="mutual_tls")
    assert read(ingress) == Certified("mutual_tls", WEB)
    assert read(flow(upstream_identity=WEB, security="mutual_tls")) == Certified("mutual_tls", WEB)
    assert read(flow()) == Certified("none", None)


def test_an_authority_without_end_makes_no_series_without_end() -> None:
    read = Certifications()
    peers = [SpiffeId("cluster.local", "shop", f"web-{number}") for number in range(MOST_IDENTITIES + 10)]
    seen = {read(flow(direction=Direction.INGRESS, peer_identity=peer)).other for peer in peers}
    assert len(seen) == MOST_IDENTITIES + 1
    assert read(flow(direction=Direction.INGRESS, peer_identity=peers[0])).other == peers[0]


def test_what_the_other_side_says_of_itself_is_told_as_far_as_no_certificate_says_otherwise() -> None:
    said = Workload("front", "other", "web", "v2", "storefront", "r2", "east")
    into = labels(Direction.INGRESS, Certified("mutual_tls", WEB, said))
    assert {name: into[f"source_{name}"] for name in said._fields} == said._asdict() | {
        "workload_namespace": "shop"
    }
    assert into["destination_workload"] == "app"
    out = labels(Direction.EGRESS, Certified("mutual_tls", None, said))
    assert {name: out[f"destination_{name}"] for name in said._fields} == said._asdict()


def test_peers_that_say_ever_new_names_make_no_series_without_end() -> None:
    read = Certifications()
    one = flow(direction=Direction.INGRESS, peer_identity=WEB, security="mutual_tls")
    seen = {read(one, Workload(str(number))).workload for number in range(MOST_IDENTITIES + 10)}
    assert len(seen) == MOST_IDENTITIES + 1
    assert read(one, Workload("0")).workload == Workload("0")


def test_the_expiry_of_each_file_is_a_gauge() -> None:
    metrics = Metrics(sidecar())
    metrics.certificate_expiry({"/tls.crt": 12.5, "/ca.crt": -1.0})
    found = {
        sample.labels["file"]: sample.value
        for family in metrics.collect()
        for sample in family.samples
        if sample.name == "interceptor_certificate_expiry_seconds"
    }
    assert found == {"/tls.crt": 12.5, "/ca.crt": -1.0}

"""A configuration as plain data answers as its models do, and brings none of their code."""

from __future__ import annotations

import pickle
import subprocess
import sys

import pytest

from interceptor.config.plain import plain
from interceptor.model.address import OriginalDestination, SocketAddress
from interceptor.state.snapshot import take
from tests.support.documents import SIDECAR, configuration, service_entry_text

WHOLE = configuration(
    f"{SIDECAR}spec: {{ingress: {{ports: [{{port: 8080}}]}}, egress: {{policy: REGISTRY_ONLY}}}}",
    service_entry_text(
        "{hosts: [a.example], addresses: [10.1.0.0/16], ports: [{number: 443, name: x}], exportTo: ['.']}"
    ),
)


def test_it_decides_and_dumps_as_the_models_do() -> None:
    models, data = take(WHOLE), take(pickle.loads(pickle.dumps(plain(WHOLE))))
    assert data.version == models.version
    assert data.dump() == models.dump()
    for port in (443, 8080, 15006, 9):
        to = OriginalDestination(SocketAddress("10.1.2.3", port))
        assert data.egress(to) == models.egress(to)
        assert data.ingress(to) == models.ingress(to)


def test_properties_are_there_and_nothing_can_be_set() -> None:
    sidecar = plain(WHOLE).sidecar
    assert sidecar.own_ports == WHOLE.sidecar.own_ports
    assert sidecar.spec.admin.listen == ("127.0.0.1", 15000, 0)
    with pytest.raises(AttributeError, match="never changes"):
        sidecar.spec.limits.connections = 1


def test_reading_it_needs_no_models() -> None:
    code = "import pickle, sys; pickle.load(sys.stdin.buffer); sys.exit('pydantic' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], input=pickle.dumps(plain(WHOLE)), check=True)


def test_a_default_is_one_object_in_all_documents() -> None:
    routes = """
    apiVersion: networking.istio.io/v1
    kind: VirtualService
    metadata: {name: NAME}
    spec: {hosts: [NAME.example], http: [{route: [{destination: {host: NAME.example}}]}]}
    """
    made = plain(configuration(*(routes.replace("NAME", name) for name in ("a", "b"))))
    one, other = (each.spec.http[0].route[0] for each in made.virtual_services)
    assert one.headers is other.headers
    assert one.destination is not other.destination

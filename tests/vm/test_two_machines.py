"""Gateway and client on hosts of their own, one link apart: the client is the witness."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from tests.support import stage
from tests.support.machine import COMMAND_SECONDS, LINKS, Machine, wait_for

pytestmark = pytest.mark.vm

GATEWAY, CLIENT = LINKS["gateway"], LINKS["client"]
BY_THE_PROXY = {f"app was called by {GATEWAY.v4}", f"app was called by {GATEWAY.v6}"}

WATCH = f"""
    systemctl stop watch 2> /dev/null || true
    rm -f /tmp/seen
    cat > /tmp/watch <<'EOF'
while :; do
    for host in {GATEWAY.v4} [{GATEWAY.v6}]; do
        answer=$(curl -fsS --max-time 2 http://$host:8080/ 2> /dev/null) || answer="none, status $?"
        echo "$answer" >> /tmp/seen
    done
done
EOF
    systemd-run --quiet --unit=watch sh /tmp/watch
"""


@contextmanager
def watched(client: Machine) -> Iterator[None]:
    """While inside, the client calls the app again and again; what it got is checked at the end.

    No answer may ever have come past the proxy; some calls must have failed, also by its own refusal (503), and the last
    were answered.
    """
    client.run(WATCH)
    wait_for(lambda: seen(client)[-1:] != [], COMMAND_SECONDS, "the client did not call")
    yield
    wait_for(
        lambda: set(seen(client)[-6:]) == BY_THE_PROXY,
        COMMAND_SECONDS,
        "the app was not reached again, in both families,",
    )
    client.run("systemctl stop watch")
    answers = {line for line in seen(client) if not line.startswith("none")}
    assert answers == BY_THE_PROXY
    assert any(line.startswith("none") for line in seen(client))


def seen(client: Machine) -> list[str]:
    return client.run("cat /tmp/seen 2> /dev/null || true").stdout.splitlines()


@pytest.mark.parametrize("family", [4, 6])
def test_the_clients_address_and_what_it_dialled_are_known(
    client: Machine, app: Machine, family: int
) -> None:
    before = len(stage.flows(app))
    assert stage.curl(client, GATEWAY.address(family), 8080) == f"app was called by {GATEWAY.address(family)}"
    assert (
        stage.curl(app, CLIENT.address(family), 80, user="www-data")
        == f"outside was called by {GATEWAY.address(family)}"
    )
    wait_for(lambda: len(stage.flows(app)) >= before + 2, 60, "the access log did not get two lines")
    ingress, egress = stage.flows(app)[before:]
    assert (ingress["direction"], egress["direction"]) == ("ingress", "egress")
    assert host_of(ingress["peer"]) == CLIENT.address(family)
    assert (host_of(ingress["original_dst"]), ingress["original_dst"][-5:]) == (
        GATEWAY.address(family),
        ":8080",
    )
    assert (host_of(egress["original_dst"]), egress["original_dst"][-3:]) == (CLIENT.address(family), ":80")


def host_of(address: str) -> str:
    return address.rpartition(":")[0].strip("[]")


def test_without_the_proxy_everything_is_refused(client: Machine, app: Machine) -> None:
    app.run("systemctl stop interceptor")
    for family in (4, 6):
        assert stage.curl(client, GATEWAY.address(family), 8080) == stage.REFUSED
        assert stage.curl(app, CLIENT.address(family), 80, user="www-data") == stage.REFUSED
    app.run("systemctl start interceptor")
    assert stage.curl(client, GATEWAY.v4, 8080) in BY_THE_PROXY
    assert stage.curl(app, CLIENT.v4, 80, user="www-data").startswith("outside was called by ")


def test_nothing_gets_past_a_proxy_that_restarts(client: Machine, app: Machine) -> None:
    with watched(client):
        app.run("systemctl restart interceptor")
        killed = app.run("systemctl show -P MainPID interceptor").stdout
        app.run("systemctl kill --signal=KILL --kill-whom=main interceptor")
        wait_for(
            lambda: app.run("systemctl show -P MainPID interceptor").stdout not in {killed, "0\n"},
            COMMAND_SECONDS,
            "the proxy was not restarted",
        )


def test_nothing_gets_past_the_gateway_while_it_reboots(client: Machine, app: Machine) -> None:
    app.run("systemctl enable -q app interceptor")
    with watched(client):
        app.reboot()
    order = "systemctl show -P ActiveEnterTimestampMonotonic interceptor-rules systemd-networkd"
    rules, network = app.run(order).stdout.split()
    assert int(rules) < int(network)
    app.run("systemctl disable -q app interceptor")


def test_what_docs_vm_md_shows_works(client: Machine, gateway: Machine) -> None:
    gateway.run("systemctl start interceptor && systemd-run --quiet --unit=web python3 -m http.server 8080")
    try:
        gateway.run("until ss -Hltn sport = 8080 | grep -q .; do sleep 0.2; done")
        assert "Directory listing" in client.run(f"curl -s http://{GATEWAY.v4}:8080/").stdout
        said = "journalctl -u interceptor -n 1 -o cat --no-pager"
        wait_for(
            lambda: f'"peer":"{CLIENT.v4}:' in gateway.run(said).stdout, 30, "the access log had no line"
        )
    finally:
        gateway.run("systemctl stop web interceptor")


TPROXY = """
import socket
listener = socket.create_server(("0.0.0.0", 8081))
listener.setsockopt(socket.SOL_IP, 19, 1)  # IP_TRANSPARENT, include/uapi/linux/in.h
connection, peer = listener.accept()
print(peer[0], *connection.getsockname())
"""


def test_tproxy_keeps_both_addresses_across_the_link(client: Machine, gateway: Machine) -> None:
    """A kernel check for --mode tproxy: a connection to an address that is nowhere is taken over as it is."""
    client.run(f"ip route replace 198.51.100.7 via {GATEWAY.v4}")
    gateway.run(f"""
        cat > /tmp/tproxy.py <<'EOF'
{TPROXY}EOF
        iptables-legacy -t mangle -A PREROUTING -p tcp --dport 81 -j TPROXY --on-port 8081 --tproxy-mark 1
        ip rule add fwmark 1 lookup 100
        ip route add local 0.0.0.0/0 dev lo table 100
    """)
    try:
        server = gateway.run(
            "systemd-run --quiet --unit=tproxy -p RemainAfterExit=yes python3 /tmp/tproxy.py"
        )
        assert server.returncode == 0
        gateway.run("until ss -Hltn sport = 8081 | grep -q .; do sleep 0.2; done")
        client.run("python3 -c 'import socket; socket.create_connection((\"198.51.100.7\", 81), timeout=20)'")
        said = "journalctl -u tproxy -o cat --no-pager"
        wait_for(lambda: "198" in gateway.run(said).stdout, 30, "the transparent listener did not accept")
        assert f"{CLIENT.v4} 198.51.100.7 81" in gateway.run(said).stdout
    finally:
        gateway.run("""
            systemctl stop tproxy || true
            iptables-legacy -t mangle -D PREROUTING -p tcp --dport 81 -j TPROXY --on-port 8081 --tproxy-mark 1
            ip rule del fwmark 1 lookup 100
            ip route flush table 100
        """)
        client.run("ip route del 198.51.100.7")


# struct tls12_crypto_info_aes_gcm_128, include/uapi/linux/tls.h: version, cipher, iv, key, salt, record number
KTLS = """
import socket, struct, sys
TCP_ULP, SOL_TLS, TLS_TX, TLS_RX = 31, 282, 1, 2
secret = struct.pack("HH8s16s4s8s", 0x0303, 51, b"i" * 8, b"k" * 16, b"s" * 4, bytes(8))
def kernel_tls(sock, direction):
    sock.setsockopt(socket.SOL_TCP, TCP_ULP, b"tls")
    sock.setsockopt(SOL_TLS, direction, secret)
    return sock
if sys.argv[1] == "receive":
    connection, _ = socket.create_server(("0.0.0.0", 8082)).accept()
    kernel_tls(connection, TLS_RX)
    connection.sendall(b"go")
    data = b""
    while chunk := connection.recv(65536):
        data += chunk
    print("received", len(data), data == b"x" * 100000)
else:
    connection = socket.create_connection((sys.argv[1], 8082), timeout=60)
    connection.recv(2)
    kernel_tls(connection, TLS_TX).sendall(b"x" * 100000)
"""


def test_kernel_tls_across_the_link(client: Machine, gateway: Machine) -> None:
    for machine in (client, gateway):
        machine.run(f"modprobe tls; cat > /tmp/ktls.py <<'EOF'\n{KTLS}EOF")
    receiver = subprocess.Popen(gateway.shell(), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert receiver.stdin is not None
    receiver.stdin.write("python3 /tmp/ktls.py receive")
    receiver.stdin.close()
    gateway.run("until ss -Hltn sport = 8082 | grep -q .; do sleep 0.2; done")
    client.run(f"python3 /tmp/ktls.py {GATEWAY.v4}")
    assert receiver.stdout is not None
    with receiver.stdout as out:
        assert out.read() == "received 100000 True\n"
    assert receiver.wait(30) == 0

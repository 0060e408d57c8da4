"""What stands on the machines in a test: servers that tell who called them, the app's unit, looking at its state."""

from __future__ import annotations

import json

from tests.support.machine import COMMAND_SECONDS, Machine, wait_for


def server(name: str, port: int, prefix: str = "") -> str:
    """A shell script that installs ``name.service``: nginx, answering with who called it.

    What the app says is how a test knows the way a call took: it names the gateway's own address when the call came
    by the proxy, and the peer's when it did not.
    """
    return f"""
        mkdir -p /etc/{name}
        cat > /etc/{name}/nginx.conf <<'EOF'
pid /run/{name}.pid;
error_log stderr;
events {{}}
http {{
    access_log off;
    server {{ listen {port}; listen [::]:{port}; location / {{ return 200 "{name} was called by $remote_addr\\n"; }} }}
}}
EOF
        cat > /etc/systemd/system/{name}.service <<'EOF'
[Service]
ExecStart={prefix}/usr/sbin/nginx -c /etc/{name}/nginx.conf -g 'daemon off;'
[Install]
WantedBy=multi-user.target
EOF
        systemctl daemon-reload
    """


BEHIND = """
    mkdir -p /etc/systemd/system/app.service.d
    cp /vagrant/vagrant/systemd/behind-interceptor.conf /etc/systemd/system/app.service.d/
"""
APP = BEHIND + server("app", 8080)


def state(machine: Machine, unit: str) -> str:
    """A unit's state as systemd calls it."""
    return machine.run(f"systemctl is-active {unit}", check=False).stdout.strip()


def stop(gateway: Machine) -> None:
    """Stop app and proxy; nobody needs the rules then, and systemd stops their unit by itself."""
    gateway.run("systemctl stop app interceptor")
    wait_for(
        lambda: state(gateway, "interceptor-rules") == "inactive",
        COMMAND_SECONDS,
        "the rules' unit did not stop",
    )


def curl(machine: Machine, host: str, port: int, *, user: str = "root") -> str:
    """What a server answers, or curl's exit status in words: ``7`` refused."""
    bracketed = f"[{host}]" if ":" in host else host
    command = f"setpriv --reuid={user} --clear-groups curl -sS --max-time 20 http://{bracketed}:{port}/"
    result = machine.run(command, check=False)
    return result.stdout.strip() if result.returncode == 0 else f"curl failed with status {result.returncode}"


REFUSED = "curl failed with status 7"


def flows(gateway: Machine) -> list[dict[str, str]]:
    """The access log since the machine came up."""
    lines = gateway.run("journalctl -u interceptor -o cat --no-pager").stdout.splitlines()
    return [json.loads(line) for line in lines if line.startswith("{")]

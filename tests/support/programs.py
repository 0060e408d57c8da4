"""Stock servers for tests, each started in a namespace on its own address and ended with the stack it was given."""

from __future__ import annotations

import shutil
import subprocess
import sys
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from tests.support.identities import Root
from tests.support.netns import Namespace
from tests.support.processes import DEADLINE_SECONDS, ROOT

POSTGRES = max(Path("/usr/lib/postgresql").glob("*/bin"), default=Path("/nonexistent"))
NGINX = """\
daemon off; master_process off; pid {home}/nginx.pid; error_log stderr;
events {{}}
http {{
  access_log off; client_body_temp_path {home}/b; proxy_temp_path {home}/p; fastcgi_temp_path {home}/f;
  uwsgi_temp_path {home}/u; scgi_temp_path {home}/s; client_max_body_size 0; keepalive_requests 100000; sendfile on;
  server {{
    listen {host}:{port}; listen 127.0.0.1:{port};
    location / {{ return 200 "$server_protocol $request_uri\\n"; }}
    location /files/ {{ alias {home}/files/; dav_methods PUT; create_full_put_path on; }}
    location /none {{ return 204; }}
    location /cached {{ return 304; }}
  }}
}}
"""
SSHD = """\
ListenAddress {host}:{port}
HostKey {home}/host
AuthorizedKeysFile {home}/key.pub
PermitRootLogin prohibit-password
UsePAM no
StrictModes no
PidFile none
Subsystem sftp internal-sftp
"""


@dataclass
class Programs:
    """Starts servers in one namespace; their files are in one directory."""

    where: Namespace
    directory: Path
    stack: ExitStack

    def home(self, name: str) -> Path:
        """A directory of one program's own."""
        made = self.directory / f"{name}-{self.where.name}"
        made.mkdir()
        return made

    def start(self, *argv: str, user: str | None = None) -> None:
        """Run a server until the stack ends it."""
        who = ("setpriv", f"--reuid={user}", f"--regid={user}", "--clear-groups") if user else ()
        quiet = subprocess.DEVNULL
        process = self.where.popen(*who, *argv, stdin=quiet, stdout=quiet, stderr=quiet, cwd=ROOT)
        self.stack.callback(process.wait, DEADLINE_SECONDS)
        self.stack.callback(process.terminate)

    def nginx(self, port: int, sparse: int) -> None:
        """nginx with a file that is large and takes no room."""
        home = self.home("nginx")
        (home / "files").mkdir()
        with (home / "files" / "large").open("wb") as large:
            large.truncate(sparse)
        (home / "nginx.conf").write_text(NGINX.format(home=home, host=self.where.v4, port=port))
        self.start("nginx", "-e", "stderr", "-p", str(home), "-c", "nginx.conf")

    def redis(self, port: int) -> None:
        """Redis that stores nothing."""
        options = ("--bind", self.where.v4, "--port", str(port), "--save", "", "--protected-mode", "no")
        self.start("redis-server", *options, "--dir", str(self.home("redis")))

    def postgres(self, port: int, data: Path) -> None:
        """PostgreSQL over an initialised directory, with TLS for those who ask."""
        settings = {
            "listen_addresses": self.where.v4,
            "port": port,
            "unix_socket_directories": data,
            "fsync": "off",
            "ssl": "on",
        }
        options = [word for name, value in settings.items() for word in ("-c", f"{name}={value}")]
        self.start(str(POSTGRES / "postgres"), "-D", str(data), *options, user="postgres")

    def sshd(self, port: int, keys: Path) -> None:
        """OpenSSH that believes one key."""
        config = self.home("sshd") / "config"
        config.write_text(SSHD.format(home=keys, host=self.where.v4, port=port))
        Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)
        self.start("/usr/sbin/sshd", "-D", "-e", "-f", str(config))

    def hypercorn(self, port: int, application: str) -> None:
        """Hypercorn on trio."""
        bind = f"{self.where.v4}:{port}"
        self.start(
            sys.executable,
            "-m",
            "hypercorn",
            "--worker-class",
            "trio",
            "--bind",
            bind,
            "--workers",
            "0",
            application,
        )


def database(directory: Path) -> Path:
    """A new directory of PostgreSQL's, with a certificate."""
    data = directory / "postgres"
    data.mkdir(mode=0o700)
    shutil.chown(data, "postgres", "postgres")
    argv = ("-D", str(data), "-A", "trust", "--no-sync", "-E", "UTF8", "--locale=C", "--no-instructions")
    who = ("setpriv", "--reuid=postgres", "--regid=postgres", "--clear-groups")
    subprocess.run([*who, str(POSTGRES / "initdb"), *argv], check=True, capture_output=True, cwd="/")
    with (data / "pg_hba.conf").open("a") as rules:
        rules.write("host all all 10.9.0.0/24 trust\n")
    issued = Root().issue(dns_names=("database.test",))
    for name, text in (("server.crt", issued.certificate), ("server.key", issued.key)):
        (data / name).write_bytes(text)
        (data / name).chmod(0o600)
        shutil.chown(data / name, "postgres", "postgres")
    return data


def copied(data: Path, name: str) -> Path:
    """The same, once more: copying is faster than making."""
    made = data.with_name(name)
    subprocess.run(["cp", "-a", str(data), str(made)], check=True)
    return made


def ssh_keys(directory: Path) -> Path:
    """A directory with a server's key and a client's."""
    home = directory / "keys"
    home.mkdir()
    for name in ("host", "key"):
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(home / name)], check=True)
    return home

"""Keys of RequestAuthentications that stand elsewhere: files that change, and servers that answer, or do not."""

from __future__ import annotations

import json
import logging
import ssl
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest

from interceptor.discovery import keys
from interceptor.discovery.keys import FetchError, fetch
from interceptor.model.identity import CertificateFiles
from tests.flow.test_live import Bed, watching
from tests.support.documents import SIDECAR
from tests.support.identities import WEB, Root, write
from tests.support.policies import security_text
from tests.support.tokens import jwk, jwks
from tests.support.until import until


class Issuer:
    """A server of keys, which can be made to answer anything."""

    def __init__(self, files: CertificateFiles | None = None) -> None:
        self.status, self.body, self.location = 200, jwks().encode(), ""
        self.delay = 0.0
        self.asked = 0
        issuer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                issuer.asked += 1
                self.send_response(issuer.status)
                if issuer.location:
                    self.send_header("Location", issuer.location)
                self.end_headers()
                try:
                    for at in range(0, len(issuer.body), 1 << 16):
                        self.wfile.write(issuer.body[at : at + (1 << 16)])
                except OSError:
                    pass

            def log_message(self, *_: object) -> None: ...

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        scheme = "http"
        if files is not None:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            assert files.certificate is not None
            context.load_cert_chain(files.certificate, files.private_key)
            self.server.socket = context.wrap_socket(self.server.socket, server_side=True)
            scheme = "https"
        self.url = f"{scheme}://127.0.0.1:{self.server.server_port}/keys"
        self.thread = Thread(target=self.server.serve_forever, args=(0.01,))
        self.thread.start()

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()
        self.thread.join()


@pytest.fixture
def issuer() -> Iterator[Issuer]:
    made = Issuer()
    yield made
    made.close()


@pytest.fixture(autouse=True)
def _at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("REFRESH", "FIRST_RETRY", "LAST_RETRY", "LOOK"):
        monkeypatch.setattr(keys, name, 0.05)


def written(file: Path, uri: str) -> Path:
    rules = json.dumps({"jwtRules": [{"issuer": "i", "jwksUri": uri, "timeout": "2s"}]})
    file.write_text(SIDECAR + "---\n" + security_text("RequestAuthentication", rules))
    return file


def in_force(bed: Bed) -> str | None:
    """The keys of the one issuer."""
    [document] = bed.adopted[-1].request_authentications
    return document.spec.jwtRules[0].jwks


OTHER = jwks(jwk("RSA"))


async def test_keys_are_fetched_and_followed(tmp_path: Path, issuer: Issuer) -> None:
    async with watching(written(tmp_path / "f.yaml", issuer.url)) as bed:
        await until(lambda: bool(bed.adopted))
        assert in_force(bed) == jwks()
        issuer.body = OTHER.encode()
        await until(lambda: in_force(bed) == OTHER)
        changes = len(bed.adopted)
        asked = issuer.asked
        await until(lambda: issuer.asked > asked + 2)
        assert len(bed.adopted) == changes  # the same again is no change
        await bed.live.push("application/yaml", b"", None)
        assert in_force(bed) == OTHER  # whatever else changes


async def test_keys_that_cannot_be_had_are_said_once_and_what_is_there_stays(
    tmp_path: Path, issuer: Issuer, caplog: pytest.LogCaptureFixture
) -> None:
    issuer.status = 500
    async with watching(written(tmp_path / "f.yaml", issuer.url)) as bed:
        with caplog.at_level(logging.WARNING):
            await until(lambda: issuer.asked > 3)
            assert bed.adopted == []
            issuer.status = 200
            await until(lambda: bool(bed.adopted))
            issuer.body = b'{"keys": []}'
            asked = issuer.asked
            await until(lambda: issuer.asked > asked + 3)
            issuer.body = OTHER.encode()
            await until(lambda: in_force(bed) == OTHER)
        assert bed.live.rejected is None
    first, second = caplog.messages
    assert first == (
        f"the keys of {issuer.url} cannot be had: the answer was 500; no token of their issuer holds until they come"
    )
    assert "holds no key" in second
    assert second.endswith("those from before stay in force")


async def test_a_file_of_keys_is_followed_and_one_that_is_broken_changes_nothing(tmp_path: Path) -> None:
    file = tmp_path / "keys" / "keys.json"
    file.parent.mkdir()
    file.write_text(jwks())
    async with watching(written(tmp_path / "f.yaml", f"file://{file}")) as bed:
        await until(lambda: bool(bed.adopted))
        file.write_text(OTHER)
        await until(lambda: in_force(bed) == OTHER)
        file.write_text("{")
        await until(lambda: bed.live.rejected is not None)
        assert "jwksUri: is not a JSON Web Key Set" in str(bed.live.rejected)
        assert in_force(bed) == OTHER
        file.write_text(jwks())
        await until(lambda: in_force(bed) == jwks())
        assert bed.live.rejected is None


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        ({"status": 404}, "the answer was 404"),
        ({"body": b"\xff"}, "the answer is no text"),
        ({"body": b"x" * (keys.MOST_BYTES + 1)}, "has more than 1048576 bytes"),
        ({"status": 302, "location": "file:///etc/passwd"}, "the answer was 302"),
        ({"status": 302, "location": "ftp://127.0.0.1/keys"}, "the answer was 302"),
    ],
)
def test_what_is_no_good_answer_is_said(issuer: Issuer, answer: dict[str, object], said: str) -> None:
    for name, value in answer.items():
        setattr(issuer, name, value)
    with pytest.raises(FetchError, match=said):
        fetch(issuer.url, 5, time.monotonic)


def test_where_nobody_answers_is_said_and_in_time(issuer: Issuer) -> None:
    ticks = iter(range(100))
    with pytest.raises(FetchError, match=r"took longer than 0\.5 s"):
        fetch(issuer.url, 0.5, lambda: float(next(ticks)))
    with pytest.raises(FetchError, match="Connection refused"):
        fetch("http://127.0.0.1:1/keys", 1, time.monotonic)


def test_a_certificate_that_nobody_vouches_for_is_refused(tmp_path: Path) -> None:
    root = Root()
    issuer = Issuer(write(tmp_path, root.issue(WEB), root))
    try:
        with pytest.raises(FetchError, match="CERTIFICATE_VERIFY_FAILED"):
            fetch(issuer.url, 5, time.monotonic)
    finally:
        issuer.close()

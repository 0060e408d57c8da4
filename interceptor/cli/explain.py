"""``interceptor explain``: asks the files or the running proxy why it decides as it does; prints the answer."""

from __future__ import annotations

import http.client
import json
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlencode

from interceptor.config.addresses import socket_address
from interceptor.errors import ConfigError, PeerError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from typing import Literal

SECONDS: Final = 10.0  # for the admin endpoint of this machine


def from_files(files: Sequence[str], given: Mapping[str, Sequence[str]]) -> Mapping[str, object]:
    """What the configuration in some files decides."""
    from interceptor.discovery import file  # noqa: PLC0415 (--help starts without them)
    from interceptor.state.explain import answer  # noqa: PLC0415
    from interceptor.state.snapshot import take  # noqa: PLC0415

    return answer(take(file.load(files)), given).as_mapping()


def from_proxy(admin: str, given: Mapping[str, Sequence[str]]) -> Mapping[str, object]:
    """What the running proxy decides."""
    query = urlencode({name: "\n".join(values) for name, values in given.items()})
    found = fetch(admin, f"/explain?{query}")
    assert isinstance(found, dict)
    return found


def rendered(found: Mapping[str, object], output: Literal["text", "json"]) -> str:
    """An answer for a terminal, or for a program, which needs no sentences."""
    text = found["text"]
    assert isinstance(text, list)
    if output == "text":
        return "\n".join(text)
    return json.dumps({name: value for name, value in found.items() if name != "text"}, indent=2)


def plaintext_peers(admin: str) -> list[dict[str, Any]]:
    """By port of the app, which peers the running proxy saw without mutual TLS."""
    found = fetch(admin, "/explain?readiness")
    assert isinstance(found, list)
    return found


def readiness(ports: Sequence[Mapping[str, Any]], output: Literal["text", "json"]) -> str:
    """The same for a terminal, or for a program."""
    if output == "json":
        return json.dumps(ports, indent=2)
    lines = []
    for each in ports:
        lines.append(f"port {each['port']}: {each['connections']} connections without mutual TLS")
        lines += [f"  {peer}: {count}" for peer, count in each["peers"].items()]
    return "\n".join(lines) or "no peer connected without mutual TLS since the proxy started"


def fetch(admin: str, path: str) -> object:
    """The JSON that an admin endpoint answers with. Raises PeerError, or ConfigError where it does not like the question."""
    try:
        address = socket_address(admin)
    except ValueError as error:
        raise ConfigError(f"--admin: {error}") from None
    connection = http.client.HTTPConnection(address.host, address.port, timeout=SECONDS)
    try:
        connection.request("GET", path)
        response = connection.getresponse()
        body = response.read()
    except (OSError, http.client.HTTPException) as error:
        raise PeerError(
            f"the admin endpoint at {admin} does not answer ({error}); is the proxy running here? "
            "Ask in its network namespace, name its address with --admin, or ask files with --config"
        ) from error
    finally:
        connection.close()
    if response.status == http.client.BAD_REQUEST:
        raise ConfigError(*body.decode().splitlines())
    if response.status != http.client.OK:
        raise PeerError(f"the admin endpoint at {admin} answered {response.status}: {body.decode().strip()}")
    return json.loads(body)

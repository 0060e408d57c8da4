"""What ``apply`` tells the proxy: where the rules lead, and whom they leave alone."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Final

from interceptor.config.redirect import Dns
from interceptor.model.record import Record

if TYPE_CHECKING:
    from collections.abc import Iterator

    from interceptor.config.redirect import RedirectSettings

VERSION: Final = 2


class Place(Record):
    """A network namespace. Its inode is given again after its end; its cookie never is, until the machine restarts."""

    inode: int
    cookie: int | None  # None: a kernel before 5.14
    boot: str


class State(Record):
    """What was installed, where."""

    place: Place
    hash: str
    mode: str
    ingress_port: int
    egress_port: int
    dns_port: int | None  # None: name queries are not captured
    proxy_uids: tuple[int, ...]
    proxy_gids: tuple[int, ...]
    proxy_mark: str | None
    backend: str

    def mismatches(
        self, *, mode: str, ingress_port: int, egress_port: int, dns_port: int | None, uid: int, gid: int
    ) -> Iterator[str]:
        """What does not fit a proxy that is about to start, a sentence each."""
        if mode != self.mode:
            yield (
                f"spec.ingress.mode is {mode.upper()}, but the installed rules bring ingress by {self.mode.upper()}: change the "
                f"Sidecar document, or run 'sidecar-setup apply' with --mode {mode}"
            )
        for name, here, there in (
            ("ingress", ingress_port, self.ingress_port),
            ("egress", egress_port, self.egress_port),
        ):
            if here != there:
                yield (
                    f"spec.{name}.port is {here}, but the installed rules lead {name} to port {there}: change the Sidecar "
                    f"document, or run 'sidecar-setup apply' with --{name}-port {here}"
                )
        if self.dns_port not in {None, dns_port}:
            asked = "no spec.dns" if dns_port is None else f"{dns_port} as spec.dns.port"
            yield (
                f"the installed rules bring name queries to port {self.dns_port}, and the Sidecar document has {asked}, so no "
                f"name would resolve: write spec.dns: {{port: {self.dns_port}}}, or run 'sidecar-setup apply' with --dns off"
            )
        if uid not in self.proxy_uids and gid not in self.proxy_gids:
            ids = [f"uid {number}" for number in self.proxy_uids]
            ids += [f"gid {number}" for number in self.proxy_gids]
            ids += (
                []
                if self.proxy_mark is None
                else [f"the mark {self.proxy_mark}, which this proxy does not set"]
            )
            yield (
                f"the proxy would run as uid {uid} and gid {gid}, but the installed rules leave alone {', '.join(ids)}: "
                f"its own connections would come back to it; run it as one of these (--proxy-uid), or run "
                f"'sidecar-setup apply' with --proxy-uid {uid}"
            )


def state(settings: RedirectSettings, place: Place, backend: str) -> State:
    """What there is to tell about settings that were installed."""
    return State(
        place,
        settings.hash,
        settings.mode.value,
        settings.ingress_port,
        settings.egress_port,
        settings.dns_port if settings.dns is Dns.CAPTURE else None,
        settings.proxy_uids,
        settings.proxy_gids,
        None if settings.proxy_mark is None else str(settings.proxy_mark),
        backend,
    )


def write(told: State) -> str:
    """The file's text."""
    return json.dumps({"version": VERSION, **vars(told), "place": vars(told.place)}, indent=2) + "\n"


def read(text: str) -> State | None:
    """What a file tells; None when it is not such a file, or of another version."""
    try:
        form = json.loads(text)
        if form.pop("version") != VERSION:
            return None
        form["place"] = Place(**form["place"])
        form["proxy_uids"], form["proxy_gids"] = tuple(form["proxy_uids"]), tuple(form["proxy_gids"])
        return State(**form)
    except (ValueError, TypeError, KeyError, AttributeError):
        return None

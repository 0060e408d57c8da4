"""``interceptor certs``: a small certificate authority for people who have none. Parse, call, print, exit code."""

from __future__ import annotations

import json
import os
import random  # noqa: TID251 (here it is made, to be passed in)
import time
from pathlib import Path
from typing import Annotated, Final, Literal

import typer

app = typer.Typer(
    help="A small certificate authority for people who have none: PEM files that any program can use.",
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    no_args_is_help=True,
)

PROXY_UID: Final = 1337

Authority = Annotated[
    Path, typer.Option("--authority", metavar="DIR", help="Where 'certs init' keeps the authority.")
]
Lifetime = Annotated[str, typer.Option(help="How long it is valid, as 24h or 90m.")]
Owner = Annotated[
    int | None,
    typer.Option(
        help="Whose the private key is [as root: 1337, the proxy; else: yours].", show_default=False
    ),
]


@app.command()
def init(
    directory: Annotated[
        Path, typer.Argument(metavar="DIR", help="Where to keep the authority; its key is as good as all.")
    ],
    trust_domain: Annotated[str, typer.Option(help="The mesh's, as in spec.trustDomain.")] = "cluster.local",
    lifetime: Lifetime = "87600h",
    renew: Annotated[
        bool,
        typer.Option(
            "--renew", help="A new root beside the old one: both are trusted until the old one expires."
        ),
    ] = False,
) -> None:
    """Make an authority: DIR/ca.crt is the trust bundle for everybody, DIR/ca.key signs and stays where it is."""
    from interceptor.tls import workshop  # noqa: PLC0415 (--help starts without it)

    made = workshop.init(
        directory, trust_domain=trust_domain, lifetime=workshop.seconds(lifetime), now=_now(), renew=renew
    )
    print(f"{made}: the trust bundle of {trust_domain}")


@app.command()
def issue(
    directory: Annotated[
        Path, typer.Argument(metavar="DIR", help="Where to write tls.crt, tls.key and ca.crt.")
    ],
    authority: Authority,
    service_account: Annotated[str, typer.Option(help="Of the workload.")] = "default",
    namespace: Annotated[str, typer.Option(help="Of the workload.")] = "default",
    dns: Annotated[list[str], typer.Option("--dns", metavar="NAME", help="One more name; repeatable.")] = [],  # noqa: B006 (typer's way)
    lifetime: Lifetime = "24h",
    owner: Owner = None,
) -> None:
    """Issue a workload's certificate: spiffe://TRUST-DOMAIN/ns/NAMESPACE/sa/SERVICE-ACCOUNT."""
    from interceptor.tls import workshop  # noqa: PLC0415 (--help starts without it)

    wanted = workshop.Wanted(namespace, service_account, tuple(dns), workshop.seconds(lifetime))
    identity = workshop.issue(directory, authority, wanted, now=_now(), owner=_owner(owner))
    print(f"{directory}: {identity}")


@app.command()
def show(
    files: Annotated[
        list[Path], typer.Argument(metavar="FILE...", help="PEM files, or directories of them.")
    ],
    output: Annotated[Literal["text", "json"], typer.Option(help="Form of the output.")] = "text",
) -> None:
    """Say what certificates are in some files, and how long they are valid."""
    from interceptor.tls import workshop  # noqa: PLC0415 (--help starts without it)

    found = workshop.show(files, _now())
    print(
        json.dumps([each.as_mapping() for each in found], indent=2)
        if output == "json"
        else "\n".join(map(str, found))
    )


@app.command()
def rotate(
    directories: Annotated[
        list[Path], typer.Argument(metavar="DIR...", help="Directories that 'certs issue' wrote.")
    ],
    authority: Authority,
    all: Annotated[bool, typer.Option("--all", help="Also those before half of their lifetime.")] = False,  # noqa: A002 (the flag's name)
    watch: Annotated[
        bool, typer.Option("--watch", help="Go on for ever; each is issued anew at half its lifetime.")
    ] = False,
    owner: Owner = None,
) -> None:
    """Issue anew what is past half of its lifetime, with the same names; proxies take the new pair without a restart."""
    from interceptor.tls import workshop  # noqa: PLC0415 (--help starts without it)

    chance = random.Random()  # noqa: S311 (it only spreads load)
    while True:
        done, due = workshop.rotate(
            directories,
            authority,
            now=_now(),
            everything=all,
            owner=_owner(owner),
            jitter=lambda: chance.uniform(-1, 1),
        )
        for each in done:
            print(each, flush=True)
        if not watch:
            return
        time.sleep(max(1.0, min(due - _now(), 3600.0)))


def _now() -> float:
    return time.time()  # noqa: TID251 (certificates live by the wall clock)


def _owner(asked: int | None) -> int | None:
    return PROXY_UID if asked is None and os.geteuid() == 0 else asked

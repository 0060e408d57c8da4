"""``interceptor``: the gateway's commands. Parse, call, print, exit code; the work is done elsewhere.

Imports of the packages that do the work stand in the commands, so that ``--help`` starts without them.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from interceptor.cli import certs, program
from interceptor.cli.proxy import Asked
from interceptor.model.ports import ADMIN_PORT

if TYPE_CHECKING:
    from collections.abc import Sequence

app = typer.Typer(
    help="A transparent interception gateway for an app that knows nothing of it.",
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)

app.add_typer(certs.app, name="certs")

Config = Annotated[
    list[str],
    typer.Option("--config", metavar="FILE|DIR", help="YAML documents; '-' is standard input."),
]
Netns = Annotated[
    str | None, typer.Option("--netns", metavar="NAME|PATH|PID", help="Network namespace [this one].")
]
LogFormat = Annotated[
    Literal["text", "json"] | None,
    typer.Option(
        help="Form of both logs [messages: text; access log: spec.accessLog.format].", show_default=False
    ),
]
LogLevel = Annotated[
    Literal["debug", "info", "warning", "error"], typer.Option(help="Least level that is logged.")
]


@app.command()
def proxy(
    config: Config = [],  # noqa: B006 (typer's way to say: may be absent)
    netns: Netns = None,
    proxy_uid: Annotated[int, typer.Option(help="When started as root, run as this uid.")] = 1337,
    log_format: LogFormat = None,
    log_level: LogLevel = "info",
    control_fd: Annotated[int | None, typer.Option(hidden=True)] = None,
) -> Asked:
    """Run the proxy; program log to stderr, access log to stdout. SIGTERM drains, a second one forces."""
    from interceptor.config import documents  # noqa: PLC0415 (--help starts without them)
    from interceptor.config.plain import plain  # noqa: PLC0415
    from interceptor.discovery import judge, verdict  # noqa: PLC0415

    start = judge.start(tuple(config)) if config else None
    if start is None:
        asked = plain(documents.default_configuration(documents.DEFAULT_NAME))
    else:
        asked = verdict.composed(verdict.by_place(start.documents), start.verdict.order)
    return Asked(asked, start, netns, proxy_uid, log_format, log_level, control_fd)


@app.command(context_settings={"ignore_unknown_options": False, "allow_interspersed_args": False})
def run(
    command: Annotated[list[str], typer.Argument(metavar="-- CMD [ARG]...", help="The unmodified app.")],
    config: Config = [],  # noqa: B006 (typer's way to say: may be absent)
    user: Annotated[str | None, typer.Option(help="Run CMD as this user [the caller's].")] = None,
    netns: Netns = None,
    create_netns: Annotated[
        bool, typer.Option("--create-netns", help="Make the namespace, and remove it again.")
    ] = False,
    log_format: LogFormat = None,
    log_level: LogLevel = "info",
) -> None:
    """Run an app behind its gateway: rules on, proxy ready and proved, then CMD; all of it removed at the end.

    Rules follow the SIDECAR_SETUP_* environment, as in sidecar-setup. Exits with CMD's status.
    """
    from interceptor import launch  # noqa: PLC0415 (--help starts without it)

    asked = launch.Asked(
        command=command,
        config=config,
        user=user,
        netns=netns,
        create_netns=create_netns,
        proxy_arguments=(
            *(f"--config={file}" for file in config),
            *((f"--log-format={log_format}",) if log_format else ()),
            f"--log-level={log_level}",
        ),
    )
    status = launch.main(asked, say=lambda sentence: print(f"interceptor: {sentence}", file=sys.stderr))
    raise typer.Exit(status)


@app.command()
def check(
    files: Annotated[
        list[str], typer.Argument(metavar="FILE...", help="YAML documents; '-' is standard input.")
    ],
) -> None:
    """Validate configuration: every problem at once, with file and line."""
    from interceptor.discovery.file import check as check_files  # noqa: PLC0415 (--help starts without it)

    report = check_files(files)
    print("\n".join(report.lines()))
    if not report.accepted:
        raise typer.Exit(2)


@app.command()
def explain(
    config: Config = [],  # noqa: B006 (typer's way to say: may be absent)
    admin: Annotated[
        str, typer.Option(metavar="HOST:PORT", help="Ask the running proxy there, without --config.")
    ] = f"127.0.0.1:{ADMIN_PORT}",
    from_: Annotated[
        str | None, typer.Option("--from", metavar="IP", help="Who connects to the app.")
    ] = None,
    identity: Annotated[
        str | None, typer.Option(metavar="SPIFFE-URI", help="Whom mutual TLS proves the peer to be [nobody].")
    ] = None,
    to_port: Annotated[str | None, typer.Option(metavar="PORT", help="The app's port: ingress.")] = None,
    to: Annotated[
        str | None, typer.Option(metavar="HOST:PORT", help="Where the app connects to: egress.")
    ] = None,
    sni: Annotated[str | None, typer.Option(metavar="NAME", help="The server name of TLS.")] = None,
    method: Annotated[str | None, typer.Option(help="A request's method [GET].")] = None,
    path: Annotated[str | None, typer.Option(help="A request's path, with its query [/].")] = None,
    host: Annotated[str | None, typer.Option(help="A request's host.")] = None,
    header: Annotated[list[str], typer.Option(metavar="'NAME: VALUE'", help="A header of the request.")] = [],  # noqa: B006
    jwt_claim: Annotated[list[str], typer.Option(metavar="NAME=VALUE", help="A claim of its token.")] = [],  # noqa: B006
    output: Annotated[Literal["text", "json"], typer.Option(help="For people or for programs.")] = "text",
    strict_readiness: Annotated[
        bool,
        typer.Option(
            "--strict-readiness",
            help="Ask the running proxy which peers STRICT would refuse; exit 3 when there are any.",
        ),
    ] = False,
) -> None:
    """Say what is decided about a connection or a request, by which rule and why, from files or from the running proxy.

    Without a method, path, host, header or claim it is opaque TCP.
    """
    from interceptor.cli import explain as command  # noqa: PLC0415 (--help starts without it)

    if strict_readiness:
        found_peers = command.plaintext_peers(admin)
        print(command.readiness(found_peers, output))
        raise typer.Exit(3 if found_peers else 0)
    one = {"from": from_, "identity": identity, "to-port": to_port, "to": to, "sni": sni, "method": method}
    given = {
        name: [value] for name, value in {**one, "path": path, "host": host}.items() if value is not None
    }
    given.update({name: values for name, values in (("header", header), ("jwt-claim", jwt_claim)) if values})
    found = command.from_files(config, given) if config else command.from_proxy(admin, given)
    print(command.rendered(found, output))


@app.command()
def diff(
    old: Annotated[str, typer.Argument(metavar="OLD", help="A file or directory of configuration.")],
    new: Annotated[str, typer.Argument(metavar="NEW", help="Another one.")],
    recorded: Annotated[
        str,
        typer.Option(
            metavar="FILE", help="The access log as JSON lines, or descriptions; '-' is standard input."
        ),
    ] = "-",
    output: Annotated[Literal["text", "json"], typer.Option(help="For people or for programs.")] = "text",
) -> None:
    """Say which recorded connections and requests another configuration would decide otherwise; exit 3 when any.

    A description is a JSON object with the fields of explain: {"to": "10.0.0.1:443"} or {"from": "10.0.0.9", "to-port": "80"}.
    """
    from interceptor.cli import difference  # noqa: PLC0415 (--help starts without it)

    found = difference.differences([old], [new], recorded)
    print(difference.rendered(found, output))
    if found:
        raise typer.Exit(3)


def main(arguments: Sequence[str]) -> int:
    """Every command but ``proxy``, which runs by what its function returns; the exit status."""
    return program.run(app, "interceptor", arguments)

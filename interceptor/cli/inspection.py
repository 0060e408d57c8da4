"""The commands of ``sidecar-setup`` that look and change nothing: parse, call, print, exit code."""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING

from interceptor.cli.flags import Texts, find_namespace, read_invocation

if TYPE_CHECKING:
    from typing import Annotated

    import typer

    from interceptor.cli.options import ConfigOption


class Output(StrEnum):
    """For a person or for a program."""

    TEXT = "text"
    JSON = "json"


class L4(StrEnum):
    """The transport protocols that can be asked about."""

    TCP = "tcp"
    UDP = "udp"


def verify(
    flags: Texts,
    config: ConfigOption = None,
    output: Annotated[Output, typer.Option(help="How to print it.")] = Output.TEXT,
) -> int:
    """Try every path with real connections: captured, or exempt, as the flags given here say."""
    from interceptor.config.redirect import Dns  # noqa: PLC0415 (not for --help)
    from interceptor.kernel import live_rules, probe, rules  # noqa: PLC0415 (as above)
    from interceptor.redirect.probes import matrix  # noqa: PLC0415
    from interceptor.redirect.render import verify as render  # noqa: PLC0415

    invocation = read_invocation(flags, config)
    settings, namespace = invocation.settings, find_namespace(invocation)
    planned = rules.apply(settings, namespace, backend=invocation.backend, wait=invocation.wait, dry_run=True)
    paths = matrix(planned.ruleset, settings)
    queries = (settings.dns_port,) if settings.dns is Dns.CAPTURE else ()
    listeners = (settings.ingress_port, settings.egress_port, *queries)
    outcomes = probe.run(namespace, paths.probes, listeners=listeners, partial=True)
    failed = [each for each in outcomes if each.result not in {each.probe.expected, "untried"}]
    causes = dict(
        zip((each.probe for each in failed), live_rules.causes(namespace, failed, settings), strict=True)
    )
    without_ipv6 = {path.family for path in paths.probes} - {outcome.probe.family for outcome in outcomes}
    report = render.Report(
        planned.ruleset.hash,
        render.COMPARED[planned.outcome],
        [render.Tried(each.probe, each.result, each.note, causes.get(each.probe, "")) for each in outcomes],
        (*paths.untried, *("IPv6: it is switched off here" for _ in without_ipv6)),
    )
    print(render.text(report) if output is Output.TEXT else render.as_json(report), end="")
    return report.status


def explain(
    flags: Texts,
    uid: Annotated[int | None, typer.Option(min=0, help="Of the program that connects.")] = None,
    gid: Annotated[int | None, typer.Option(min=0, help="Its group [the same number].")] = None,
    groups: Annotated[str, typer.Option(metavar="G,...", help="Its supplementary groups [none].")] = "",
    to: Annotated[
        str | None, typer.Option(metavar="IP:PORT", help="Where a program here connects to.")
    ] = None,
    peer: Annotated[
        str | None, typer.Option("--from", metavar="IP", help="The peer that connects to this host.")
    ] = None,
    to_port: Annotated[
        int | None, typer.Option(min=1, max=65535, help="The port that the peer connects to.")
    ] = None,
    interface: Annotated[
        str | None, typer.Option(help="It leaves or arrives by [as the routing tables say].")
    ] = None,
    mark: Annotated[int, typer.Option(min=0, max=0xFFFF_FFFF, help="On its packets.")] = 0,
    protocol: Annotated[L4, typer.Option(help="Of the connection.")] = L4.TCP,
    live: Annotated[
        bool, typer.Option("--live", help="Ask the kernel's rules, those of others included, not the plan.")
    ] = False,
    config: ConfigOption = None,
    output: Annotated[Output, typer.Option(help="How to print it.")] = Output.TEXT,
) -> None:
    """Say what becomes of one connection, by which rule, and why."""
    from interceptor.kernel import live_rules, way  # noqa: PLC0415 (not for --help)
    from interceptor.redirect import question, simulate  # noqa: PLC0415
    from interceptor.redirect.ipv6 import assume  # noqa: PLC0415
    from interceptor.redirect.plan import plan  # noqa: PLC0415
    from interceptor.redirect.rules import Protocol  # noqa: PLC0415

    invocation = read_invocation(flags, config)
    settings, namespace = invocation.settings, find_namespace(invocation)
    asked = question.Asked(
        to=to, peer=peer, to_port=to_port, uid=uid, gid=gid, mark=mark, interface=interface,
        protocol=Protocol(protocol.value), groups=groups,
    )  # fmt: skip
    connection = question.connection(asked, way.look_up(namespace, question.far_address(asked)))
    if live:
        (found,) = live_rules.explain(namespace, [connection], settings)
    else:
        found = simulate.explain(plan(settings, assume(settings.ipv6)), connection)
    print(question.text(found) if output is Output.TEXT else question.as_json(found), end="")


def doctor(
    flags: Texts,
    kernel: Annotated[
        bool, typer.Option("--kernel/--no-kernel", help="Try what the gateway needs of a kernel.")
    ] = True,
    config: ConfigOption = None,
    output: Annotated[Output, typer.Option(help="How to print it.")] = Output.TEXT,
) -> int:
    """Look for what stands in the way of the rules and the proxy, with a remedy for each; changes nothing."""
    from interceptor.kernel import features  # noqa: PLC0415 (not for --help)
    from interceptor.kernel.doctor import look  # noqa: PLC0415
    from interceptor.redirect.doctor import diagnose  # noqa: PLC0415
    from interceptor.redirect.render import doctor as render  # noqa: PLC0415

    invocation = read_invocation(flags, config)
    facts = look(invocation.settings, find_namespace(invocation), invocation.backend)
    findings = diagnose(facts, invocation.settings)
    show = render.text if output is Output.TEXT else render.as_json
    print(show(findings, facts.unseen, features.look() if kernel else None), end="")
    return 3 if any(finding.severity == "problem" for finding in findings) else 0


def diff(flags: Texts, config: ConfigOption = None) -> int:
    """Compare the plan with the kernel, rule by rule and in order; exit status 3 when they differ."""
    from interceptor.kernel import rules  # noqa: PLC0415 (not for --help)
    from interceptor.redirect.diff import difference  # noqa: PLC0415

    invocation = read_invocation(flags, config)
    namespace = find_namespace(invocation)
    planned = rules.apply(
        invocation.settings, namespace, backend=invocation.backend, wait=invocation.wait, dry_run=True
    )
    if planned.outcome == "unchanged":
        print(f"no difference: configuration {planned.ruleset.hash}")
        return 0
    print(f"configuration {planned.ruleset.hash} is not what is installed (+ planned, - installed):")
    lines = difference(planned.ruleset, rules.status(namespace))
    # The same rules in the same order, and yet not the same: a rule says something else, or stands in another backend.
    for line in lines or (f"to be written anew: {change}" for change in planned.changes):
        print(f"  {line}")
    return 3

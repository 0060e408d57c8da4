"""The commands of ``sidecar-setup`` for the life of the redirect rules; those that look are in ``inspection``.

What touches the kernel is imported by the command that needs it: ``plan`` and ``--help`` start without.
"""

from __future__ import annotations

import sys
from enum import StrEnum
from importlib import import_module
from typing import TYPE_CHECKING

from interceptor.cli.flags import Texts, find_namespace, read_invocation, read_place

if TYPE_CHECKING:
    from typing import Annotated

    import typer

    from interceptor.cli.options import ConfigOption


class PlanOutput(StrEnum):
    """How ``plan`` prints."""

    TEXT = "text"
    JSON = "json"
    IPTABLES = "iptables"
    NFT = "nft"
    MERMAID = "mermaid"


class StatusOutput(StrEnum):
    """How ``status`` prints."""

    TEXT = "text"
    JSON = "json"


class Existing(StrEnum):
    """What becomes of connections that are older than the rules."""

    KEEP = "keep"
    RESET = "reset"


def plan(
    flags: Texts,
    config: ConfigOption = None,
    output: Annotated[PlanOutput, typer.Option(help="How to print it.")] = PlanOutput.TEXT,
) -> None:
    """Print the rules that would be installed; needs neither root nor iptables."""
    from interceptor.redirect.ipv6 import assume, describe  # noqa: PLC0415 (not for --help)
    from interceptor.redirect.plan import plan as make_plan  # noqa: PLC0415

    settings = read_invocation(flags, config).settings
    ipv6 = assume(settings.ipv6)
    render = import_module(f"interceptor.redirect.render.{output.value}").render
    print(render(make_plan(settings, ipv6)), end="")
    if output is PlanOutput.TEXT:
        print(f"\n{describe(settings.ipv6, ipv6)}.")


def apply(
    flags: Texts,
    config: ConfigOption = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say what would change; change nothing.")
    ] = False,
    existing: Annotated[
        Existing, typer.Option(help="Connections older than the rules: leave them, or end them.")
    ] = Existing.KEEP,
) -> None:
    """Install the rules, or change those installed into these; all or nothing."""
    from interceptor.kernel import installation, rules  # noqa: PLC0415 (not for --help)
    from interceptor.redirect.ipv6 import describe  # noqa: PLC0415

    invocation = read_invocation(flags, config)
    namespace = find_namespace(invocation)
    settings, backend, wait = invocation.settings, invocation.backend, invocation.wait
    if dry_run:
        applied = rules.apply(settings, namespace, backend=backend, wait=wait, dry_run=True)
    else:
        applied, remark = installation.install(settings, namespace, backend=backend, wait=wait)
        _warn(remark)
    would = "would be " if dry_run else ""
    print(f"{would}{applied.outcome}: configuration {applied.ruleset.hash}")
    for change in applied.changes:
        print(f"  {change}")
    print(f"{describe(invocation.settings.ipv6, applied.ipv6)}.")
    print(f"The backend is {applied.choice.backend.value}: {applied.choice.because}.")
    for warning in applied.warnings:
        print(f"Warning: {warning}.")
    if applied.busy:
        _warn(installation.older(settings, applied.ruleset, namespace, reset=existing is Existing.RESET))


def remove(
    flags: Texts,
    drain: Annotated[
        float,
        typer.Option(
            metavar="SECONDS", min=0, max=86400, help="How long redirected connections may live on before."
        ),
    ] = 0,
) -> None:
    """Remove all of our rules, whoever installed them with whatever flags."""
    from interceptor.kernel import installation  # noqa: PLC0415 (not for --help)

    invocation = read_place(flags)
    namespace = find_namespace(invocation)
    if drain:
        drained = installation.drain(namespace, drain, wait=invocation.wait, progress=_progress)
        _warn(drained.remark)
    removed = installation.uninstall(namespace, wait=invocation.wait)
    if removed.outcome == "absent":
        print("nothing was installed")
    else:
        print(removed.outcome)
    for change in removed.changes:
        print(f"  {change}")


def status(
    flags: Texts,
    output: Annotated[StatusOutput, typer.Option(help="How to print it.")] = StatusOutput.TEXT,
) -> None:
    """Show what is installed, how often each rule was hit, and what stands in its way."""
    from interceptor.kernel import installation, rules  # noqa: PLC0415 (not for --help)
    from interceptor.redirect.render import status as render  # noqa: PLC0415

    namespace = find_namespace(read_place(flags))
    found = rules.status(namespace)
    flows, remark = installation.live_flows(namespace) if found.chains else ({}, "")
    _warn(remark)
    print(render.text(found, flows) if output is StatusOutput.TEXT else render.as_json(found, flows), end="")


def _progress(left: int, seconds: float) -> None:
    print(f"draining: redirected connections left: {left}, at most {seconds:.0f} s to go", file=sys.stderr)


def _warn(sentence: str) -> None:
    if sentence:
        print(f"Warning: {sentence}.", file=sys.stderr)

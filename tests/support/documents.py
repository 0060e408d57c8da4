"""Documents for tests: what is wrong with some text, or the one thing it means."""

from __future__ import annotations

import textwrap

from interceptor.config.configuration import Configuration
from interceptor.config.documents import load
from interceptor.config.plain import plain
from interceptor.config.problems import Source
from interceptor.config.service_entry import ServiceEntry
from interceptor.config.sidecar import Sidecar
from interceptor.config.virtual_service import VirtualService

SIDECAR = "apiVersion: interceptor/v1\nkind: Sidecar\nmetadata: {name: app}\n"


def problems(text: str, *, sidecar_required: bool = False) -> list[str]:
    """Every problem of a text as it is printed, with the file's name left out."""
    loaded = load([Source("f", textwrap.dedent(text))], sidecar_required=sidecar_required)
    return [str(problem).removeprefix("f:") for problem in loaded.problems]


def configuration(*texts: str) -> Configuration:
    """The configuration that some documents make, with a Sidecar of defaults where none is among them."""
    written = [textwrap.dedent(text) for text in texts]
    if not any("kind: Sidecar" in text for text in written):
        written.insert(0, SIDECAR)
    return load([Source("f", "\n---\n".join(written))]).configuration()


def sidecar(spec: str = "{}") -> Sidecar:
    """A Sidecar with a spec in flow style."""
    return configuration(f"{SIDECAR}spec: {spec}\n").sidecar


def service_entry(spec: str, metadata: str = "{name: entry}") -> ServiceEntry:
    """A ServiceEntry with metadata and spec in flow style."""
    [entry] = configuration(service_entry_text(spec, metadata)).service_entries
    return entry


def service_entry_text(spec: str, metadata: str = "{name: entry}") -> str:
    """The same as text."""
    head = "apiVersion: networking.istio.io/v1\nkind: ServiceEntry\n"
    return f"{head}metadata: {metadata}\nspec: {spec}\n"


def virtual_service(spec: str, metadata: str = "{name: routes}") -> VirtualService:
    """A VirtualService with a spec in block style and metadata in flow style, as the running proxy sees it."""
    text = f"apiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {metadata}\nspec:\n"
    [document] = plain(
        configuration(text + textwrap.indent(textwrap.dedent(spec).strip("\n"), "  "))
    ).virtual_services
    return document

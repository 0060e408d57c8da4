"""What a configuration will need, imported while root can read it and before workers are forked."""

from __future__ import annotations

import codecs
from importlib import import_module
from pathlib import Path
from pkgutil import walk_packages
from typing import TYPE_CHECKING, Final

import trio

from interceptor.discovery.asking import hold_modules
from interceptor.errors import ConfigError
from interceptor.kernel import process
from interceptor.state import snapshot

if TYPE_CHECKING:
    from interceptor.config.configuration import Configuration
    from interceptor.config.sidecar import Sidecar


def preload(configuration: Configuration, workers: int) -> None:
    """Import what the configuration needs now, so that its worker need not."""
    spec = configuration.sidecar.spec
    codecs.lookup("idna")
    if snapshot.policy_documents(configuration):
        from interceptor.state import explain  # noqa: F401, PLC0415 (a proxy without policies does without it)
    if spec.middleware:
        from interceptor.middleware import build  # noqa: PLC0415 (as above)
        from interceptor.proxy.http import filters  # noqa: F401, PLC0415 (as above)

        build.preload(spec.middleware)
    if workers > 1:
        from interceptor.workers import supervisor  # noqa: F401, PLC0415 (one worker needs none)
    if spec.discovery.push.remote is not None:
        from interceptor.admin import remote  # noqa: F401, PLC0415 (ssl and cryptography are 15 MB)
    if spec.dns is not None:
        from interceptor.discovery import dns  # noqa: F401, PLC0415 (4 MB that only who answers names needs)
    if any(host for entry in configuration.service_entries for host in entry.spec.names_to_resolve):
        from interceptor.discovery import lookup  # noqa: F401, PLC0415 (as above)
    _grpc(configuration.sidecar)


def _grpc(sidecar: Sidecar) -> None:
    """What needs an extra of this package, or a ConfigError that names it."""
    tls, xds = sidecar.spec.tls, sidecar.spec.discovery.xds
    place, extra = "spec.tls.workloadApi", "spiffe"
    try:
        if tls is not None and tls.workloadApi is not None:
            from interceptor.tls import spiffe  # noqa: F401, PLC0415 (14 MB: gRPC)
        place, extra = "spec.discovery.xds", "xds"
        if xds is not None:
            from interceptor.discovery.xds import client  # noqa: F401, PLC0415 (25 MB: gRPC and Envoy's messages)
    except ImportError as error:
        raise ConfigError(
            f"{place} needs a package that is not installed ({error.name}); install interceptor[{extra}]"
        ) from error


def preload_what_only_root_reads(later: process.Identity) -> None:
    """Import what some connection may need and only root can read, as in a checkout below /root."""
    import interceptor  # noqa: PLC0415 (the package itself, to see where it is)

    if process.could_read(later, Path(interceptor.__file__)) and process.could_read(
        later, Path(trio.__file__)
    ):
        return
    for package in map(import_module, _LATE):
        for module in walk_packages(package.__path__, f"{package.__name__}."):
            import_module(module.name)
    for library in _LATE_LIBRARIES:
        import_module(library)
    hold_modules()


# What some connection or request may be the first to need.
_LATE: Final = tuple(
    f"interceptor.{name}"
    for name in ("admin", "config", "middleware", "policy", "protocol", "proxy", "routing", "state", "tls")
)
_LATE_LIBRARIES: Final = ("inotify_simple", "jwt", "re2", "interceptor.discovery.lookup", "urllib.request")

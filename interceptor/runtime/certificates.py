"""What the main process does about certificates: it reads, shows and measures them, and takes new versions."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, NamedTuple

import trio

from interceptor.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Callable

    from interceptor.config.configuration import Configuration
    from interceptor.config.sidecar import Remote
    from interceptor.proxy.transport import Credentials, Transport
    from interceptor.proxy.waits import Waits
    from interceptor.telemetry.metrics import Metrics
    from interceptor.tls.rotation import Keeper
    from interceptor.tls.spiffe import Agent

FIRST_SVID: Final = 3.0  # seconds; an agent that is there answers within milliseconds


def reader_of_credentials(configuration: Configuration) -> Callable[[], Credentials | None]:
    """What reads the certificates that a configuration names; without any, TLS costs no memory."""
    spec = configuration.sidecar.spec
    if spec.tls is None and spec.discovery.xds is None and not configuration.destination_rules:
        return lambda: None
    from interceptor.proxy import transport  # noqa: PLC0415 (ssl and cryptography are 15 MB)

    return lambda: transport.Credentials(configuration, time.time)  # noqa: TID251 (certificates live by the wall clock)


def pusher_of(asked: Remote, credentials: Credentials | None) -> Keeper:
    """The certificates that pushes from other machines are taken with: of their own, or the workload's."""
    from interceptor.tls.rotation import Keeper  # noqa: PLC0415 (as above)

    if asked.tls is not None:
        return Keeper(asked.tls.files, trust_domain=None, wall_clock=time.time)  # noqa: TID251 (as above)
    assert credentials is not None
    assert credentials.workload is not None  # the Sidecar was refused without
    return credentials.workload


class Trusted(NamedTuple):
    """The authorities of a trust bundle in PEM, and when there may be others."""

    bundle: bytes
    over: trio.Event


@dataclass(frozen=True, slots=True)
class Certificates:
    """What the main process does about them: it shows and measures them; without workers it takes new versions too."""

    credentials: Credentials | None
    metrics: Metrics
    pusher: Keeper | None = None  # whose certificates pushes from other machines are taken with

    @property
    def keepers(self) -> tuple[Keeper, ...]:
        """All of them, each once."""
        named = () if self.credentials is None else self.credentials.keepers
        return named if self.pusher is None or self.pusher in named else (*named, self.pusher)

    async def watch(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Until cancelled, where there are any; a SPIFFE agent's are waited for at first, though not for long."""
        if self.credentials is None and self.pusher is None:
            task_status.started()
            return
        from interceptor.tls import rotation  # noqa: PLC0415 (loaded where there are certificates)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(rotation.watch, lambda: self.keepers, self.metrics.certificate_expiry)
            if self.credentials is not None and (agent := self.credentials.agent) is not None:
                assert self.credentials.workload is not None
                nursery.start_soon(agent.follow, self.credentials.workload, self.metrics.workload_api())
                with trio.move_on_after(FIRST_SVID):
                    await agent.given.wait()
            task_status.started()

    @property
    def _agent(self) -> Agent | None:
        return None if self.credentials is None else self.credentials.agent

    @property
    def pending(self) -> str | None:
        """Why the workload has no identity though it should."""
        if self._agent is not None:
            return self._agent.pending
        return None if self.credentials is None else self.credentials.pending

    @property
    def remark(self) -> str | None:
        """What is wrong though it has one."""
        if self.credentials is None or self.credentials.workload is None:
            return None
        said = (None if self._agent is None else self._agent.remark, self.credentials.workload.warning())
        return "; ".join(filter(None, said)) or None

    def admit(self, configuration: Configuration) -> None:
        """Read the certificates that a new configuration names. Raises ConfigError where one cannot be used."""
        if self.credentials is not None:
            self.credentials.admit(configuration)
            return
        for rule in configuration.destination_rules:
            settings = (rule.spec.trafficPolicy.tls, *rule.port_tls.values())
            if any(tls is not None and tls.mode in {"SIMPLE", "MUTUAL"} for tls in settings):
                raise ConfigError(
                    f"DestinationRule {rule.full_name} names TLS settings, and the proxy began without any TLS; restart it, "
                    "or take the change back"
                )

    def trusted(self) -> Trusted | None:
        """Whom the app is to believe as well; None where there is no trust bundle."""
        if self.credentials is None or (keeper := self.credentials.workload) is None:
            return None
        from interceptor.tls.certificates import own_authorities  # noqa: PLC0415 (as above)

        return Trusted(own_authorities(keeper.current.material), keeper.renewed)

    def transport(self, waits: Waits) -> Transport | None:
        """What connections of the main process's own speak TLS by."""
        return None if self.credentials is None else self.credentials.transport(waits)

    def dump(self) -> list[dict[str, object]]:
        """For ``/certs``."""
        return [each.dump() for each in self.keepers]

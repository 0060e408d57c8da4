"""PURE. Envoy's TLS contexts: judged, and what they say of certificates, names and protocols."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from interceptor.discovery.xds import secrets
from interceptor.discovery.xds.reading import mapping, mappings, texts, unknown

if TYPE_CHECKING:
    from collections.abc import Sequence

    from interceptor.discovery.xds.messages import Body

_TYPES: Final = "type.googleapis.com/envoy.extensions.transport_sockets."
UPSTREAM: Final = f"{_TYPES}tls.v3.UpstreamTlsContext"
DOWNSTREAM: Final = f"{_TYPES}tls.v3.DownstreamTlsContext"
RAW: Final = f"{_TYPES}raw_buffer.v3.RawBuffer"
ISTIO_ALPN: Final = "istio"

_UPSTREAM: Final = frozenset({"@type", "common_tls_context", "sni", "auto_sni_san_validation"})
_DOWNSTREAM: Final = frozenset({"@type", "common_tls_context", "require_client_certificate"})
_COMMON: Final = frozenset(
    {
        *("tls_params", "tls_certificates", "tls_certificate_sds_secret_configs", "alpn_protocols"),
        *("validation_context", "validation_context_sds_secret_config", "combined_validation_context"),
    }
)
_VALIDATION: Final = frozenset(
    {"trusted_ca", "system_root_certs", "match_typed_subject_alt_names", "match_subject_alt_names"}
)
_PROTOCOLS: Final = {
    "tls_minimum_protocol_version": frozenset({"TLS_AUTO", "TLSv1_2"}),
    "tls_maximum_protocol_version": frozenset({"TLS_AUTO", "TLSv1_3"}),
}
# What Istio writes for its sidecars: AEAD ciphers of TLS 1.2, of which ours are a part.
_CIPHERS: Final = frozenset(
    f"{exchange}AES{size}"
    for exchange in ("ECDHE-ECDSA-", "ECDHE-RSA-", "")
    for size in ("128-GCM-SHA256", "256-GCM-SHA384")
)
_OURS: Final = frozenset(each for each in _CIPHERS if each.startswith("ECDHE"))
_AGENT: Final = (
    "sds-grpc"  # the cluster of Istio's agent beside a sidecar, which has the workload's own secrets
)
_AGENTS: Final = ("default", "ROOTCA")
_WORDS: Final = frozenset({"h2", "http/1.1"})  # of a context that is not the mesh's


@dataclass(slots=True)
class Context:
    """What a TLS context says."""

    said: list[str] = field(default_factory=list)  # that is not honoured
    secrets: list[str] = field(default_factory=list)  # by SDS
    pair: str | None = None  # the secret
    chain: str | None = None  # its files
    key: str | None = None
    bundle: str | None = None
    agent: set[str] = field(default_factory=set)  # secrets that Istio's agent would give: the workload's own
    names: tuple[str, ...] = ()
    prefixes: tuple[str, ...] = ()  # that a client's names have
    server_name: str | None = None
    alpn: tuple[str, ...] = ()
    checks_names: bool = False
    requires_client: bool = False
    files: dict[str, bytes] = field(default_factory=dict)  # that came with it


def read(socket: Body, path: str, *, server: bool = False) -> Context | None:
    """A transport socket; None for one that is none: in the clear."""
    config = mapping(socket, "typed_config")
    if config.get("@type") == RAW:
        return None
    made = Context()
    made.said += unknown(socket, frozenset({"name", "typed_config"}), path)
    wanted = DOWNSTREAM if server else UPSTREAM
    here = f"{path}typed_config."
    if config.get("@type") != wanted:
        kind = wanted.rpartition(".")[2]
        made.said.append(f"{path}typed_config: '{config.get('@type')}' is not honoured; known is {kind}")
        return made
    made.said += unknown(config, _DOWNSTREAM if server else _UPSTREAM, here)
    common = mapping(config, "common_tls_context")
    there = f"{here}common_tls_context."
    made.said += unknown(common, _COMMON, there)
    made.server_name = str(config["sni"]) if config.get("sni") else None
    made.alpn = tuple(texts(common, "alpn_protocols"))
    made.requires_client = config.get("require_client_certificate") is True
    made.checks_names = config.get("auto_sni_san_validation") is True
    _versions(mapping(common, "tls_params"), f"{there}tls_params.", made)
    _pair(common, there, made)
    _validation(common, there, made, server=server)
    if made.chain is None and server:
        made.said.append(f"{there}tls_certificate_sds_secret_configs: is required")
    return made


def _versions(body: Body, path: str, made: Context) -> None:
    made.said += unknown(body, frozenset({*_PROTOCOLS, "cipher_suites"}), path)
    if not (given := set(texts(body, "cipher_suites"))) <= _CIPHERS or (given and not given >= _OURS):
        made.said.append(f"{path}cipher_suites: only Istio's are honoured: {', '.join(sorted(_CIPHERS))}")
    for name, honoured in _PROTOCOLS.items():
        if body.get(name, "TLS_AUTO") not in honoured:
            made.said.append(f"{path}{name}: {body[name]} is not honoured; TLS 1.2 and 1.3 are spoken")


def _pair(common: Body, path: str, made: Context) -> None:
    by_sds = mappings(common, "tls_certificate_sds_secret_configs")
    inline = mappings(common, "tls_certificates")
    if len(by_sds) + len(inline) > 1:
        made.said.append(f"{path}tls_certificates: several are not honoured by this version")
    elif by_sds:
        made.pair = _secret(by_sds[0], f"{path}tls_certificate_sds_secret_configs[0].", made)
        made.chain, made.key = (secrets.path_of(made.pair, part) for part in (secrets.CHAIN, secrets.KEY))
    elif inline:
        certificate = {"certificate_chain": mapping(inline[0], "certificate_chain")}
        given = secrets.pair(
            inline[0], secrets.inline_name(certificate), f"{path}tls_certificates[0].", made.said
        )
        made.chain, made.key = (each.path for each in given)
        made.files.update(secrets.files(list(given)))


def _secret(body: Body, path: str, made: Context) -> str:
    made.said += unknown(body, frozenset({"name", "sds_config"}), path)
    name = str(body.get("name", ""))
    if not name:
        made.said.append(f"{path}name: is required")
    source = mapping(mapping(body, "sds_config"), "api_config_source")
    services = mappings(source, "grpc_services")
    if name in _AGENTS and [mapping(each, "envoy_grpc").get("cluster_name") for each in services] == [_AGENT]:
        made.agent.add(name)
        return name
    if not mapping(body, "sds_config").keys() & {"ads", "self"}:
        made.said.append(
            f"{path}sds_config: only ads and self are honoured: secrets come over the same stream"
        )
    made.secrets.append(name)
    return name


def _validation(common: Body, path: str, made: Context, *, server: bool) -> None:
    combined = mapping(common, "combined_validation_context")
    made.said += unknown(
        combined,
        frozenset({"default_validation_context", "validation_context_sds_secret_config"}),
        f"{path}combined_validation_context.",
    )
    if combined:
        default = mapping(combined, "default_validation_context")
        place = f"{path}combined_validation_context."
        where, by_sds = f"{place}default_validation_context.", combined
    else:
        default, place = mapping(common, "validation_context"), path
        where, by_sds = f"{path}validation_context.", common
    made.said += unknown(default, _VALIDATION, where)
    typed = mappings(default, "match_typed_subject_alt_names")
    plain = [{"san_type": "URI", "matcher": each} for each in mappings(default, "match_subject_alt_names")]
    if server:  # of clients Istio says the trust domains
        made.prefixes = tuple(str(mapping(each, "matcher").get("prefix", "")) for each in (*typed, *plain))
    else:
        made.names = tuple(_names([*typed, *plain], where, made.said))
    if "validation_context_sds_secret_config" in by_sds:
        field_ = "validation_context_sds_secret_config"
        name = _secret(mapping(by_sds, field_), f"{place}{field_}.", made)
        made.bundle = secrets.path_of(name, secrets.BUNDLE)
    elif "trusted_ca" in default:
        given = secrets.bundle(default, secrets.inline_name({"ca": default["trusted_ca"]}), where, made.said)
        made.bundle = given.path
        made.files.update(secrets.files([given]))
    elif "system_root_certs" not in default:
        made.said.append(
            f"{where}trusted_ca: is required, or a secret, or system_root_certs: nobody is believed unverified"
        )


def _names(matchers: Sequence[Body], path: str, said: list[str]) -> list[str]:
    names = []
    for index, each in enumerate(matchers):
        here = f"{path}match_typed_subject_alt_names[{index}]."
        said += unknown(each, frozenset({"san_type", "matcher"}), here)
        matcher = mapping(each, "matcher")
        if each.get("san_type") not in {"URI", "DNS"}:
            said.append(f"{here}san_type: only URI and DNS are honoured")
        if matcher.keys() != {"exact"} or not matcher["exact"]:
            said.append(f"{here}matcher: only exact is honoured")
        names.append(str(matcher.get("exact", "")))
    return names


def judge_client(
    socket: Body,
    path: str,
    *,
    http2: bool,
    checks_names: bool,
    own: tuple[str, str] | None,
    trusted: tuple[str, ...] = (),
) -> list[str]:
    """What of a cluster's transport socket is not honoured; ``checks_names``: its HTTP options say so."""
    made = read(socket, path)
    if made is None:
        return []
    here = f"{path}typed_config."
    if made.server_name is None:
        made.said.append(f"{here}sni: is required by this version: it is the name that is asked for")
    mesh = ISTIO_ALPN in made.alpn
    if made.agent and not mesh:
        made.said.append(
            f"{here}common_tls_context: secrets of {_AGENT} are honoured only with {ISTIO_ALPN} among the ALPN words"
        )
    if mesh and not is_own(made, own, trusted):
        made.said.append(
            f"{here}common_tls_context.alpn_protocols: {ISTIO_ALPN} is honoured only with the workload's own certificate "
            "and trust bundle; name their secrets in the Sidecar's spec.tls.sds"
        )
    if not made.names and not made.checks_names and not checks_names and not mesh:
        made.said.append(
            f"{here}common_tls_context.validation_context.match_typed_subject_alt_names: is required, or "
            "auto_sni_san_validation: true: the name of an upstream is always compared"
        )
    if made.alpn and not mesh:
        strange = set(made.alpn) - _WORDS
        needed = "h2" if http2 else "http/1.1"
        if strange or needed not in made.alpn:
            made.said.append(
                f"{here}common_tls_context.alpn_protocols: {', '.join(made.alpn)} is not honoured; an upstream of "
                f"HTTP/{2 if http2 else '1.1'} is offered {needed}"
            )
    return made.said


def client(socket: Body) -> dict[str, object] | None:
    """The TLS settings of a DestinationRule for a socket that was judged."""
    made = read(socket, "")
    if made is None:
        return None
    said: dict[str, object] = {"sni": made.server_name}
    if made.names:
        said["subjectAltNames"] = list(made.names)
    if ISTIO_ALPN in made.alpn:
        return {"mode": "ISTIO_MUTUAL", **said}
    if made.chain is not None:
        said |= {"clientCertificate": made.chain, "privateKey": made.key}
    if made.bundle is not None:
        said["caCertificates"] = made.bundle
    return {"mode": "SIMPLE" if made.chain is None else "MUTUAL", **said}


def is_own(made: Context, own: tuple[str, str] | None, trusted: tuple[str, ...] = ()) -> bool:
    """Whether a context is that of the workload's own certificate and trust bundle, the secrets ``own``.

    What Istio's agent would give is that too, wherever the Sidecar has them from, where it has any.
    """
    if made.agent:
        return bool(trusted) and made.agent == set(_AGENTS) and _is_of(made, _AGENTS)
    return own is not None and _is_of(made, own)


def _is_of(made: Context, own: tuple[str, str]) -> bool:
    return (made.pair, made.bundle) == (own[0], secrets.path_of(own[1], secrets.BUNDLE))


def strange_clients(made: Context, trusted: tuple[str, ...]) -> bool:
    """Whether a context of a server takes other clients than those of the trust domains."""
    return bool(made.prefixes) and {*made.prefixes} != {f"spiffe://{domain}/" for domain in trusted}

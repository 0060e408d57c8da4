"""Turns a judged configuration into plain data, which can be handed to a process that has no models."""

from __future__ import annotations

from functools import cached_property, lru_cache
from inspect import getattr_static
from typing import TYPE_CHECKING, cast

from pydantic import BaseModel

from interceptor.config.base import Document
from interceptor.config.configuration import Configuration, Plain

if TYPE_CHECKING:
    from interceptor.config.authorization_policy import AuthorizationPolicy
    from interceptor.config.destination_rule import DestinationRule
    from interceptor.config.peer_authentication import PeerAuthentication
    from interceptor.config.rate_limit import RateLimit
    from interceptor.config.request_authentication import RequestAuthentication
    from interceptor.config.service_entry import ServiceEntry
    from interceptor.config.sidecar import Sidecar
    from interceptor.config.virtual_service import VirtualService


def plain(configuration: Configuration) -> Configuration:
    """The same configuration, whose documents have the attributes of their models and none of their code."""
    return Configuration(
        cast("Sidecar", _plain(configuration.sidecar)),
        cast("tuple[ServiceEntry, ...]", _plain(configuration.service_entries)),
        configuration.documents,
        cast("tuple[PeerAuthentication, ...]", _plain(configuration.peer_authentications)),
        cast("tuple[AuthorizationPolicy, ...]", _plain(configuration.authorization_policies)),
        cast("tuple[RequestAuthentication, ...]", _plain(configuration.request_authentications)),
        cast("tuple[DestinationRule, ...]", _plain(configuration.destination_rules)),
        cast("tuple[VirtualService, ...]", _plain(configuration.virtual_services)),
        cast("tuple[RateLimit, ...]", _plain(configuration.rate_limits)),
    )


def plain_document(document: Document) -> Document:
    """One document of it."""
    return cast("Document", _plain(document))


def _plain(value: object) -> object:
    if isinstance(value, BaseModel):
        defaults = _defaults(type(value))
        attributes: dict[str, object] = {}
        for name in _names(type(value)):
            given = getattr(value, name)
            default = defaults.get(name)
            attributes[name] = default[1] if default is not None and default[0] is given else _plain(given)
        return Plain(
            **attributes, json=value.model_dump(mode="json") if isinstance(value, Document) else None
        )
    if type(value) is tuple:  # and not one of its named kinds
        return tuple(map(_plain, value))
    if type(value) is dict:
        return {key: _plain(each) for key, each in value.items()}
    return value


@lru_cache
def _defaults(model: type[BaseModel]) -> dict[str, tuple[object, object]]:
    """Models that are defaults of fields, and the plain data that all documents share in their place."""
    found = ((name, field.default) for name, field in model.model_fields.items())
    return {name: (default, _plain(default)) for name, default in found if isinstance(default, BaseModel)}


@lru_cache  # thousands of documents are of a handful of models
def _names(model: type[BaseModel]) -> list[str]:
    """The fields that are not dropped, and the properties, but for pydantic's own."""
    fields = [name for name, field in model.model_fields.items() if not field.exclude]
    properties = [
        name
        for name in dir(model)
        if not name.startswith(("_", "model_"))
        and isinstance(getattr_static(model, name), property | cached_property)
    ]
    return [*fields, *properties]

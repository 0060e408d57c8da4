"""Python between the app and the world: the types that a user's own middleware imports, the built-in filters, the chain."""

from __future__ import annotations

from interceptor.middleware.api import (
    Body,
    BodyTooLargeError,
    Connection,
    ConnectionMiddleware,
    ConnectionNext,
    Exchange,
    Middleware,
    Next,
    Refusal,
    Response,
)
from interceptor.model.http import Headers, RequestHead, ResponseHead, get, get_all, put, remove
from interceptor.model.identity import SpiffeId

__all__ = [
    "Body",
    "BodyTooLargeError",
    "Connection",
    "ConnectionMiddleware",
    "ConnectionNext",
    "Exchange",
    "Headers",
    "Middleware",
    "Next",
    "Refusal",
    "RequestHead",
    "Response",
    "ResponseHead",
    "SpiffeId",
    "get",
    "get_all",
    "put",
    "remove",
]

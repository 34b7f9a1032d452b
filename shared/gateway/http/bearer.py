"""The API key of a request: from its one Authorization header, with the Bearer scheme (RFC 6750 2.1)."""

from __future__ import annotations

import ipaddress
from functools import lru_cache

from starlette.requests import HTTPConnection

from gateway import keys
from gateway.errors import Unauthenticated
from gateway.keys import Key


def key_of(request: HTTPConnection) -> Key:
    """The well-formed key of a request. Raises Unauthenticated, also for more than one Authorization header."""
    given = request.headers.getlist("authorization")
    if len(given) != 1:
        raise Unauthenticated
    scheme, _, credentials = given[0].partition(" ")
    if scheme.lower() != "bearer":
        raise Unauthenticated
    return keys.parse(credentials.strip(" "))


def address_of(request: HTTPConnection) -> str | None:
    """The client's IP address as the platform saw it, IPv4 where it is inside IPv6; None for what is no address."""
    return _address(request.client.host) if request.client else None


@lru_cache(1024)
def _address(host: str) -> str | None:
    try:
        address = ipaddress.ip_address(host.partition("%")[0])  # the zone is this machine's name of an interface
    except ValueError:
        return None
    return str(getattr(address, "ipv4_mapped", None) or address)

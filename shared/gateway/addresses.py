"""Addresses of those who want to be told: looked up apart from all other names, and only what is of the internet.

Users choose these names, and whoever answers for a name may be silent. Such a look-up holds a thread for as long as the
system's resolver waits, so they have threads of their own and a user has one at a time: the names of providers and of
the database are never behind them.
"""

from __future__ import annotations

import asyncio
import ipaddress
import socket
from collections.abc import Hashable
from concurrent.futures import Future, ThreadPoolExecutor

MAX_THREADS = 8
LOOK_UP_S = 5.0
NAT64 = ipaddress.IPv6Network("64:ff9b::/96")
"""An address of IPv4 in the last 32 bits (RFC 6052)."""
UNICAST = ipaddress.IPv6Network("2000::/3")
"""All that was ever given to be global: https://www.iana.org/assignments/ipv6-address-space"""
NOT_GLOBAL = (ipaddress.IPv4Network("192.88.99.0/24"), ipaddress.IPv6Network("3fff::/20"))
"""What Python 3.13 does not know yet: relays of a way to IPv6 that was ended (RFC 7526), documentation (RFC 9637)."""

type Address = ipaddress.IPv4Address | ipaddress.IPv6Address

_threads = ThreadPoolExecutor(MAX_THREADS, "names")
_under_way: dict[Hashable, Future[list[str]]] = {}


async def look_up(host: str, port: int, whose: Hashable) -> list[Address]:
    """The addresses of a name, one look-up at a time for `whose`; the next one waits for its end.

    Raises OSError for a name that has none, and TimeoutError, which is one, after 5 seconds, the wait included.
    """
    async with asyncio.timeout(LOOK_UP_S):
        while (running := _under_way.get(whose)) is not None:
            await asyncio.wait({asyncio.wrap_future(running)})
        _under_way[whose] = future = _threads.submit(_found, host, port)
        future.add_done_callback(lambda ended: _end(whose, ended))
        return [ipaddress.ip_address(address) for address in await asyncio.wrap_future(future)]


def _end(whose: Hashable, future: Future[list[str]]) -> None:
    if _under_way.get(whose) is future:
        del _under_way[whose]


def _found(host: str, port: int) -> list[str]:
    entries = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return [str(entry[4][0]).partition("%")[0] for entry in entries]


def is_public(address: Address) -> bool:
    """Whether an address is of the internet: the registries call it global, and it is one receiver's. What is IPv4
    inside IPv6 is judged as the IPv4 that it leads to.

    https://www.iana.org/assignments/iana-ipv4-special-registry, …/iana-ipv6-special-registry
    """
    seen = _unmapped(address)
    is_given = seen.version == 4 or seen in UNICAST
    return is_given and seen.is_global and not seen.is_multicast and not any(seen in each for each in NOT_GLOBAL)


def _unmapped(address: Address) -> Address:
    if isinstance(address, ipaddress.IPv4Address):
        return address
    if address in NAT64:
        return ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
    return address.ipv4_mapped or address

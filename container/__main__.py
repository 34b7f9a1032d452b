"""`python -m container`: the gateway on PORT (8000) until SIGTERM or SIGINT, then what was begun is brought to its end.

No stream is cut and every hold settles, that of a client who left included, before the process exits with 0. It sets
itself no limit for that: who stops it should wait for longer than a completion may take before killing it.

FORWARDED_ALLOW_IPS names the proxies (addresses or networks, separated by commas) whose X-Forwarded-For says who the
client is. Without it nobody's does: a client could write itself into a key's list of allowed addresses.
"""

from __future__ import annotations

import asyncio
import ipaddress
import os
import signal
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import uvicorn

from container import logs, metrics
from container.app import app
from container.bounds import BoundedProtocol
from gateway import telemetry

KEEP_ALIVE_S = 95
"""A connection without a request stays open for longer than load balancers keep theirs (60 to 90 s): who closes first
may cut a request that is on its way."""
WIDEST = {4: 8, 6: 16}
"""The shortest prefix, by the version of IP, of a network of proxies: no private network is wider but fc00::/7."""
ACCEPTING_S = 0.1
"""What was accepted as the port closed is a connection after this."""


class Server(uvicorn.Server):
    """uvicorn which drains however often it is told to stop. Its own handler cuts every stream at a second SIGINT, and
    raises the signal again when all is done, so that a drained process looks like one that was killed."""

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        telemetry.log("listening", port=sockets[0].getsockname()[1] if sockets else None)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        for server in self.servers:
            server.close()
        await asyncio.sleep(ACCEPTING_S)  # uvicorn tells only the connections that it knows to close after their answer
        await super().shutdown(sockets)

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, self._stop)
        yield
        telemetry.log("drained")

    def _stop(self, *_: object) -> None:
        self.should_exit = True


def proxies() -> str | None:
    """Whose X-Forwarded-For is believed. Exits where that is no list of networks, or would be much of the world."""
    named = [each.strip() for each in os.environ.get("FORWARDED_ALLOW_IPS", "").split(",") if each.strip()]
    for each in named:
        try:
            network = ipaddress.ip_network(each)
        except ValueError:
            sys.exit(f"FORWARDED_ALLOW_IPS: {each!r} is no address or network; name the proxies, such as 10.0.0.0/8")
        if network.prefixlen < WIDEST[network.version]:
            sys.exit(f"FORWARDED_ALLOW_IPS: {each} would believe what clients write; name the proxies more narrowly")
    return ",".join(named) or None


def listener(port: int) -> socket.socket:
    """A port of every interface, of IPv6 and IPv4 where the machine has both. Raises OSError when it is taken."""
    is_dual = socket.has_dualstack_ipv6()
    # asyncio turns Nagle's algorithm off only where the socket says that it is TCP
    family = socket.AF_INET6 if is_dual else socket.AF_INET
    opened = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    opened.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    if is_dual:
        opened.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
    opened.bind(("::" if is_dual else "0.0.0.0", port))  # noqa: S104 - a container's own network
    return opened


def main() -> None:
    """Serve until told to stop."""
    logs.collect()
    metrics.serve()
    believed = proxies()
    config = uvicorn.Config(
        app,
        http=BoundedProtocol,
        lifespan="on",
        ws="none",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=believed is not None,
        forwarded_allow_ips=believed,
        timeout_keep_alive=KEEP_ALIVE_S,
    )
    Server(config).run(sockets=[listener(int(os.environ.get("PORT") or 8000))])


if __name__ == "__main__":
    main()

"""Whose addresses are spoken to, and that a name without an answer is nobody else's wait."""

from __future__ import annotations

import asyncio
import ipaddress
import socket
import threading
from typing import TYPE_CHECKING, Any

import pytest

from gateway import addresses, posting

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.mark.parametrize(
    "address",
    [
        "1.1.1.1", "192.0.0.9", "192.31.196.1", "2606:4700::1111", "2001:4:112::1", "2620:4f:8000::1", "2001:20::1",
        "::ffff:1.1.1.1", "64:ff9b::101:101",
    ],
)  # fmt: skip
def test_an_address_of_the_internet_is_public(address: str):
    assert addresses.is_public(ipaddress.ip_address(address))


@pytest.mark.parametrize(
    "address",
    [
        "0.0.0.0", "0.1.2.3", "10.0.0.1", "100.64.0.1", "127.0.0.1", "169.254.169.254", "172.16.0.1", "192.0.0.8",  # noqa: S104
        "192.0.0.170", "192.0.2.1", "192.88.99.1", "192.168.0.1", "198.18.0.1", "198.51.100.1", "203.0.113.1",
        "224.0.0.1", "239.255.255.250", "240.0.0.1", "255.255.255.255",
        "::", "::1", "::10.0.0.1", "::1.1.1.1", "::ffff:7f00:1", "::ffff:10.0.0.1", "64:ff9b::a00:1", "64:ff9b:1::1",
        "100::1", "100:0:0:1::1", "2001::1", "2001:db8::1", "2002:a00:1::", "2002:101:101::", "3fff::1", "4000::1",
        "5f00::1", "fc00::1", "fd00::1", "fe80::1", "fec0::1", "ff02::1", "ff0e::1",
    ],
)  # fmt: skip
def test_any_other_address_is_not(address: str):
    assert not addresses.is_public(ipaddress.ip_address(address))


@pytest.mark.parametrize(
    "url", ["https://1.1.1.1", "https://1.1.1.1:443", "https://1.1.1.1:1024", "https://[2606:4700::1111]:8443/"]
)
async def test_a_receivers_port(url: str):
    assert await posting.public_address(url) in ("1.1.1.1", "2606:4700::1111")


@pytest.mark.parametrize("port", [1, 22, 25, 80, 444, 636, 1023])
async def test_no_other_port_of_a_public_address_is_asked(port: int):
    with pytest.raises(posting.Undelivered, match="port"):
        await posting.public_address(f"https://1.1.1.1:{port}/")


@pytest.fixture
def resolver(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """A resolver that says nothing of names in `silent` until it is told to, and the names that it was asked for."""
    asked: list[str] = []
    may_answer, find = threading.Event(), socket.getaddrinfo

    def found(host: Any, port: Any, *given: Any, **named: Any) -> Any:
        asked.append(host)
        if str(host).startswith("silent"):
            assert may_answer.wait(20)
            raise socket.gaierror(socket.EAI_AGAIN, "nobody says")
        return find("127.0.0.1" if host == "fast" else host, port, *given, **named)

    monkeypatch.setattr(socket, "getaddrinfo", found)
    yield asked
    may_answer.set()


async def test_a_silent_name_is_given_up_and_holds_up_no_other(resolver: list[str], monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(addresses, "LOOK_UP_S", 0.05)
    for number in range(3):  # the second and third wait for the end of the first
        with pytest.raises(TimeoutError):
            await addresses.look_up(f"silent-{number}", 443, "one user")
    assert resolver == ["silent-0"]
    monkeypatch.setattr(addresses, "LOOK_UP_S", 10.0)
    assert await addresses.look_up("fast", 443, "another") == [ipaddress.ip_address("127.0.0.1")]


async def test_silent_names_of_everybody_hold_up_none_that_are_not_theirs(resolver: list[str]):
    asking = [
        asyncio.create_task(addresses.look_up(f"silent-{user}", 443, user)) for user in range(2 * addresses.MAX_THREADS)
    ]
    while len(resolver) < addresses.MAX_THREADS:  # noqa: ASYNC110 - threads have no events of a loop's
        await asyncio.sleep(0.001)
    loop = asyncio.get_running_loop()
    found = await asyncio.gather(*(loop.getaddrinfo("fast", 443, type=socket.SOCK_STREAM) for _ in range(20)))
    assert len(found) == 20
    assert sum(name.startswith("silent") for name in resolver) == addresses.MAX_THREADS
    for task in asking:
        task.cancel()
    await asyncio.wait(asking)


async def test_a_name_without_an_address_frees_its_turn():
    for _ in range(3):
        with pytest.raises(socket.gaierror):
            await addresses.look_up("nothing.invalid", 443, "one user")

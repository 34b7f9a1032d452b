"""What a connection may take before a request of it is whole: uvicorn's HTTP/1.1 with limits on all that comes before
the app. Where an API Gateway stands in front it has such limits; a container's port has none but these.

    a request's head        10 s, 64 KiB and 200 lines (trailers among them)    408, 400
    its body                60 s                                                408
    connections             1,000                                               the one that has been without a whole
                                                                                request for longest gives way; 503 when
                                                                                all are being answered
    requests in a row       8 wait behind one that is being answered            closed
    a reader that stops     90 s without taking what waits for it               closed

Bodies' bytes are the app's to count (gateway.http.edge, gateway.http.room).
"""

from __future__ import annotations

import asyncio
import ipaddress
import secrets
from http import HTTPStatus
from typing import Any, ClassVar

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from gateway import telemetry
from gateway.errors import GatewayError, InvalidRequest, Overloaded, RequestTimeout
from gateway.http.edge import SECURITY_HEADERS, body_of

HEAD_S = 10.0
BODY_S = 60.0
MAX_HEAD_BYTES = 64 << 10
MAX_HEAD_LINES = 200
MAX_CONNECTIONS = 1000
MAX_PIPELINED = 8
READER_S = 90.0
"""Longer than an answer waits for a client that takes nothing (gateway.http.reply): it is settled before."""

HEAD_TOO_LARGE = f"The request's address and headers may have {MAX_HEAD_BYTES:,} bytes and {MAX_HEAD_LINES} lines."


class BoundedProtocol(HttpToolsProtocol):
    """A connection. `waiting` has those without a whole request, who has waited longest first."""

    waiting: ClassVar[dict[BoundedProtocol, None]] = {}

    def __init__(self, *given: Any, **named: Any) -> None:
        super().__init__(*given, **named)
        self._deadline: asyncio.TimerHandle | None = None
        self._stalled: asyncio.TimerHandle | None = None
        self._refusal: GatewayError | None = None
        self._is_in_body = False
        self._around_bytes = self._body_bytes = 0
        """Received of the present request: what is not its body since the last piece of body, and its body."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        if self.client:
            self.client = (_unmapped(self.client[0]), self.client[1])
        if len(self.connections) > MAX_CONNECTIONS and not self._make_way():
            self._refuse(Overloaded())
            return
        self.waiting[self] = None
        self._expire_after(HEAD_S)

    def connection_lost(self, exc: Exception | None) -> None:
        self._is_read()
        self._has_arrived()
        super().connection_lost(exc)

    def pause_writing(self) -> None:
        """Bytes wait that the client does not take. Closing would wait for it, too; so the connection is cut."""
        super().pause_writing()
        self._stalled = self.loop.call_later(READER_S, self.transport.abort)

    def resume_writing(self) -> None:
        super().resume_writing()
        self._is_read()

    def _is_read(self) -> None:
        if self._stalled is not None:
            self._stalled.cancel()
            self._stalled = None

    def data_received(self, data: bytes) -> None:
        if self._deadline is None:
            self._expire_after(HEAD_S)  # after a whole request: the first bytes of the next, if only empty lines
        before = self._body_bytes
        super().data_received(data)
        self._around_bytes += len(data) - (self._body_bytes - before)
        if self._around_bytes > MAX_HEAD_BYTES + len(data):
            self._refuse(InvalidRequest(HEAD_TOO_LARGE))

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._around_bytes = 0
        if self._deadline is None:
            self._expire_after(HEAD_S)
        if len(self.pipeline) >= MAX_PIPELINED:
            self._stop(InvalidRequest())

    def on_header(self, name: bytes, value: bytes) -> None:
        super().on_header(name, value)
        if len(self.headers) > MAX_HEAD_LINES:
            self._stop(InvalidRequest(HEAD_TOO_LARGE))

    def on_headers_complete(self) -> None:
        size = len(self.url) + sum(len(name) + len(value) for name, value in self.headers)
        if size > MAX_HEAD_BYTES:
            self._stop(InvalidRequest(HEAD_TOO_LARGE))
        super().on_headers_complete()
        self._is_in_body, self._around_bytes = True, 0
        self._expire_after(BODY_S)

    def on_body(self, body: bytes) -> None:
        self._body_bytes += len(body)
        self._around_bytes = 0
        super().on_body(body)

    def on_message_complete(self) -> None:
        super().on_message_complete()
        self._has_arrived()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        if self.timeout_keep_alive_task is not None:
            self.waiting[self] = None

    def send_400_response(self, msg: str) -> None:  # noqa: ARG002 - uvicorn's words, in plain text
        """Answer what the parser refused, or what stopped it."""
        self._refuse(self._refusal or InvalidRequest("The request is not valid HTTP/1.1."))

    def give_way(self) -> None:
        """Close this connection for another one, with a 503 where a request has begun."""
        self._refuse(Overloaded() if self._is_in_body else None)

    def _has_arrived(self) -> None:
        self._is_in_body, self._around_bytes = False, 0
        self.waiting.pop(self, None)
        self._expire_after(None)

    def _expire_after(self, seconds: float | None) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
        self._deadline = None if seconds is None else self.loop.call_later(seconds, self._expire)

    def _expire(self) -> None:
        if self._is_answering():
            self._expire_after(HEAD_S)  # a further request may wait for its turn
        else:
            self._refuse(RequestTimeout() if self._around_bytes or self._is_in_body else None)

    def _is_answering(self) -> bool:
        """Whether a whole request of this connection has not been answered to its end."""
        is_answered = getattr(self.cycle, "response_complete", True)  # there is no cycle before the first request
        return bool(self.pipeline) or not (is_answered or self._is_in_body)

    def _can_answer(self) -> bool:
        """Whether an answer now would be that of the request which is being received."""
        if self._is_in_body:
            return not self.pipeline and not self.cycle.response_started
        return not self._is_answering()

    def _make_way(self) -> bool:
        """Close the connection that has been without a whole request for longest; whether there was one."""
        if (longest := next(iter(self.waiting), None)) is None:
            return False
        longest.give_way()
        return True

    def _stop(self, refusal: GatewayError) -> None:
        """Have the parser stop, from one of its callbacks; the refusal is answered. Raises it."""
        self._refusal = refusal
        raise refusal

    def _refuse(self, refusal: GatewayError | None) -> None:
        """Close the connection, with the refusal as an answer where there is one and a client would read it as that."""
        self.waiting.pop(self, None)
        self._expire_after(None)
        if self.transport.is_closing():
            return
        if refusal is not None:
            telemetry.log("request_not_received", code=refusal.code, status=refusal.status)
            if self._can_answer():
                self.transport.write(_answer(refusal))
        self.transport.close()


def _answer(refusal: GatewayError) -> bytes:
    """A refusal as HTTP/1.1, for a client that may not have sent a whole request."""
    request_id = f"req_{secrets.token_hex(12)}"
    body = body_of(refusal, request_id)
    own = {"content-type": "application/json", "content-length": str(len(body)), "connection": "close"}
    headers = [(name.encode(), value.encode()) for name, value in (own | refusal.headers()).items()]
    headers += [(b"x-request-id", request_id.encode()), *SECURITY_HEADERS]
    lines = [b"%b: %b\r\n" % header for header in headers]
    status = HTTPStatus(refusal.status)
    return b"".join([f"HTTP/1.1 {status.value} {status.phrase}\r\n".encode(), *lines, b"\r\n", body])


def _unmapped(host: str) -> str:
    """An address of IPv4 as such: a port of IPv6 shows it inside an address of its own."""
    try:
        mapped = ipaddress.IPv6Address(host).ipv4_mapped
    except ValueError:
        return host
    return str(mapped or host)

"""An app that tries the streaming runtime. What it waits for and what it has done are files that the test names."""

from __future__ import annotations

import asyncio
import os
import sys
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from snapshot_restore_py import register_after_restore, register_before_snapshot
from starlette.applications import Starlette
from starlette.background import BackgroundTask
from starlette.responses import JSONResponse, RedirectResponse, Response, StreamingResponse
from starlette.routing import Route

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from starlette.requests import Request

HISTORY: list[str] = []
register_before_snapshot(lambda: HISTORY.append("before snapshot"))
register_after_restore(lambda: HISTORY.append("after restore"))
if "BREAK_RESTORE" in os.environ:
    register_after_restore(lambda: HISTORY.remove("what is not there"))


async def opened(gate: str) -> None:
    while not await asyncio.to_thread(Path(gate).exists):  # noqa: ASYNC110 - another process opens it
        await asyncio.sleep(0.01)


async def events(request: Request) -> Response:
    """Three events; before the one whose number is `wait`, the gate has to be opened."""
    query = request.query_params

    async def body() -> AsyncIterator[str]:
        for number in range(3):
            if query.get("wait") == str(number):
                await opened(query["gate"])
            yield f"data: {number}\n\n"

    return StreamingResponse(body(), media_type="text/event-stream")


async def background(request: Request) -> Response:
    async def work() -> None:
        await opened(request.query_params["gate"])
        Path(request.query_params["done"]).touch()

    return Response("answered", background=BackgroundTask(work))


async def broken_background(_: Request) -> Response:
    async def work() -> None:
        raise ValueError("after the response")

    return Response("answered", background=BackgroundTask(work))


async def endless(request: Request) -> Response:
    """Streams until it is cancelled, and then clears up."""

    async def body() -> AsyncIterator[str]:
        try:
            yield "first"
            await asyncio.Event().wait()
        finally:
            await asyncio.sleep(0)
            Path(request.query_params["done"]).touch()

    return StreamingResponse(body())


async def stubborn(_: Request) -> Response:
    """Holds the event loop, so that it cannot be cancelled."""
    while True:
        pass


async def mid_stream(request: Request) -> Response:
    async def body() -> AsyncIterator[str]:
        yield "first"
        raise ValueError(request.query_params.get("text", "x") * 100_000)

    return StreamingResponse(body())


async def disconnected(request: Request) -> Response:
    """Whether the app hears of a client that has gone, while it streams and after it has."""
    done = Path(request.query_params["done"])
    await request.body()

    async def work() -> None:
        message = await request.receive()
        await asyncio.to_thread(done.write_text, message["type"])

    waiting = asyncio.create_task(work())

    async def body() -> AsyncIterator[str]:
        yield "first"
        await asyncio.sleep(0.01)
        yield str(waiting.done())

    async def join() -> None:
        await waiting

    return StreamingResponse(body(), background=BackgroundTask(join))


async def cookies(_: Request) -> Response:
    response = JSONResponse({})
    response.set_cookie("a", "1")
    response.set_cookie("b", "2")
    response.headers.append("vary", "origin")
    response.headers.append("vary", "accept")
    return response


async def echo(request: Request) -> Response:
    return Response(await request.body(), media_type="application/octet-stream")


async def empty(request: Request) -> Response:
    return Response(status_code=int(request.query_params["status"]))


async def redirect(_: Request) -> Response:
    return RedirectResponse("/elsewhere", status_code=302)


async def big(_: Request) -> Response:
    return StreamingResponse((b"x" * 65_536 for _ in range(128)), media_type="text/plain")


async def scope(request: Request) -> Response:
    """What the app can see of its request and of its environment."""
    context = request.scope["aws.context"]
    return JSONResponse(
        {
            "path": request.scope["path"],
            "raw_path": request.scope["raw_path"].decode(),
            "headers": [[name.decode(), value.decode()] for name, value in request.headers.raw],
            "query": request.query_params.multi_items(),
            "server": request.scope["server"],
            "client": request.scope["client"],
            "spec_version": request.scope["asgi"]["spec_version"],
            "resource": request.scope["aws.event"]["resource"],
            "function": context.function_name,
            "remaining_ms": context.get_remaining_time_in_millis(),
            "state": request.state.started,
            "pid": os.getpid(),
            "loop": id(asyncio.get_running_loop()),
            "history": HISTORY,
            "modules": len(sys.modules),
        }
    )


async def exit_now(_: Request) -> Response:
    os._exit(3)


@asynccontextmanager
async def lifespan(_: Starlette) -> AsyncIterator[dict[str, str]]:
    HISTORY.append("startup")
    yield {"started": "yes"}
    sys.stdout.write("lifespan ended\n")


HANDLERS = [
    *(events, background, broken_background, endless, stubborn, mid_stream, disconnected),
    *(cookies, echo, empty, redirect, big, scope, exit_now),
]
app = Starlette(
    routes=[
        Route(f"/{{group}}/{handler.__name__}{rest}", handler, methods=["GET", "POST", "HEAD"])
        for handler in HANDLERS
        for rest in ("", "/{rest:path}")
    ],
    lifespan=lifespan,
)

"""A buffered group: FastAPI on the stock runtime."""

from __future__ import annotations

import asyncio
import os
import time

from fastapi import FastAPI, Request, Response

from gateway.http.adapter import lambda_handler

app = FastAPI(openapi_url=None)


@app.get("/things/first")
async def first() -> dict[str, str]:
    return {"thing": "the first"}


@app.get("/things/{thing}")
async def things(thing: str) -> dict[str, str | int]:
    if thing == "crash":
        os._exit(3)
    if thing == "slow":
        time.sleep(60)  # noqa: ASYNC251 - what a timeout is for
    if thing == "raise":
        raise ValueError("nothing that a client should read")
    return {"thing": thing, "pid": os.getpid(), "loop": id(asyncio.get_running_loop())}


@app.api_route("/models/{model:path}", methods=["GET", "POST", "PUT"])
async def models(model: str, request: Request) -> dict[str, object]:
    event = request.scope["aws.event"]
    return {
        "model": model,
        "event": event,
        "variables": {name: os.environ.get(name) for name in ("STAGE", "QUEUE_NAME", "KIND", "SECRET_ARN", "EXTRA")},
    }


@app.get("/binary")
async def binary() -> Response:
    return Response(bytes(range(256)), media_type="application/octet-stream")


handler = lambda_handler(app)

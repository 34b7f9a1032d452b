"""Every group's routes as one ASGI app, for one process: a container, Heroku, Railway, Vercel.

Which group serves a path is read off the groups' own routes. A group whose settings are incomplete is left out, so that
where nothing is sold the rest still runs; what no group serves is the ordinary 404.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterable, MutableMapping
from typing import Any

from starlette.routing import Route, Router

from chat.handler import connections
from gateway import telemetry
from gateway.http.edge import App, Edge, Receive, Send
from gateway.settings import IncompleteSettings

GROUPS = (
    "account",
    "admin",
    "auth",
    "billing",
    "catalog",
    "chat",
    "health",
    "history",
    "stripe_webhook",
    "trials",
)


class Groups:
    """ASGI to the group that has the path; to `rest` where none has it, and for the lifespan."""

    def __init__(self, groups: Iterable[Edge], rest: App) -> None:
        routes = [(route, group) for group in groups for route in group.routes if isinstance(route, Route)]
        self._rest = rest
        self._exact = {route.path: group for route, group in routes if "{" not in route.path}
        self._patterns = [(route.path_regex, group) for route, group in routes if "{" in route.path]

    async def __call__(self, scope: MutableMapping[str, Any], receive: Receive, send: Send) -> None:
        await self.serving(scope.get("path", ""))(scope, receive, send)

    def serving(self, path: str) -> App:
        """Who answers for a path; a path that is written out goes before one with a variable, as in API Gateway."""
        return self._exact.get(path) or next((of for regex, of in self._patterns if regex.match(path)), self._rest)


def groups() -> list[Edge]:
    """The groups that can run with these settings."""
    found: list[Edge] = []
    for name in GROUPS:
        try:
            found.append(importlib.import_module(f"{name}.handler").app)
        except IncompleteSettings as incomplete:
            telemetry.log("group_left_out", level="WARNING", group=name, reason=str(incomplete))
    return found


own = Router(redirect_slashes=False, lifespan=connections)
"""Routes that only a container has, and the 404 of all others."""
app = Groups(groups(), Edge(own, own.routes))

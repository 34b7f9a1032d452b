"""Resend on this machine: takes mails as https://resend.com/docs/api-reference/emails/send-email says, keeps them in a
folder and shows them on a page. Nothing is sent to anybody.
"""

from __future__ import annotations

import json
import re
import uuid
from datetime import UTC, datetime
from html import escape
from typing import TYPE_CHECKING, Any

from starlette.applications import Starlette
from starlette.responses import HTMLResponse, JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

if TYPE_CHECKING:
    from pathlib import Path

    from starlette.requests import Request

API_KEY = "re_local"
SENDER = "Gatewayz <gatewayz@example.com>"
ADDRESS = re.compile(r"[^\s@<>]+@[^\s@<>]+|[^<>@\r\n]+ <[^\s@<>]+@[^\s@<>]+>")
NO_SCRIPTS = {"content-security-policy": "default-src 'none'; style-src 'unsafe-inline'; form-action 'none'"}

PAGE = """<!DOCTYPE html><html lang="en"><meta charset="utf-8"><title>Mailbox</title>
<meta http-equiv="refresh" content="5">
<style>
body{font:15px/1.5 system-ui;max-width:56rem;margin:2rem auto;padding:0 1rem}td{padding:.3rem 1rem .3rem 0}
</style>
<h1>Mailbox</h1><p>What the gateway has mailed; a job sends what is due once a minute.</p><table>"""


class Resend:
    """One account of Resend's, with its mails in `folder`; those of the last run are there again."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.folder = folder
        self.mails: list[dict[str, Any]] = [json.loads(file.read_text()) for file in sorted(folder.glob("*.json"))]
        self.refusals: list[tuple[int, str]] = []
        """Status and name of what the next mails are refused with."""
        self.app = Starlette(
            routes=[
                Route("/emails", self._take, methods=["POST"]),
                Route("/emails/{id}", self._retrieve),
                Route("/", self._list),
                Route("/mails/{id}.{form}", self._show),
            ]
        )

    def settings(self, address: str) -> dict[str, str]:
        """The settings of a gateway whose mails come to this account, which listens at `address`."""
        return {"RESEND_API_KEY": API_KEY, "RESEND_BASE_URL": address, "MAIL_FROM": SENDER}

    async def _take(self, request: Request) -> Response:
        scheme, _, key = request.headers.get("authorization", "").partition(" ")
        if scheme != "Bearer" or not key:
            return _refused(401, "missing_api_key", "Missing API key in the authorization header.")
        if key != API_KEY:
            return _refused(403, "invalid_api_key", "API key is invalid.")
        if self.refusals:
            return _refused(*self.refusals.pop(0), "Refused, as the test wants it.")
        mail = json.loads(await request.body())
        if wrong := _fault(mail):
            return _refused(422, "validation_error", wrong)
        return self._keep(mail, request.headers.get("idempotency-key"))

    def _keep(self, mail: dict[str, Any], key: str | None) -> Response:
        """Once per key: the same mail again is the mail that is there, another one is refused."""
        if key is not None and not 1 <= len(key) <= 256:
            return _refused(400, "invalid_idempotency_key", "The key must be between 1-256 chars.")
        for kept in self.mails:
            if key is not None and kept["idempotency_key"] == key:
                if kept["mail"] == mail:
                    return JSONResponse({"id": kept["id"]})
                told = "Same idempotency key used with a different request payload."
                return _refused(409, "invalid_idempotent_request", told)
        now = datetime.now(UTC)
        kept = {"id": str(uuid.uuid4()), "created_at": now.isoformat(), "idempotency_key": key, "mail": mail}
        self.mails.append(kept)
        slug = re.sub(r"[^a-z0-9]+", "-", mail["subject"].lower()).strip("-")[:40]
        name = f"{now:%Y%m%d-%H%M%S-%f}-{slug}"
        (self.folder / f"{name}.json").write_text(json.dumps(kept, indent=1))
        for form in ("html", "text"):
            if mail.get(form):
                (self.folder / f"{name}.{'txt' if form == 'text' else form}").write_text(mail[form])
        return JSONResponse({"id": kept["id"]})

    def _found(self, request: Request) -> dict[str, Any] | None:
        return next((each for each in self.mails if each["id"] == request.path_params["id"]), None)

    async def _retrieve(self, request: Request) -> Response:
        if (kept := self._found(request)) is None:
            return _refused(404, "not_found", "Email not found")
        told = {"object": "email", "id": kept["id"], "created_at": kept["created_at"], "last_event": "delivered"}
        return JSONResponse({**told, **kept["mail"]})

    async def _list(self, _: Request) -> Response:
        rows = [
            f"<tr><td>{escape(kept['created_at'][:19])}<td>{escape(', '.join(kept['mail']['to']))}"
            f'<td><a href="/mails/{kept["id"]}.html">{escape(kept["mail"]["subject"])}</a>'
            f'<td><a href="/mails/{kept["id"]}.txt">text</a><td><a href="/mails/{kept["id"]}.json">all</a>'
            for kept in reversed(self.mails)
        ]
        return HTMLResponse(PAGE + ("\n".join(rows) or "<tr><td>Nothing yet.") + "</table></html>")

    async def _show(self, request: Request) -> Response:
        kept, form = self._found(request), request.path_params["form"]
        if kept is None or form not in ("html", "txt", "json"):
            return PlainTextResponse("There is no such mail.", 404)
        if form == "json":
            return JSONResponse(kept)
        if form == "txt":
            return PlainTextResponse(kept["mail"].get("text", ""))
        return HTMLResponse(kept["mail"].get("html", ""), headers=NO_SCRIPTS)


def _fault(mail: Any) -> str | None:
    """What Resend would say is wrong with a mail."""
    if not isinstance(mail, dict):
        return "The request body must be an object."
    receivers = mail.get("to")
    if isinstance(receivers, str):
        mail["to"] = receivers = [receivers]
    for name, values in (("from", [mail.get("from")]), ("to", receivers)):
        good = isinstance(values, list) and 1 <= len(values) <= 50
        if not good or not all(isinstance(each, str) and ADDRESS.fullmatch(each) for each in values or []):
            return f"Invalid `{name}` field. The email address needs to follow the `email@example.com` format."
    if not isinstance(mail.get("subject"), str) or not (mail.get("html") or mail.get("text")):
        return "Missing `subject`, or both `html` and `text`."
    return None


def _refused(status: int, name: str, message: str) -> Response:
    return JSONResponse({"statusCode": status, "name": name, "message": message}, status)

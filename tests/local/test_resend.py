"""The Resend of `make run`: what it takes, refuses and shows, as Resend's own client has it where that is installed."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING, Any, cast

import httpx
import pytest
import resend as official

from local.resend import API_KEY, Resend
from tests.harness.gateway import listening, on_lambda

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from tests.harness.mailbox import Mailbox
    from tests.harness.postgres import Database

MAIL = {"from": "a@example.com", "to": ["b@example.com"], "subject": "Hi", "html": "<b>x</b>", "text": "x"}
LOGIN = {"authorization": f"Bearer {API_KEY}"}


@pytest.fixture
async def resend(tmp_path: Path) -> AsyncIterator[tuple[Resend, httpx.AsyncClient]]:
    running = Resend(tmp_path / "mailbox")
    async with listening(running.app) as address, httpx.AsyncClient(base_url=address, trust_env=False) as client:
        yield running, client


async def test_a_mail_lands_in_the_folder_and_on_the_page(resend: tuple[Resend, httpx.AsyncClient], tmp_path: Path):
    running, client = resend
    answer = await client.post("/emails", json=MAIL, headers=LOGIN)
    mail_id = answer.json()["id"]
    files = sorted(file.suffix for file in running.folder.iterdir())
    assert files == [".html", ".json", ".txt"]
    page = (await client.get("/")).text
    assert f"/mails/{mail_id}.html" in page
    assert (await client.get(f"/mails/{mail_id}.html")).text == MAIL["html"]
    assert (await client.get(f"/mails/{mail_id}.txt")).text == "x"
    assert Resend(tmp_path / "mailbox").mails == running.mails, "the next run shows it, too"
    assert (await client.get("/mails/nothing.html")).status_code == 404


async def test_one_key_is_one_mail(resend: tuple[Resend, httpx.AsyncClient]):
    running, client = resend
    headers = LOGIN | {"idempotency-key": "one"}
    answers = await asyncio.gather(*(client.post("/emails", json=MAIL, headers=headers) for _ in range(5)))
    assert len({answer.json()["id"] for answer in answers}) == len(running.mails) == 1
    other = await client.post("/emails", json=MAIL | {"subject": "Other"}, headers=headers)
    assert (other.status_code, other.json()["name"]) == (409, "invalid_idempotent_request")


@pytest.mark.parametrize(
    ("change", "headers", "status"),
    [
        ({}, {}, 401),
        ({}, {"authorization": "Bearer re_other"}, 403),
        ({"to": ["nobody"]}, LOGIN, 422),
        ({"to": []}, LOGIN, 422),
        ({"from": None}, LOGIN, 422),
        ({"subject": None}, LOGIN, 422),
        ({"html": None, "text": None}, LOGIN, 422),
        ({}, LOGIN | {"idempotency-key": "x" * 257}, 400),
    ],
)
async def test_what_resend_refuses_is_refused(
    resend: tuple[Resend, httpx.AsyncClient], change: dict[str, Any], headers: dict[str, str], status: int
):
    running, client = resend
    answer = await client.post("/emails", content=json.dumps(MAIL | change), headers=headers)
    assert (answer.status_code, answer.json()["statusCode"]) == (status, status)
    assert running.mails == []


async def test_resends_own_client_is_served(resend: tuple[Resend, httpx.AsyncClient], monkeypatch: pytest.MonkeyPatch):
    running, client = resend
    monkeypatch.setattr(official, "api_key", API_KEY)
    monkeypatch.setattr(official, "api_url", str(client.base_url).rstrip("/"))

    def use() -> tuple[Any, Any, Any]:
        mail, options = cast("Any", MAIL), official.Emails.SendOptions(idempotency_key="two")
        first, second = (official.Emails.send(mail, options) for _ in range(2))
        return first["id"], second["id"], official.Emails.get(first["id"])

    first, second, read = await asyncio.to_thread(use)
    assert first == second == running.mails[0]["id"]
    assert (read["subject"], read["to"]) == ("Hi", ["b@example.com"])
    monkeypatch.setattr(official, "api_key", "re_other")
    with pytest.raises(official.exceptions.ResendError, match="API key is invalid"):
        await asyncio.to_thread(official.Emails.send, cast("Any", MAIL))


async def test_the_job_mails_from_its_own_process(database: Database, mailbox: Mailbox, tmp_path: Path):
    async with on_lambda(database, tmp_path / "queues", mailbox.settings(mailbox.address)) as gateway:
        assert await gateway.aws.invoke("JobsFunction", {"job": "send_outbox"}) == {"sent": 2, "failed": 0}
    assert [subject for _, subject in mailbox.taken] == ["A new API key for your account"] * 2
    assert f"{gateway.user_id}.key_events" in "".join(mail["mail"]["text"] for mail in mailbox.mails)

"""No secret, no prompt and no word of a provider is in any log, answer, exception, repr or table."""

from __future__ import annotations

import logging
import os
import traceback
from typing import TYPE_CHECKING, Any

import msgspec
import pytest

from gateway import keys, providers, settings
from gateway.errors import Unauthenticated
from gateway.providers import base
from gateway.settings import IncompleteSettings
from tests.harness.gateway import (
    CANARY,
    DATABASE_PASSWORD,
    DONE,
    GPT,
    NOBODY,
    PROVIDER_KEY,
    InProcess,
    answer,
    delta,
    event,
    eventually,
    finish,
    on_lambda,
    provider,
    usage,
)
from tests.harness.upstream import Fault, Upstream, streamed, whole
from tests.runtime.waiting import until

if TYPE_CHECKING:
    from pathlib import Path

    import httpx

    from tests.harness.postgres import Database

PEPPER = os.environ["KEY_PEPPERS"].partition(":")[2]
OURS = (PEPPER, PROVIDER_KEY, DATABASE_PASSWORD)
PROMPT = "prompt-that-nobody-else-may-read"
UPSTREAM = "words-of-the-provider-that-nobody-may-read"
SAYING: list[dict[str, Any]] = [{"role": "user", "content": PROMPT}]
TOLD = event({"error": {"message": f"{UPSTREAM} {PROVIDER_KEY}", "code": 500}})
PROVIDERS = provider("openrouter", "https://x.example") | provider("portkey", "https://y.example")
ENVIRONMENT = {**os.environ, "DATABASE_URL": NOBODY, **PROVIDERS}


def found_in(text: str, *secrets: str) -> list[str]:
    """The secrets that a text shows."""
    return [secret for secret in secrets if secret in text]


async def failures(gateway: InProcess, upstream: Upstream) -> list[httpx.Response]:
    """A completion for each way in which one may fail, and one that does not."""
    responses: list[httpx.Response] = []
    gateway.connect("openrouter", upstream.url)
    refusal = f'{{"error": "{UPSTREAM} {PROVIDER_KEY} {PROMPT}"}}'.encode()
    replies = [whole(refusal, status) for status in (400, 401, 402, 404, 422, 429, 500, 503)]
    replies += [(Fault.RESET,), (Fault.STALL,), whole(refusal), whole(b"<" + refusal), whole(answer())]
    for stream in (False, True):
        broken = [
            streamed(delta("Hi"), end) for end in (TOLD, b"data: {" + refusal + b"\n\n", Fault.CLOSE, Fault.STALL)
        ]
        good = [streamed(delta("Hi"), finish(), usage(), DONE)]
        for reply in (*replies, *(broken + good if stream else ())):
            upstream.will(reply)
            responses.append(await gateway.ask(model=GPT, messages=SAYING, stream=stream))
        for name in ("authorize", "release", "settle"):
            for fault in (gateway.line.cut, gateway.line.broken):
                fault.add(name)
                upstream.will(whole(refusal, 500) if name == "release" else whole(answer()))
                responses.append(await gateway.ask(model=GPT, messages=SAYING, stream=stream and name != "settle"))
                await until(lambda name=name: name in gateway.line.calls)  # type: ignore[misc]
                gateway.line.calls.clear()
                fault.clear()
    responses.append(await gateway.ask(messages=SAYING, temperature=PROMPT))
    responses.append(await gateway.ask(key=keys.mint("dev").plaintext, messages=SAYING))
    return responses


async def test_in_answers_and_logs(
    gateway: InProcess,
    upstream: Upstream,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
):
    monkeypatch.setattr(base, "IDLE_S", 0.1)
    monkeypatch.setattr(base, "TOTAL_S", 0.3)
    monkeypatch.setattr("gateway.settlements.RETRY_S", (0.01,))
    caplog.set_level(logging.DEBUG)
    responses = await failures(gateway, upstream)
    gateway.line.broken = {"authenticate", "models"}
    for path in ("/v1/key", "/v1/credits", "/v1/models"):
        responses.append(await gateway.client.get(path, headers=gateway.headers()))
    out, err = capfd.readouterr()
    ours = [record.getMessage() for record in caplog.records if not record.name.startswith(("httpx", "httpcore"))]
    logged = "\n".join([out, err, *ours])
    assert "attempt_failed" in logged
    assert "request_failed" in logged
    assert not found_in(logged, *OURS, gateway.key, gateway.key[19:51], PROMPT, UPSTREAM, CANARY)
    for line in out.splitlines():
        assert msgspec.json.decode(line).keys() >= {"timestamp", "level", "event"}
    for response in responses:
        shown = response.text + str(response.headers)
        assert not found_in(shown, *OURS, gateway.key, PROMPT, UPSTREAM, CANARY, "Traceback", "asyncpg", "gateway.")
    await gateway.expire()


async def test_in_no_table(gateway: InProcess):
    await gateway.ask({"idempotency-key": "one"}, messages=SAYING)
    await gateway.ended()
    tables = str(await gateway.tables())
    assert not found_in(tables, *OURS, gateway.key, gateway.key[19:51])
    await gateway.ask(messages=[{"role": "user", "content": "x" * 100}])
    await gateway.ended(2)
    assert "x" * 100 not in str(await gateway.tables()), "without an Idempotency-Key no answer is kept"


async def test_in_no_log_of_a_function(database: Database, upstream: Upstream, tmp_path: Path):
    upstream.will(whole(UPSTREAM.encode(), 500), streamed(delta("Hi"), TOLD))
    async with on_lambda(database, tmp_path, provider("openrouter", upstream.url)) as gateway:
        shown = [(await gateway.ask(model=GPT, messages=SAYING, stream=True)).text for _ in range(2)]
        shown.append((await gateway.client.get("/v1/key", headers=gateway.headers(key=gateway.key[:-1]))).text)
        shown.append((await gateway.client.get("/v1/key", headers=gateway.headers())).text)
        await gateway.books.execute("alter function api.authorize rename to gone")
        shown.append((await gateway.ask(messages=SAYING)).text)
        await gateway.books.execute("drop table gateway.outbox cascade")
        await gateway.books.execute("drop function api.key_status")
        shown.append((await gateway.client.get("/v1/key", headers=gateway.headers())).text)
        await until(lambda: any("attempt_failed" in line for line in gateway.log))
    assert not found_in("\n".join([*gateway.log, *shown]), *OURS, gateway.key, PROMPT, UPSTREAM)


async def test_in_no_repr() -> None:
    loaded = settings.load(ENVIRONMENT)
    minted = keys.mint("dev")
    adapters = [make(loaded) for name, make in providers.ADAPTERS.items() if name in loaded.providers]
    shown = [loaded, loaded.aws, loaded.providers, minted, [minted], *adapters, msgspec.structs.asdict(loaded)]
    text = "".join(f"{each!r} {each!s}" for each in shown)
    assert not found_in(text, *OURS, minted.plaintext)


def test_in_no_exception() -> None:
    def told(error: BaseException) -> str:
        return "".join(traceback.TracebackException.from_exception(error, capture_locals=False).format())

    key = keys.mint("dev").plaintext
    with pytest.raises(Unauthenticated) as refused:
        keys.parse(key + CANARY)
    assert not found_in(told(refused.value), key, CANARY)
    for name, value in {
        "KEY_PEPPERS": f"v1:{CANARY}",
        "STAGE": CANARY,
        "OPENROUTER_BASE_URL": f"ftp://{CANARY}",
        "SUPABASE_URL": f"https://{CANARY}",
    }.items():
        with pytest.raises(IncompleteSettings) as incomplete:
            settings.load({**ENVIRONMENT, name: value})
        assert not found_in(told(incomplete.value), CANARY, *OURS), name


async def test_in_no_word_of_a_lost_settlement(
    gateway: InProcess, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
):
    """What is logged to be booked by hand has ids and numbers only."""
    monkeypatch.setattr("gateway.settlements.RETRY_S", (0.0,))
    monkeypatch.setattr("gateway.settlements.range", lambda _: range(2), raising=False)
    gateway.line.cut = {"settle"}
    await gateway.ask({"idempotency-key": "one"}, messages=SAYING)
    lost = ""

    async def logged() -> bool:
        nonlocal lost
        lost += capfd.readouterr().out
        return "settlement_lost" in lost

    await eventually(logged)
    assert not found_in(lost, *OURS, gateway.key, PROMPT)
    assert "cost_nano" in lost
    await gateway.expire()

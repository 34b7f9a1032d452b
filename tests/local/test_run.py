"""`make run`, as a new user has it: started, used with OpenAI's client, stopped, started again."""

from __future__ import annotations

import asyncio
import json
import os
import re
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from decimal import Decimal
from pathlib import Path

import asyncpg
import httpx
import openai
import pytest

from local.home import Home

pytestmark = pytest.mark.process

ROOT = Path(__file__).parent.parent.parent
START_DEADLINE_S = 60
STOP_DEADLINE_S = 20
SETTINGS = {
    "GATEWAY_URL", "GATEWAY_SIGN_IN", "GATEWAY_MAILBOX", "OPENAI_BASE_URL", "OPENAI_API_KEY", "GATEWAY_ADMIN_KEY",
    "DATABASE_URL",
}  # fmt: skip
PROGRAM = "import asyncio, pathlib, sys; from local.__main__ import main; asyncio.run(main(pathlib.Path(sys.argv[1])))"


@contextmanager
def running(folder: Path, **variables: str) -> Iterator[dict[str, str]]:
    """The program, and what it told the shell; at the end of the block Ctrl-C."""
    # what the tests' own settings are is nothing that a developer has
    environment = {
        name: value for name, value in os.environ.items() if not name.startswith(("DATABASE_URL", "PORT", "STRIPE_"))
    }
    process = subprocess.Popen(
        [sys.executable, "-u", "-c", PROGRAM, str(folder)],
        cwd=ROOT,
        env={**environment, "PYTHONPATH": "shared", **variables},
        bufsize=0,  # select sees the pipe, not a buffer
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    assert process.stdout is not None
    try:
        said = b""
        deadline = time.monotonic() + START_DEADLINE_S
        while b"Gatewayz is at" not in said:
            assert select.select([process.stdout], [], [], deadline - time.monotonic())[0], said
            said += (line := process.stdout.readline())
            assert line, said
        yield Home(folder).env()
        os.killpg(process.pid, signal.SIGINT)  # as a terminal does: to every process at once
        assert process.wait(STOP_DEADLINE_S) == 0
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        process.stdout.close()


def balance(env: dict[str, str]) -> Decimal:
    headers = {"authorization": f"Bearer {env['OPENAI_API_KEY']}"}
    answer = httpx.get(f"{env['OPENAI_BASE_URL']}/credits", headers=headers)
    return Decimal(answer.json()["data"]["balance_usd"])


def mailbox_page(env: dict[str, str]) -> str:
    return httpx.get(env["GATEWAY_MAILBOX"]).text


def streamed_cost(env: dict[str, str]) -> Decimal:
    """What one streamed completion says that it cost."""
    with openai.OpenAI(base_url=env["OPENAI_BASE_URL"], api_key=env["OPENAI_API_KEY"]) as client:
        chunks = list(
            client.chat.completions.create(
                model="sandbox/chat",
                messages=[{"role": "user", "content": "Hello"}],
                stream=True,
                stream_options={"include_usage": True},
            )
        )
    assert "Hello" in "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    usage = chunks[-1].usage
    assert usage is not None
    assert usage.model_extra is not None
    return Decimal(str(usage.model_extra["cost"]))


def in_bash(commands: str) -> subprocess.CompletedProcess[str]:
    """Commands in one shell, which ends at the first that fails."""
    strictly = ["bash", "-eu", "-o", "pipefail", "-c", commands]
    return subprocess.run(strictly, check=False, capture_output=True, text=True)


async def violations(env: dict[str, str]) -> int:
    connection = await asyncpg.connect(env["DATABASE_URL"])
    try:
        count: int = await connection.fetchval("select count(*) from gateway.ledger_violations")
        return count
    finally:
        await connection.close()


@pytest.mark.parametrize("transport", ["postgres", "supabase"])
async def test_a_new_user_s_first_minutes(tmp_path: Path, transport: str):
    folder = tmp_path / "home"
    with running(folder, TRANSPORT=transport) as env:
        assert set(env) == SETTINGS
        assert balance(env) == 100
        assert "Mailbox" in mailbox_page(env)
        cost = streamed_cost(env)
        assert cost > 0
        assert balance(env) == 100 - cost
        assert await violations(env) == 0
    # a shell that still has the last run's settings must not lead to a server that is gone
    with running(folder, TRANSPORT=transport, **env) as again:
        assert again["OPENAI_API_KEY"] == env["OPENAI_API_KEY"]
        assert balance(again) == 100 - cost


def test_a_taken_port_is_stepped_over(tmp_path: Path):
    with running(tmp_path / "one") as one, running(tmp_path / "two") as two:
        assert one["OPENAI_BASE_URL"] != two["OPENAI_BASE_URL"]
        assert one["DATABASE_URL"] != two["DATABASE_URL"]


def test_port_chooses_the_port(tmp_path: Path, unused_tcp_port: int):
    with running(tmp_path / "home", PORT=str(unused_tcp_port)) as env:
        assert env["OPENAI_BASE_URL"] == f"http://127.0.0.1:{unused_tcp_port}/v1"


@pytest.mark.parametrize(("page", "least"), [("accounts", 40), ("money", 15), ("mail", 4), ("inference", 18)])
async def test_a_tour_is_as_its_page_says(tmp_path: Path, page: str, least: int):
    """Every command of the page, in one shell."""
    text = (ROOT / "docs" / f"{page}.md").read_text()
    tour = "\n".join(re.findall(r"^```sh\n(.*?)^```$", text, re.MULTILINE | re.DOTALL))
    with running(tmp_path / "home") as env:
        tour = tour.replace(". .gateway/env", f". {tmp_path}/home/env").replace(".venv/bin/python", sys.executable)
        shell = await asyncio.to_thread(in_bash, tour)
        assert shell.returncode == 0, shell.stdout[-2000:] + shell.stderr[-2000:]
        answers = [json.loads(line) for line in shell.stdout.splitlines() if line.startswith("{")]
        assert len(answers) >= least
        assert all(answer.get("success", True) for answer in answers)
        assert await violations(env) == 0

"""The files that Heroku, Railway and Vercel read, about the program that they run."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from container.app import app
from gateway.database.postgres import COMMAND_TIMEOUT_S
from local.template import load
from tests.architecture.functions import ENVIRONMENT
from tests.container.process import ROOT, started
from tests.container.test_image import NOT_COPIED
from tests.harness.gateway import NOBODY, provider

pytestmark = pytest.mark.process

LIMITS = {function.name: function.timeout_s for function in load(ROOT / "template.yaml", "").functions}
COMMANDS = dict(line.split(": ", 1) for line in (ROOT / "Procfile").read_text().splitlines())
ASK = """
import asyncio, importlib.util, sys, httpx
spec = importlib.util.spec_from_file_location("entry", sys.argv[1])
entry = importlib.util.module_from_spec(spec)
spec.loader.exec_module(entry)
async def ask():
    async with httpx.AsyncClient(transport=httpx.ASGITransport(entry.app), base_url="http://gateway") as client:
        print((await client.get("/ping")).json()["status"], (await client.get("/v1/nothing")).status_code)
asyncio.run(ask())
"""


def read(name: str) -> dict[str, Any]:
    document: dict[str, Any] = json.loads((ROOT / name).read_text())
    return document


@pytest.mark.parametrize(("process", "event"), [("web", "listening"), ("jobs", "schedules_started")])
async def test_the_procfiles_commands_start(process: str, event: str):
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    nowhere = provider("openrouter", "http://127.0.0.1:1") | provider("chutes", "http://127.0.0.1:1")
    async with started("sh", "-c", COMMANDS[process], PATH=path, PYTHONPATH="", DATABASE_URL=NOBODY, **nowhere) as ours:
        await ours.logged(event)


def test_what_a_builder_installs_is_what_the_image_has():
    assert (ROOT / "requirements.txt").read_text() == (ROOT / "requirements/container.txt").read_text()
    assert (ROOT / ".python-version").read_text().strip() == "3.13"


def test_railway_lets_each_process_end_what_it_began():
    web, jobs = read("railway.json"), read("container/railway.jobs.json")
    assert web["build"] == jobs["build"]
    assert (ROOT / web["build"]["dockerfilePath"]).is_file()
    graces = [each["deploy"]["drainingSeconds"] for each in (web, jobs)]
    assert all(type(grace) is int for grace in graces)  # Railway refuses the strings that its documentation shows
    assert graces[0] >= LIMITS["ChatFunction"] + 3 * COMMAND_TIMEOUT_S
    assert graces[1] >= LIMITS["JobsFunction"] + 3 * COMMAND_TIMEOUT_S
    assert app.serving(web["deploy"]["healthcheckPath"]) is not app.serving("/no-such-path")
    assert "healthcheckPath" not in jobs["deploy"]
    assert jobs["deploy"]["startCommand"] in COMMANDS["jobs"]


def test_vercel_sends_every_path_to_one_function_for_as_long_as_a_completion_may_take():
    given = read("vercel.json")
    (rewrite,) = given["rewrites"]
    ((file, function),) = given["functions"].items()
    assert f"{rewrite['destination'].strip('/')}.py" == file
    assert re.fullmatch(rewrite["source"], "/v1/chat/completions")
    assert function["maxDuration"] >= LIMITS["ChatFunction"]


def test_what_vercel_is_sent_is_enough(tmp_path: Path):
    copy = tmp_path / "copy"
    shutil.copytree(ROOT, copy, ignore=NOT_COPIED, symlinks=True)
    subprocess.run(["git", "init", "--quiet"], cwd=copy, check=True)
    asked = ["git", "ls-files", "--others", "--exclude-from=.vercelignore"]
    sent = subprocess.run(asked, cwd=copy, check=True, capture_output=True, text=True).stdout.splitlines()
    folder = tmp_path / "sent"
    for name in sent:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(copy / name, folder / name)
    assert {name.partition("/")[0] for name in sent} == {
        "api", "container", "functions", "requirements", "requirements.txt", "shared", "vercel.json", ".python-version",
    }  # fmt: skip
    alone = ENVIRONMENT | {"PYTHONPATH": "", "LOG_LEVEL": "ERROR"}
    done = subprocess.run(
        [sys.executable, "-c", ASK, str(folder / "api/index.py")],
        cwd="/", env=alone, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert (done.stdout, done.stderr) == ("pong 404\n", "")

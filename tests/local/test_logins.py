"""`make logins`, on a stack at an AWS of our own and a Postgres that asks for passwords."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import asyncpg
import httpx
import pytest

from gateway import aws, database, errors
from gateway.database.postgres import Postgres
from local import logins, postgres, schema, stack
from local.template import load
from tests.database.grants import MAY_EXECUTE
from tests.harness.cloud import REGION, client
from tests.harness.gateway import TEMPLATE
from tests.harness.postgres import binaries, prepare, running

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

pytestmark = pytest.mark.process

HBA = "host all postgres 127.0.0.1/32 trust\nhost all all 127.0.0.1/32 scram-sha-256\n"
MINE = """
select proname from pg_proc where pronamespace = 'api'::regnamespace and has_function_privilege(oid, 'execute')
"""
CREDENTIALS = {"AWS_ACCESS_KEY_ID": "AKID", "AWS_SECRET_ACCESS_KEY": "x"}


@pytest.fixture(scope="module")
def strict_server() -> Iterator[postgres.Server]:
    """A server that asks everybody but its operator for a password."""
    with running(binaries()) as (server, data):
        asyncio.run(prepare(server))
        asyncio.run(schema.apply(server.url()))
        server.stop()
        (data / "pg_hba.conf").write_text(HBA)
        server.start()
        yield server


@pytest.fixture
async def operator(strict_server: postgres.Server) -> AsyncIterator[asyncpg.Connection]:
    connection = await asyncpg.connect(strict_server.url())
    yield connection
    await connection.close()


class Deployed:
    """A stage's stack, as far as logins go."""

    def __init__(self, cloud: str, core: dict[str, str], groups: tuple[str, ...] = stack.GROUPS) -> None:
        self.cloud, vault = cloud, client("secretsmanager", cloud)
        role = client("iam", cloud).create_role(RoleName="functions", AssumeRolePolicyDocument="{}")["Role"]["Arn"]
        common = {"CORE_SECRET_ARN": a_secret(vault, "core", core)}
        self.arns = {group: a_secret(vault, group, {}) for group in groups}
        functions = {
            stack.function_of(group): a_function(role, common | {"LOGIN_SECRET_ARN": self.arns.get(group, "")})
            for group in stack.GROUPS
        }
        template = {"AWSTemplateFormatVersion": "2010-09-09", "Resources": functions}
        client("cloudformation", cloud).create_stack(StackName="gatewayz-dev", TemplateBody=json.dumps(template))

    def members(self, group: str) -> dict[str, str]:
        """A group's own secret, as its function reads it."""
        account = aws.Account(REGION, "AKID", "x", "", {"secretsmanager": self.cloud})
        return aws.secret(account, self.arns[group])

    def url(self, group: str) -> str:
        return self.members(group)["DATABASE_URL"]

    def variables(self, group: str) -> dict[str, str]:
        told = client("lambda", self.cloud).list_functions()["Functions"]
        (found,) = [
            each["Environment"]["Variables"] for each in told if f"-{stack.function_of(group)}-" in each["FunctionName"]
        ]
        return dict(found)

    def alias(self, group: str) -> dict[str, str]:
        """The variables of the version that the alias `live` leads to; gives it one when there is none."""
        functions = client("lambda", self.cloud)
        (name,) = [
            each["FunctionName"]
            for each in functions.list_functions()["Functions"]
            if f"-{stack.function_of(group)}-" in each["FunctionName"]
        ]
        if not functions.list_aliases(FunctionName=name)["Aliases"]:
            version = functions.publish_version(FunctionName=name)["Version"]
            functions.create_alias(FunctionName=name, Name="live", FunctionVersion=version)
        version = functions.get_alias(FunctionName=name, Name="live")["FunctionVersion"]
        told = functions.get_function_configuration(FunctionName=name, Qualifier=version)
        return dict(told["Environment"]["Variables"])

    async def make_logins(self, operator_url: str) -> tuple[int, str]:
        """The exit status of `make logins`, and what it said."""
        return await self.make("local.logins", operator_url)

    async def make(self, program: str, operator_url: str = "") -> tuple[int, str]:
        """The exit status of a program on this stage, and what it said."""
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", program, "dev"),
            env={"PATH": os.defpath, **CREDENTIALS, "AWS_ENDPOINT_URL": self.cloud, "DATABASE_URL": operator_url},
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
        said, _ = await process.communicate()
        assert process.returncode is not None
        return process.returncode, said.decode()


def a_secret(vault: Any, name: str, members: dict[str, str]) -> str:
    return str(vault.create_secret(Name=name, SecretString=json.dumps(members))["ARN"])


def a_function(role: str, variables: dict[str, str]) -> dict[str, Any]:
    own = {"Role": role, "Code": {"ZipFile": "handler = None"}, "Environment": {"Variables": variables}}
    return {"Type": "AWS::Lambda::Function", "Properties": {"Runtime": "python3.13", "Handler": "index.handler", **own}}


@pytest.fixture
def core(strict_server: postgres.Server) -> dict[str, str]:
    return {
        "DATABASE_URL": strict_server.url(user="postgres:of-the-operator"),
        "KEY_PEPPERS": "v1:a-pepper-of-the-core",
    }


@pytest.fixture
def account(cloud: str) -> str:
    """An AWS account with nothing in it."""
    httpx.post(f"{cloud}/moto-api/reset").raise_for_status()
    return cloud


async def can_log_in(url: str) -> bool:
    try:
        await (await asyncpg.connect(url)).close()
    except asyncpg.InvalidAuthorizationSpecificationError:
        return False
    return True


async def test_each_function_logs_in_as_its_role_and_calls_its_functions(
    account: str, strict_server: postgres.Server, core: dict[str, str]
) -> None:
    stage = Deployed(account, core)
    assert not await can_log_in(strict_server.url(user="gateway_chat:guessed"))
    status, said = await stage.make_logins(strict_server.url())
    assert (status, said.splitlines()[-1]) == (0, "Done.")
    for group in stack.GROUPS:
        connection = await asyncpg.connect(stage.url(group))
        assert await connection.fetchval("select session_user") == schema.role(group)
        rows = await connection.fetch(MINE)
        assert {row["proname"] for row in rows} == {
            name for name, callers in MAY_EXECUTE.items() if schema.role(group) in callers
        }
        await connection.close()
        assert stage.variables(group).keys() == {"CORE_SECRET_ARN", "LOGIN_SECRET_ARN", stack.STARTED}


@pytest.mark.parametrize("program", ["local.logins", "local.restart"])
async def test_a_version_is_not_left_with_what_it_read_before(
    account: str, strict_server: postgres.Server, core: dict[str, str], program: str
) -> None:
    stage = Deployed(account, core)
    assert stack.STARTED not in stage.alias("chat")
    status, said = await stage.make(program, strict_server.url())
    assert status == 0, said
    assert stage.alias("chat")[stack.STARTED] == stage.variables("chat")[stack.STARTED]
    assert all(stack.STARTED in stage.variables(group) for group in stack.GROUPS)


async def test_a_stack_that_is_not_there_is_named(account: str) -> None:
    client("cloudformation", account).create_stack(
        StackName="gatewayz-dev", TemplateBody='{"Resources": {"Q": {"Type": "AWS::SQS::Queue"}}}'
    )
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "local.restart", "dev"),
        env={"PATH": os.defpath, **CREDENTIALS, "AWS_ENDPOINT_URL": account},
        stdout=asyncio.subprocess.PIPE,
    )
    said, _ = await process.communicate()
    assert process.returncode == 1
    assert b"gatewayz-dev has no HealthFunction" in said


async def test_a_function_cannot_call_anothers(
    account: str, strict_server: postgres.Server, core: dict[str, str]
) -> None:
    stage = Deployed(account, core)
    await stage.make_logins(strict_server.url())
    database.use(Postgres(stage.url("health")))
    assert await database.call("health") is not None
    with pytest.raises(errors.InternalError) as refused:
        await database.call("expire_holds")
    assert isinstance(refused.value.__cause__, database.Failure)
    assert refused.value.__cause__.code == "42501"
    await database.close()


async def test_no_password_is_shown_or_logged(
    account: str, strict_server: postgres.Server, core: dict[str, str], operator: asyncpg.Connection
) -> None:
    await operator.execute("alter system set log_statement = 'all'")
    await operator.execute("select pg_reload_conf()")
    stage = Deployed(account, core)
    _, said = await stage.make_logins(strict_server.url())
    log = (strict_server._data / "server.log").read_text()
    assert "alter role gateway_chat password" in log
    for group in stack.GROUPS:
        password = urlsplit(stage.url(group)).password
        assert password
        assert password not in log + said


async def test_a_second_run_replaces_every_password(
    account: str, strict_server: postgres.Server, core: dict[str, str]
) -> None:
    stage = Deployed(account, core)
    await stage.make_logins(strict_server.url())
    before = [stage.url(group) for group in stack.GROUPS]
    assert (await stage.make_logins(strict_server.url()))[0] == 0
    assert [await can_log_in(url) for url in before] == [False] * len(before)
    assert [await can_log_in(stage.url(group)) for group in stack.GROUPS] == [True] * len(before)


async def test_another_database_is_found_out_at_the_first_login_and_a_further_run_heals_it(
    account: str, server: postgres.Server, strict_server: postgres.Server, core: dict[str, str]
) -> None:
    """`server` has the same roles and is not where the core secret leads."""
    stage = Deployed(account, core)
    status, said = await stage.make_logins(server.url())
    assert status == 1
    assert "password authentication failed" in said
    assert not await can_log_in(stage.url("health"))
    assert "DATABASE_URL" not in stage.members("catalog")
    assert (await stage.make_logins(strict_server.url()))[0] == 0
    assert await can_log_in(stage.url("health"))


@pytest.mark.parametrize(
    ("members", "groups", "why"),
    [
        (
            {"DATABASE_URL": "postgresql://x"},
            stack.GROUPS[1:],
            "HealthFunction of gatewayz-dev has no LOGIN_SECRET_ARN",
        ),
        ({"SUPABASE_URL": "https://x"}, stack.GROUPS, "The core secret has no DATABASE_URL"),
    ],
)
async def test_what_is_missing_is_said_before_anything_changes(
    account: str, strict_server: postgres.Server, members: dict[str, str], groups: tuple[str, ...], why: str
) -> None:
    stage = Deployed(account, members, groups)
    status, said = await stage.make_logins(strict_server.url())
    assert status == 1
    assert why in said
    assert stage.members("chat") == {}


@pytest.mark.parametrize(
    ("core", "ours"),
    [
        ("postgresql://postgres.abc:p%40w@pool.example.com:6543/postgres?sslmode=require",
         "postgresql://gateway_chat.abc:secret@pool.example.com:6543/postgres?sslmode=require"),
        ("postgresql://postgres:p@db.abc.example.com/postgres", "postgresql://gateway_chat:secret@db.abc.example.com/postgres"),
    ],
)  # fmt: skip
def test_the_address_is_the_cores_with_another_user(core: str, ours: str) -> None:
    assert logins.address(core, "gateway_chat", "secret") == ours


def test_every_function_of_the_template_has_a_login() -> None:
    functions = {function.group for function in load(TEMPLATE, "").functions}
    assert functions == set(stack.GROUPS)

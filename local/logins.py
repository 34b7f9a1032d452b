"""`make logins STAGE=production`: gives every function's database role a password of its own, anew at each run.

It needs the stage's stack, deployed with logins, and DATABASE_URL, the operator's address of its database as `make
migrate` takes it. For each role it makes a password that nobody sees, stores the address with it in the function's own
secret (its LOGIN_SECRET_ARN), tells the database, and logs in to see that it works. The address is that of the
core secret's DATABASE_URL with another user and password.

A role has one password at a time. Between the two writes, a moment, and for longer if this program is stopped between
them, an environment of the function that starts cannot log in; run it again, and all is well. Environments that run
keep the connections they have and cannot open further ones with the password they have read, so callers would be told
503 now and then until Lambda replaces them, which may take hours. Therefore each function is given a changed variable
(LOGIN_CHANGED_AT), upon which Lambda starts it afresh; requests that are under way end as they would have.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
import json
import os
import secrets
import sys
import tomllib
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import asyncpg
import boto3

from local import schema

if TYPE_CHECKING:
    from collections.abc import Iterator

    from asyncpg import Connection

GROUPS = (
    "health", "catalog", "chat", "account", "admin", "auth", "billing", "history", "jobs", "stripe_webhook", "trials",
)  # fmt: skip
"""The one that matters least comes first: what is wrong with the addresses is found out there."""
POINTER = "LOGIN_SECRET_ARN"
"""The variable of a function that names its own secret."""
SAMCONFIG = Path(__file__).parent.parent / "samconfig.toml"
ITERATIONS = 4096
"""As Postgres itself takes for a SCRAM password (scram_iterations)."""


class NoLogins(RuntimeError):
    """Something is missing; the message says what, and every password is as it was."""


async def give(operator_url: str, stack: Stack) -> None:
    """New passwords for all roles, one after the other. Raises NoLogins before the first is changed, and
    asyncpg.PostgresError or OSError when the database refuses: those told of until then are done."""
    core = stack.core()
    connection = await asyncpg.connect(operator_url)
    try:
        await _check(connection)
        for group in GROUPS:
            password = secrets.token_urlsafe(32)
            url = address(core, schema.role(group), password)
            stack.store(group, url)
            # a verifier, because a statement with the password itself may be logged
            await connection.execute(f"alter role {schema.role(group)} password '{verifier(password)}'")
            await (await asyncpg.connect(url, statement_cache_size=0)).close()
            stack.restart(group)
            print(f"  {schema.role(group):<24} has a new password, and its function starts afresh")
    finally:
        await connection.close()


async def _check(connection: Connection) -> None:
    roles = {schema.role(group) for group in GROUPS}
    rows = await connection.fetch("select rolname from pg_roles where rolcanlogin and rolname = any ($1)", list(roles))
    if missing := sorted(roles - {row["rolname"] for row in rows}):
        raise NoLogins(f"The database has no logins for {', '.join(missing)}: run `make migrate` first.")


def address(core: str, role: str, password: str) -> str:
    """An address with another user, who keeps the project that Supabase's pooler wants to know: role.project."""
    parts = urlsplit(core)
    _, dot, project = (parts.username or "").partition(".")
    place = parts.netloc.rpartition("@")[2]
    return parts._replace(netloc=f"{role}{dot}{project}:{password}@{place}").geturl()


def verifier(password: str) -> str:
    """What Postgres stores of a password (RFC 5803), for which it need not see the password."""
    salt = secrets.token_bytes(16)
    salted = hashlib.pbkdf2_hmac("sha256", password.encode(), salt, ITERATIONS)
    client = hashlib.sha256(hmac.digest(salted, b"Client Key", "sha256")).digest()
    server = hmac.digest(salted, b"Server Key", "sha256")
    salt64, client64, server64 = (base64.b64encode(part).decode() for part in (salt, client, server))
    return f"SCRAM-SHA-256${ITERATIONS}:{salt64}${client64}:{server64}"


class Stack:
    """A deployed stack: by group its function, and the secrets that this one reads."""

    def __init__(self, name: str, region: str) -> None:
        self.name = name
        self._vault = boto3.client("secretsmanager", region_name=region)
        self._functions = boto3.client("lambda", region_name=region)
        # there are more resources than describe_stack_resources tells
        pages = boto3.client("cloudformation", region_name=region).get_paginator("list_stack_resources")
        ids = dict(_physical(pages.paginate(StackName=name)))
        if missing := [_function(group) for group in GROUPS if _function(group) not in ids]:
            raise NoLogins(f"The stack {name} has no {', '.join(missing)}.")
        self._names = {group: ids[_function(group)] for group in GROUPS}
        self._variables = {group: self._read(group) for group in GROUPS}
        if missing := [_function(group) for group in GROUPS if not self._variables[group].get(POINTER)]:
            raise NoLogins(f"{', '.join(missing)} of {name} has no {POINTER}: deploy it with logins first.")

    def core(self) -> str:
        """The core secret's DATABASE_URL."""
        arn = self._variables[GROUPS[0]]["CORE_SECRET_ARN"]
        url = json.loads(self._vault.get_secret_value(SecretId=arn)["SecretString"]).get("DATABASE_URL")
        if not url:
            raise NoLogins("The core secret has no DATABASE_URL; logins are for the postgres transport.")
        return str(url)

    def store(self, group: str, url: str) -> None:
        """Put an address into a group's own secret."""
        told = json.dumps({"DATABASE_URL": url})
        self._vault.put_secret_value(SecretId=self._variables[group][POINTER], SecretString=told)

    def restart(self, group: str) -> None:
        """Have the next requests served by environments that have read the secret anew."""
        now = datetime.now(UTC).isoformat(timespec="seconds")
        variables = self._variables[group] | {"LOGIN_CHANGED_AT": now}
        self._functions.update_function_configuration(
            FunctionName=self._names[group], Environment={"Variables": variables}
        )

    def _read(self, group: str) -> dict[str, str]:
        told = self._functions.get_function_configuration(FunctionName=self._names[group])
        return dict(told.get("Environment", {}).get("Variables", {}))


def _function(group: str) -> str:
    """The logical id of a group's function."""
    return "".join(word.capitalize() for word in group.split("_")) + "Function"


def _physical(pages: Any) -> Iterator[tuple[str, str]]:
    for page in pages:
        for resource in page["StackResourceSummaries"]:
            yield resource["LogicalResourceId"], resource.get("PhysicalResourceId", "")


def main(stage: str) -> int:
    """Give logins as the environment says; returns the exit status."""
    config = tomllib.loads(SAMCONFIG.read_text())
    url = os.environ.get("DATABASE_URL")
    if not url or stage not in config:
        print("Set DATABASE_URL to the operator's address, and STAGE to dev, staging or production.")
        return 2
    region = os.environ.get("AWS_REGION") or config["default"]["global"]["parameters"]["region"]
    try:
        stack = Stack(config[stage]["deploy"]["parameters"]["stack_name"], region)
        print(f"Stack {stack.name}:")
        asyncio.run(give(url, stack))
    except NoLogins as reason:
        print(reason)
        return 1
    except (asyncpg.PostgresError, OSError) as error:
        print(f"{error}\nThe functions that are not listed above may be unable to log in: run this again.")
        return 1
    print("Done.")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))

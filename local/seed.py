"""What a developer starts with: the sandbox's models, a customer with credit and a key, and an operator."""

from __future__ import annotations

import asyncpg
import msgspec

from gateway.keys import MintedKey, mint
from gateway.money import NANO
from gateway.scopes import Scope
from local.schema import SUPABASE

START_CREDIT_NANO = 100 * NANO
CUSTOMER = "developer"
ACTOR = msgspec.json.encode({"name": "seed", "scopes": tuple(Scope)}).decode()
"""As whom the operator writes into the audit log here."""


class Seeded(msgspec.Struct, frozen=True):
    """The keys that were made, in plaintext: the only time that they can be read."""

    customer_key: str
    admin_key: str


async def models(url: str) -> None:
    """Fill a database's catalogue; again changes nothing."""
    connection = await asyncpg.connect(url)
    try:
        await connection.execute((SUPABASE / "seed.sql").read_text())
    finally:
        await connection.close()


async def offers(url: str) -> None:
    """What an operator would decide: a trial, a reward for referrals, and a plan to subscribe to."""
    connection = await asyncpg.connect(url)
    try:
        await connection.execute("update gateway.trial_terms set credit_nano = 1000000000")
        await connection.execute(
            "update gateway.referral_terms set referrer_nano = 5000000000, referee_nano = 2000000000"
        )
        await connection.execute(
            "insert into gateway.plans (name, description, monthly_price_cents, allowance_nano, requests_per_minute)"
            " values ('pro', 'For a team', 2000, 25000000000, 1200) on conflict do nothing"
        )
    finally:
        await connection.close()


async def is_seeded(url: str) -> bool:
    """Whether a database has the developer's user."""
    connection = await asyncpg.connect(url)
    try:
        found = await connection.fetchval("select true from gateway.users where username = $1", CUSTOMER)
        return bool(found)
    finally:
        await connection.close()


async def seed(url: str, environment: str = "dev") -> Seeded:
    """Fill a database, as its operator: the catalogue, and two users with a key each. Users there already are kept."""
    await models(url)
    connection = await asyncpg.connect(url)
    try:
        customer = await _user(connection, CUSTOMER, "user")
        operator = await _user(connection, "operator", "admin")
        return Seeded(
            customer_key=(await add_key(connection, customer, environment)).plaintext,
            admin_key=(await add_key(connection, operator, environment)).plaintext,
        )
    finally:
        await connection.close()


async def _user(connection: asyncpg.Connection, name: str, role: str) -> int:
    known: int | None = await connection.fetchval("select id from gateway.users where username = $1", name)
    return known or await add_user(connection, name, role, credit_nano=START_CREDIT_NANO)


async def add_user(connection: asyncpg.Connection, name: str, role: str = "user", *, credit_nano: int = 0) -> int:
    """A user with this much credit; returns the id."""
    made = await connection.fetchval("select api.create_user($1, $2, $3, $4)", name, f"{name}@example.com", role, ACTOR)
    user_id: int = msgspec.json.decode(made)["user_id"]
    if credit_nano:
        grant = "select api.grant($1, $2, $3, 'start credit', $4)"
        await connection.fetchval(grant, user_id, f"seed:{user_id}", credit_nano, ACTOR)
    return user_id


async def add_key(
    connection: asyncpg.Connection,
    user_id: int,
    environment: str = "dev",
    scopes: tuple[Scope, ...] = tuple(Scope),
) -> MintedKey:
    """A key of a user's, with these scopes; named by its id."""
    key = mint(environment)
    await connection.fetchval(
        "select api.create_key($1, $2, $3, $4, $5, $6, $7, $8)",
        user_id, key.id, key.hash, key.last_four, environment, f"key {key.id[:4]}",
        msgspec.json.encode(scopes).decode(), ACTOR,
    )  # fmt: skip
    return key

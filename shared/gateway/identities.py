"""Who a verified sign-in token stands for: an issuer and a subject. Nothing is taken from what the caller says besides.

Privy: https://docs.privy.io/authentication/user-authentication/access-tokens and .../identity-tokens, ES256. Its access
token has a subject and no more; addresses are in its identity token, and in its API, which needs the app's secret.
Supabase Auth: https://supabase.com/docs/guides/auth/jwts, with asymmetric signing keys.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Iterable, Mapping
from typing import Any, Literal
from urllib.parse import quote

import msgspec
from yarl import URL

from gateway import outbound, tokens
from gateway.errors import InvalidToken, NoProviderAvailable, NotFound
from gateway.settings import PrivySettings, settings
from gateway.tokens import Issuer, Token

type Provider = Literal["privy", "supabase"]

ADDRESS = re.compile(r"[^\s@]{1,64}@[^\s@]{1,189}")
PROVED = {"email": "address", "google_oauth": "email", "apple_oauth": "email"}
"""Linked accounts whose address somebody has proved to own, best first, and the member that it is in."""
MAILED = frozenset({"otp", "magiclink", "recovery", "invite", "email/signup", "email_change"})
"""Entries of Supabase's `amr` that say that a mail to the address was answered; an `otp` may have gone to a phone."""
TRUSTED = frozenset({"google", "apple", "github"})
"""Providers behind Supabase's `oauth` that hand out addresses only of those who have proved them."""
API_S = 5.0
API_BYTES = 256 << 10


class Identity(msgspec.Struct, frozen=True):
    """A person as an issuer knows him."""

    provider: Provider
    subject: str
    method: str
    """How he showed who he is: `email`, `google`, `wallet`, …; the provider's name where that is not told."""
    email: str | None
    """In lower case, and only one that he has proved to own."""
    display_name: str = ""


def privy_tokens(*texts: str) -> list[Token]:
    """Well-formed tokens of this deployment's Privy app. Raises InvalidToken, and NotFound where there is no app."""
    privy = _privy()
    url = f"{privy.base_url}/v1/apps/{quote(privy.app_id, safe='')}/jwks.json"
    return [tokens.parse(text, Issuer("privy.io", privy.app_id, url, ("ES256",))) for text in texts]


def supabase_token(text: str) -> Token:
    """A well-formed token of this deployment's Supabase Auth. Raises InvalidToken, and NotFound where there is none."""
    if (url := settings.supabase_auth_url) is None:
        raise NotFound("Sign-in with Supabase is not set up here.")
    return tokens.parse(text, Issuer(url, "authenticated", f"{url}/.well-known/jwks.json", ("ES256", "RS256")))


async def of_privy(given: list[Token]) -> Identity:
    """The person for whom every one of these tokens was signed. Raises InvalidToken and ProviderError."""
    verified = [await tokens.verify(token) for token in given]
    subject: str = verified[0]["sub"]
    if any(claims["sub"] != subject for claims in verified):
        raise InvalidToken("The tokens are not of one user.")
    linked = next((claims["linked_accounts"] for claims in verified if "linked_accounts" in claims), None)
    if linked is None:
        linked = await _linked_by_api(_privy(), subject)
    accounts = _accounts(linked)
    recent = max(accounts, key=_verified_at, default={})
    method = str(recent.get("type") or "privy").removesuffix("_oauth")
    return Identity(
        "privy", subject, method, _proved_address(accounts), _name(account.get("name") for account in accounts)
    )


async def of_supabase(given: Token) -> Identity:
    """The person for whom this token was signed. Raises InvalidToken and NoProviderAvailable."""
    claims = await tokens.verify(given)
    if claims.get("is_anonymous") or claims.get("role") != "authenticated":
        raise InvalidToken("An anonymous user cannot sign in here.")
    person, app = _members(claims.get("user_metadata")), _members(claims.get("app_metadata"))
    email = _address(claims.get("email")) if _is_proved(claims, app) else None
    method = str(app.get("provider") or "supabase")
    return Identity("supabase", claims["sub"], method, email, _name([person.get("full_name"), person.get("name")]))


def _is_proved(claims: Mapping[str, Any], app: Mapping[str, Any]) -> bool:
    """Whether Supabase saw that the address is the user's; `user_metadata` is what he writes himself.

    https://supabase.com/docs/guides/auth/jwt-fields has `amr`, the ways in which he showed who he is.
    """
    entries = claims.get("amr")
    ways = [entry.get("method") for entry in entries if isinstance(entry, dict)] if isinstance(entries, list) else []
    mailed = MAILED - {"otp"} if claims.get("phone") else MAILED
    return any(way in mailed for way in ways if isinstance(way, str)) or (
        "oauth" in ways and str(app.get("provider")) in TRUSTED
    )


def _privy() -> PrivySettings:
    if settings.privy is None:
        raise NotFound("Sign-in with Privy is not set up here.")
    return settings.privy


async def _linked_by_api(privy: PrivySettings, subject: str) -> Any:
    """What Privy's API says is linked to a user; nothing without the app's secret. Raises ProviderError."""
    if privy.app_secret is None:
        return []
    login = base64.b64encode(f"{privy.app_id}:{privy.app_secret.reveal()}".encode()).decode()
    url = URL(f"{privy.base_url}/v1/users/{quote(subject, safe='')}", encoded=True)
    headers = {"authorization": f"Basic {login}", "privy-app-id": privy.app_id, "accept": "application/json"}
    status, body = await outbound.get(url, headers, within_s=API_S, most_bytes=API_BYTES)
    if status == 404:
        raise InvalidToken("The user of this token is not there any more.")
    try:
        return msgspec.json.decode(body if status == 200 else b"", type=dict[str, Any])["linked_accounts"]
    except (msgspec.DecodeError, KeyError):
        raise NoProviderAvailable("Sign-in is not possible at the moment.", retry_after_ms=5000) from None


def _accounts(linked: Any) -> list[Mapping[str, Any]]:
    """Linked accounts; an identity token has them as a string of JSON."""
    if isinstance(linked, str):
        try:
            linked = msgspec.json.decode(linked)
        except msgspec.DecodeError:
            return []
    return [account for account in linked if isinstance(account, dict)] if isinstance(linked, list) else []


def _proved_address(accounts: list[Mapping[str, Any]]) -> str | None:
    for kind, member in PROVED.items():
        for account in accounts:
            if account.get("type") == kind and _verified_at(account) and (address := _address(account.get(member))):
                return address
    return None


def _verified_at(account: Mapping[str, Any]) -> int:
    """Seconds since the epoch; 0 if never. `lv` is what an identity token calls it."""
    latest = account.get("lv") or account.get("latest_verified_at") or account.get("verified_at")
    return latest if isinstance(latest, int) else 0


def _address(value: Any) -> str | None:
    if not isinstance(value, str) or not value.isprintable() or not ADDRESS.fullmatch(value):
        return None
    return value.lower()


def _name(values: Iterable[Any]) -> str:
    """The first name that can be shown on a line."""
    return next((value[:200] for value in values if isinstance(value, str) and value and value.isprintable()), "")


def _members(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}

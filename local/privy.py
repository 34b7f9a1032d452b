"""Who signs users in here: Privy's keys, tokens and users, and Supabase Auth's keys and tokens, for anybody who asks.

Keys are made anew at each start. What the two really answer: https://docs.privy.io/api-reference/users/get and
https://supabase.com/docs/guides/auth/jwts.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import secrets
import time
import uuid
from typing import Any

import jwt
from cryptography.hazmat.primitives.asymmetric import ec
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

APP_ID = "local-app"
SUPABASE_PATH = "/auth/v1"
LIFE_S = 3600


class Signer:
    """A P-256 key, the set that it is published in, and tokens signed with it."""

    def __init__(self) -> None:
        self.published: list[dict[str, Any]] = []
        self.rotate()

    def rotate(self) -> None:
        """Sign with another key from here on; the ones before stay published."""
        self.key, self.key_id = ec.generate_private_key(ec.SECP256R1()), secrets.token_urlsafe(16)
        public = json.loads(jwt.algorithms.ECAlgorithm.to_jwk(self.key.public_key()))
        self.published.append({**public, "kid": self.key_id, "alg": "ES256", "use": "sig"})

    def token(self, **claims: Any) -> str:
        """A token with these claims, an hour long unless they say otherwise."""
        now = int(time.time())
        return jwt.encode({"iat": now, "exp": now + LIFE_S, **claims}, self.key, "ES256", {"kid": self.key_id})


class Privy:
    """One app of Privy's and, beside it, one project of Supabase Auth's; `users` are linked accounts by subject."""

    def __init__(self) -> None:
        self.secret, self.signer = secrets.token_hex(16), Signer()
        self.users: dict[str, list[dict[str, Any]]] = {}
        self.asked: list[str] = []
        """Paths that were asked for."""
        self.app = Starlette(
            routes=[
                Route("/token", self._privy_token, methods=["POST"]),
                Route(f"/v1/apps/{APP_ID}/jwks.json", self._keys),
                Route("/v1/users/{subject}", self._user),
                Route(f"{SUPABASE_PATH}/.well-known/jwks.json", self._keys),
                Route(f"{SUPABASE_PATH}/token", self._supabase_token, methods=["POST"]),
            ]
        )

    def settings(self, address: str) -> dict[str, str]:
        """The settings of a gateway that believes this issuer, which listens at `address`."""
        return {
            "PRIVY_APP_ID": APP_ID,
            "PRIVY_APP_SECRET": self.secret,
            "PRIVY_BASE_URL": address,
            "SUPABASE_AUTH_URL": address + SUPABASE_PATH,
        }

    def user(self, email: str) -> str:
        """The subject of the user with an address, who proved it just now."""
        subject = f"did:privy:{hashlib.sha256(email.encode()).hexdigest()[:25]}"
        account = {"type": "email", "address": email, "verified_at": 1, "latest_verified_at": int(time.time())}
        self.users[subject] = [account]
        return subject

    def access_token(self, subject: str, **claims: Any) -> str:
        """As Privy's SDK has it; `claims` go above the usual ones."""
        own = {"iss": "privy.io", "aud": APP_ID, "sub": subject, "sid": secrets.token_hex(8)}
        return self.signer.token(**own | claims)

    def identity_token(self, subject: str, **claims: Any) -> str:
        """With the user's linked accounts, as a string of JSON."""
        linked = [
            {**account, "lv": account["latest_verified_at"]} if "latest_verified_at" in account else account
            for account in self.users.get(subject, [])
        ]
        return self.access_token(subject, **{"linked_accounts": json.dumps(linked), **claims})

    def supabase_token(self, issuer: str, email: str, **claims: Any) -> str:
        """Of the user with this address, who confirmed it."""
        own = {
            "iss": issuer, "aud": "authenticated", "role": "authenticated", "is_anonymous": False, "email": email,
            "sub": str(uuid.uuid5(uuid.NAMESPACE_URL, f"mailto:{email}")),
            "app_metadata": {"provider": "email"}, "amr": [{"method": "otp", "timestamp": int(time.time())}],
        }  # fmt: skip
        return self.signer.token(**own | claims)

    async def _keys(self, request: Request) -> Response:
        self.asked.append(request.url.path)
        return JSONResponse({"keys": self.signer.published})

    async def _user(self, request: Request) -> Response:
        self.asked.append(request.url.path)
        login = base64.b64encode(f"{APP_ID}:{self.secret}".encode()).decode()
        if not hmac.compare_digest(request.headers.get("authorization", ""), f"Basic {login}"):
            return JSONResponse({"error": "Invalid app ID or app secret."}, 401)
        subject = request.path_params["subject"]
        if subject not in self.users or request.headers.get("privy-app-id") != APP_ID:
            return JSONResponse({"error": "User not found"}, 404)
        return JSONResponse({"id": subject, "linked_accounts": self.users[subject]})

    async def _privy_token(self, request: Request) -> Response:
        subject = self.user((await request.json())["email"])
        return JSONResponse({"token": self.access_token(subject), "identity_token": self.identity_token(subject)})

    async def _supabase_token(self, request: Request) -> Response:
        issuer = str(request.base_url).rstrip("/") + SUPABASE_PATH
        return JSONResponse({"access_token": self.supabase_token(issuer, (await request.json())["email"])})

"""What each mail says: a subject and blocks, from an event's payload, whose members each of them names."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from gateway import money, sealing
from gateway.letters.layout import Block, Code, Facts, Words
from gateway.settings import settings

type Payload = Mapping[str, Any]
type Said = tuple[str, Sequence[Block]]

CENT_NANO = money.NANO // 100
UNPRINTABLE = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]+")


def usd(nano: int) -> str:
    """Dollars and whole cents, towards zero; less than a cent exactly."""
    if nano and abs(nano) < CENT_NANO:
        return f"${money.show(nano)}"
    return _dollars(int(nano / abs(nano)) * (abs(nano) // CENT_NANO) if nano else 0)


def _dollars(cents: int) -> str:
    return f"{'-' if cents < 0 else ''}${abs(cents) // 100:,}.{abs(cents) % 100:02d}"


def when(moment: str) -> str:
    """`24 November 2026, 12:00 UTC` of an ISO 8601 time as the database has it."""
    return f"{datetime.fromisoformat(moment).astimezone(UTC):%-d %B %Y, %H:%M} UTC"


def line(text: Any) -> str:
    """Something that others wrote, on one line."""
    return UNPRINTABLE.sub(" ", str(text))[:500]


def _key(payload: Payload) -> str:
    return f"“{line(payload.get('name', ''))}” (number {payload.get('key_id')})"


def welcome(_: Payload) -> Said:
    """user.created {user_id}."""
    return "Welcome to Gatewayz", [
        Words("Your account is ready. Point any OpenAI client at this address and use your API key as its key:"),
        Code(f"{settings.api_url}/v1"),
        Words(
            "Your first API key was shown when you signed in, and is not shown again. You can make more at any time."
        ),
    ]


def receipt(payload: Payload) -> Said:
    """payment.paid {user_id, payment_id, amount_cents, credit_nano}."""
    rows = [("Payment", f"number {payload['payment_id']}"), ("Paid", _dollars(payload["amount_cents"]))]
    if payload.get("credit_nano"):
        rows.append(("Credits", usd(payload["credit_nano"])))
    return f"Receipt: {_dollars(payload['amount_cents'])}", [
        Words("Thank you. We received your payment, and its credits are on your balance."),
        Facts(rows),
    ]


def refunded(payload: Payload) -> Said:
    """payment.refunded {user_id, payment_id, refunded_cents}: of the payment in all, in however many parts."""
    return "Your payment was refunded", [
        Words("We sent money back to the card or account it came from. It can take some days to show there."),
        Facts(
            [("Payment", f"number {payload['payment_id']}"), ("Refunded in all", _dollars(payload["refunded_cents"]))]
        ),
        Words("The credits that were bought with it were taken off your balance."),
    ]


def low_balance(payload: Payload) -> Said:
    """balance.low {user_id, available_nano, low_balance_nano}."""
    return f"Your balance is down to {usd(payload['available_nano'])}", [
        Words("Your balance fell below the amount at which you want to be told. At zero, requests are refused."),
        Facts([("Balance", usd(payload["available_nano"])), ("You are told below", usd(payload["low_balance_nano"]))]),
        Words("Top up to go on, or turn on automatic top-ups."),
    ]


def trial_ending(payload: Payload) -> Said:
    """trial.ending {user_id, ends_at}."""
    rows = [("Ends", when(payload["ends_at"]))]
    if payload.get("remaining_nano") is not None:
        rows.append(("Credits left", usd(payload["remaining_nano"])))
    return "Your trial is about to end", [
        Words("What is left of your trial's credits ends with it. Credits that you buy stay."),
        Facts(rows),
    ]


def key_created(payload: Payload) -> Said:
    """key.created {user_id, key_id, name}."""
    return "A new API key for your account", [
        Words(f"The API key {_key(payload)} was made for your account."),
        Words("If that was not you, delete the key and sign out everywhere: somebody else can use your account."),
    ]


def key_rotated(payload: Payload) -> Said:
    """key.rotated {user_id, key_id, name, former_ends_at}."""
    return "Your API key has a new secret", [
        Words(f"The API key {_key(payload)} was given a new secret."),
        Facts([("The one before works until", when(payload["former_ends_at"]))]),
        Words("If it was rotated by the clock, fetch the new secret before then; it is handed out once."),
        Code(f"POST {settings.api_url}/user/api-keys/{payload['key_id']}/secret"),
    ]


def rotation_due(payload: Payload) -> Said:
    """key.rotation_due {user_id, key_id, name, at}."""
    return "Your API key will be rotated soon", [
        Words(f"The API key {_key(payload)} gets a new secret, as you asked for. The one before goes on for a week."),
        Facts([("Rotation", when(payload["at"]))]),
    ]


def key_leaked(payload: Payload) -> Said:
    """key.leaked {user_id, key_id, name, ended, url}."""
    ended = {"session": "A session key of", "rotated": "The former secret of"}.get(payload.get("ended", ""), "")
    blocks: list[Block] = [
        Words(f"{ended or 'The API key'} {_key(payload)} was found in public. We ended it at once.".strip()),
        Words("Whoever read it there may have used it. Look at your recent requests, and make a new key."),
    ]
    if payload.get("url"):
        blocks.insert(1, Facts([("Found at", line(payload["url"]))]))
    return "Your API key was found in public and has been ended", blocks


def key_paused(payload: Payload) -> Said:
    """key.paused {user_id, key_id, name, alert_id, kind}."""
    why = {"unusual_network": "It was used from a network where it never was.",
           "unusual_spend": "It spent far more than it usually does."}.get(payload.get("kind", ""), "")  # fmt: skip
    return "We paused one of your API keys", [
        Words(f"The API key {_key(payload)} is paused: requests with it are refused. {why}".strip()),
        Words("If everything is as it should be, set it active again. If not, delete it and make a new one."),
    ]


def recovery(payload: Payload) -> Said:
    """account.recovery {user_id, sealed, expires_at}: the token is in the mail, and nowhere else."""
    token = sealing.unseal(payload["sealed"])
    body = f'{{"token": "{token}"}}'
    return "Get back into your account", [
        Words("Somebody, you we hope, asked for a way back into your account. This token makes a new API key, once:"),
        Code(token),
        Words("Send it to us from a terminal. All sessions end; your other keys stay as they are."),
        Code(f"curl {settings.api_url}/auth/recovery/confirm \\\n  -H 'Content-Type: application/json' -d '{body}'"),
        Facts([("Works until", when(payload["expires_at"]))]),
        Words("If you did not ask for it, do nothing. Nobody can use it without this mail."),
    ]


def usage_report(payload: Payload) -> Said:
    """usage.report {user_id, from, to, requests, tokens, cost_nano, keys}."""
    rows = [
        ("Requests", f"{payload['requests']:,}"),
        ("Tokens", f"{payload['tokens']:,}"),
        ("Spent", usd(payload["cost_nano"])),
    ]
    keys: list[tuple[str, str]] = [
        (line(key["name"]), f"{usd(key['cost_nano'])}, {key['requests']:,} requests") for key in payload["keys"]
    ]
    first, last = (datetime.fromisoformat(payload[name]) for name in ("from", "to"))
    blocks: list[Block] = [Words(f"What you used from {first:%-d %B} to {last:%-d %B %Y} (UTC)."), Facts(rows)]
    if keys:
        blocks += [Words("By API key, those that spent most:"), Facts(keys)]
    return f"Your week on Gatewayz: {usd(payload['cost_nano'])}", blocks


def webhook_disabled(payload: Payload) -> Said:
    """webhook.disabled {user_id, webhook_id, url, failures, reason}."""
    return "Your webhook was turned off", [
        Words(f"It failed {payload['failures']} times in a row, so we stopped sending events to it."),
        Facts([("Webhook", line(payload["url"])), ("Last failure", line(payload.get("reason") or "unknown"))]),
        Words("Set it active again when it answers with a status from 200 to 299."),
        Code(f"PUT {settings.api_url}/user/webhooks/{payload['webhook_id']}"),
    ]


def security_alert(payload: Payload) -> Said:
    """security.alert {alert_id, kind, subject, detail, created_at}."""
    detail = [
        (line(name.removesuffix("_nano")).replace("_", " "), usd(value) if name.endswith("_nano") else line(value))
        for name, value in payload.get("detail", {}).items()
    ]
    kind = line(payload["kind"]).replace("_", " ")
    return f"Security alert: {kind}", [
        Words("Something is out of the ordinary. You get this mail because you are an admin."),
        Facts([("Alert", f"number {payload['alert_id']}"), ("About", line(payload["subject"])),
               *([("Since", when(payload["created_at"]))] if payload.get("created_at") else []), *detail]),
        Code(f"GET {settings.api_url}/admin/alerts?status=open"),
    ]  # fmt: skip


TEXTS: Mapping[str, Callable[[Payload], Said]] = {
    "user.created": welcome,
    "payment.paid": receipt,
    "payment.refunded": refunded,
    "balance.low": low_balance,
    "trial.ending": trial_ending,
    "key.created": key_created,
    "key.rotated": key_rotated,
    "key.rotation_due": rotation_due,
    "key.leaked": key_leaked,
    "key.paused": key_paused,
    "account.recovery": recovery,
    "usage.report": usage_report,
    "webhook.disabled": webhook_disabled,
    "security.alert": security_alert,
}
"""By event; the database's list of mailed events (api.mailed_events) is the same."""

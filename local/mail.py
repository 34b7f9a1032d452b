"""`make mail`: every mail with invented data, as HTML and text, in a folder to look at."""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
KEY: dict[str, Any] = {"user_id": 7, "key_id": 12, "name": "production <web>"}
SAMPLES: dict[str, dict[str, Any]] = {
    "user.created": {"user_id": 7, "provider": "privy"},
    "payment.paid": {"user_id": 7, "payment_id": 1042, "amount_cents": 5000, "credit_nano": 50_000_000_000},
    "payment.refunded": {"user_id": 7, "payment_id": 1042, "refunded_cents": 2050},
    "balance.low": {"user_id": 7, "available_nano": 4_120_345_678, "low_balance_nano": 5_000_000_000},
    "trial.ending": {"user_id": 7, "ends_at": "2026-12-01T09:30:00+00:00"},
    "key.created": KEY,
    "key.rotated": {**KEY, "former_ends_at": "2026-12-01T09:30:00+00:00"},
    "key.rotation_due": {**KEY, "at": "2026-12-01T09:30:00+00:00"},
    "key.leaked": {**KEY, "ended": "key", "url": "https://github.com/acme/shop/blob/main/.env"},
    "key.paused": {**KEY, "alert_id": 3, "kind": "unusual_spend"},
    "account.recovery": {"user_id": 7, "expires_at": "2026-12-01T09:30:00+00:00"},
    "usage.report": {
        "user_id": 7, "from": "2026-11-16", "to": "2026-11-22", "requests": 18234, "tokens": 9_120_455,
        "cost_nano": 41_230_000_000,
        "keys": [
            {"name": "production", "requests": 18000, "cost_nano": 41_000_000_000},
            {"name": "ci", "requests": 234, "cost_nano": 230_000_000},
        ],
    },
    "webhook.disabled": {
        "user_id": 7, "webhook_id": 2, "url": "https://example.com/hook", "failures": 20, "reason": "status 500",
    },
    "security.alert": {
        "alert_id": 3, "kind": "unusual_spend", "subject": "key:12", "user_id": 7, "key_id": 12,
        "detail": {"day": "2026-11-24", "spent_nano": 61_000_000_000, "median_nano": 9_000_000_000},
        "created_at": "2026-11-24T09:30:00+00:00",
    },
}  # fmt: skip
PREFERENCES = {
    "key.created": "key_events", "key.rotated": "key_events", "key.rotation_due": "key_events",
    "balance.low": "low_balance", "usage.report": "usage_report",
}  # fmt: skip
UNUSED = {
    "STAGE": "dev", "DATABASE_URL": "postgresql://127.0.0.1:1/none", "KEY_PEPPERS": "v1:only-to-look-at-mails",
    "SEALING_KEYS": "b25seS10by1sb29rLWF0LW1haWxzLTAwMDAwMDAwMDE=", "API_URL": "https://api.example.com",
}  # fmt: skip
"""Settings that no mail tells, but that there must be."""


def render(folder: Path) -> list[Path]:
    """Write each mail, and give the HTML files."""
    from gateway import letters, sealing  # noqa: PLC0415 - it reads the settings, which had to be there first

    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    written = []
    for event in letters.EVENTS:
        payload = SAMPLES[event]
        if event == "account.recovery":
            payload = {**payload, "sealed": sealing.seal("gwr_AN-INVENTED-TOKEN-0123456789abcdefghijklmno")}
        letter = letters.write(event, payload, name="Ada Lovelace", user_id=7, preference=PREFERENCES.get(event))
        name = re.sub(r"\W", "-", event)
        (folder / f"{name}.txt").write_text(f"Subject: {letter.subject}\n\n{letter.text}")
        (folder / f"{name}.html").write_text(letter.html)
        written.append(folder / f"{name}.html")
    return written


def main() -> None:
    """Render into .gateway/letters, and say where."""
    for name, value in UNUSED.items():
        os.environ.setdefault(name, value)
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT / ".gateway" / "letters"
    for file in render(folder):
        print(file)


if __name__ == "__main__":
    main()

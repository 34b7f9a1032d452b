"""Links that turn a preference off: ours alone, for one user and one preference."""

from __future__ import annotations

import hashlib
import hmac
import os
from collections.abc import Callable

import pytest

from gateway import settings, unsubscribe
from gateway.errors import InvalidRequest

PEPPERS = {"KEY_PEPPERS": "v2:a-second-pepper-for-tests,v1:a-pepper-for-tests-only"}


def token(user_id: int = 7, preference: str = "low_balance") -> str:
    return unsubscribe.url_for(user_id, preference).partition("?token=")[2]


@pytest.mark.parametrize("preference", unsubscribe.PREFERENCES)
def test_a_link_names_its_user_and_preference(preference: str):
    assert unsubscribe.read(token(12, preference)) == (12, preference)


def test_links_outlive_their_pepper_while_it_is_in_the_ring(monkeypatch: pytest.MonkeyPatch):
    former = token()
    monkeypatch.setattr(unsubscribe, "settings", settings.load(os.environ | PEPPERS))
    assert unsubscribe.read(former) == (7, "low_balance")
    assert token() != former
    monkeypatch.setattr(unsubscribe, "settings", settings.load(os.environ | {"KEY_PEPPERS": "v3:another-pepper-alone"}))
    with pytest.raises(InvalidRequest):
        unsubscribe.read(former)


@pytest.mark.parametrize(
    "changed",
    [
        lambda good: "8" + good[1:],
        lambda good: good.replace("low_balance", "key_events"),
        lambda good: good.replace("low_balance", "product_news"),
        lambda good: good.replace(".v1.", ".v2."),
        lambda good: good[:-1] + ("0" if good[-1] != "0" else "1"),
        lambda good: good[:-1],
        lambda good: good + "0",
        lambda good: good + "\n",
        lambda good: good.upper(),
        lambda _: "",
        lambda _: "7.low_balance.v1.",
    ],
)
def test_any_other_text_is_refused(changed: Callable[[str], str]):
    with pytest.raises(InvalidRequest):
        unsubscribe.read(changed(token()))


def test_what_the_pepper_signs_elsewhere_is_no_link():
    pepper = settings.settings.peppers["v1"].reveal().encode()
    for text in ("7.low_balance", "7\nlow_balance", "unsubscribe7low_balance"):
        mac = hmac.digest(pepper, text.encode(), hashlib.sha256).hex()
        with pytest.raises(InvalidRequest):
            unsubscribe.read(f"7.low_balance.v1.{mac}")

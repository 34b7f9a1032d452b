"""API keys: made, recognised and refused without asking anything."""

from __future__ import annotations

import re
import secrets
from collections.abc import Callable

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway import keys
from gateway.errors import Unauthenticated
from gateway.settings import Secret, settings

SCANNERS = re.compile(r"gw_(live|test|staging|dev)_[0-9A-Za-z]{50}")


OLD = {"v1": Secret("the one before it")}
DEV = msgspec.structs.replace(settings, stage="dev", peppers={"v2": Secret("the pepper in use"), **OLD})


@pytest.fixture(autouse=True)
def _two_peppers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keys, "settings", DEV)


@pytest.mark.parametrize("environment", ["dev", "test"])
def test_a_minted_key_is_recognised(environment: str):
    minted = keys.mint(environment)
    key = keys.parse(minted.plaintext)
    assert (key.environment, key.id) == (environment, minted.id)
    assert minted.hash in key.hashes
    assert SCANNERS.fullmatch(minted.plaintext)
    assert key.credentials() == {"key_id": key.id, "key_hashes": key.hashes}


def test_keys_differ():
    minted = [keys.mint("dev") for _ in range(100)]
    assert (
        len({key.plaintext for key in minted})
        == len({key.id for key in minted})
        == len({key.hash for key in minted})
        == 100
    )


def test_randomness_is_the_operating_systems(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(secrets, "choice", lambda letters: letters[0])
    assert keys.mint("dev").plaintext.startswith("gw_dev_" + "0" * 44)


def test_a_new_key_is_hashed_with_the_first_pepper_and_an_old_one_still_found(monkeypatch: pytest.MonkeyPatch):
    with monkeypatch.context() as before:
        before.setattr(keys, "settings", msgspec.structs.replace(DEV, peppers=OLD))
        old = keys.mint("dev")
    assert old.hash.startswith("v1:")
    assert old.hash in keys.parse(old.plaintext).hashes
    new = keys.mint("dev")
    assert new.hash.startswith("v2:")
    assert [found.partition(":")[0] for found in keys.parse(new.plaintext).hashes] == ["v2", "v1"]


def test_ten_thousand_near_keys_are_refused():
    for _ in range(10_000):
        plaintext = keys.mint("dev").plaintext
        at = secrets.randbelow(len(plaintext))
        other = secrets.choice(keys.ALPHABET.replace(plaintext[at], ""))
        with pytest.raises(Unauthenticated):
            keys.parse(plaintext[:at] + other + plaintext[at + 1 :])


@given(st.text(max_size=80))
def test_any_text_is_refused(text: str):
    with pytest.raises(Unauthenticated):
        keys.parse(text)


@pytest.mark.parametrize(
    "spoil",
    [
        lambda key: key + "\n",
        lambda key: " " + key,
        lambda key: key + "0",
        lambda key: key[:-1],
        lambda key: key.upper(),
        lambda key: "GW" + key[2:],
        lambda key: key.replace("gw_dev_", "gw_prod_"),
        lambda key: key[:-6] + "٠١٢٣٤٥",
        lambda key: key[:7] + "\N{FULLWIDTH DIGIT ONE}" + key[8:],
        lambda key: key.replace("_", "\N{FULLWIDTH LOW LINE}"),
        lambda key: key[:10] + "\0" + key[11:],
        lambda key: key * 20_000,
    ],
)
def test_a_spoilt_key_is_refused(spoil: Callable[[str], str]):
    with pytest.raises(Unauthenticated):
        keys.parse(spoil(keys.mint("dev").plaintext))


@pytest.mark.parametrize("environment", ["live", "staging"])
def test_a_key_of_another_stage_is_refused(environment: str):
    with pytest.raises(Unauthenticated, match=environment):
        keys.parse(keys.mint(environment).plaintext)


@pytest.mark.parametrize(("stage", "environment"), [("dev", "dev"), ("staging", "staging"), ("production", "live")])
def test_a_stage_serves_its_own_keys_and_test_keys(monkeypatch: pytest.MonkeyPatch, stage: str, environment: str):
    monkeypatch.setattr(keys, "settings", msgspec.structs.replace(DEV, stage=stage))
    for served in ("dev", "staging", "live", "test"):
        plaintext = keys.mint(served).plaintext
        if served in (environment, "test"):
            assert keys.parse(plaintext).environment == served
        else:
            with pytest.raises(Unauthenticated):
                keys.parse(plaintext)


def test_nothing_shown_tells_the_key():
    minted = keys.mint("dev")
    key = keys.parse(minted.plaintext)
    secret = minted.plaintext[19:]
    shown = f"{minted!r} {minted} {key!r} {keys.masked('dev', minted.id)} {DEV!r}"
    assert secret not in shown
    assert secret[:8] not in shown
    assert "pepper" not in repr(DEV.peppers)
    assert keys.masked("dev", minted.id) == f"gw_dev_{minted.id[:4]}…"


def test_a_refusal_does_not_repeat_the_key():
    plaintext = keys.mint("live").plaintext
    with pytest.raises(Unauthenticated) as refused:
        keys.parse(plaintext)
    assert plaintext[8:] not in repr(refused.value.body("req"))

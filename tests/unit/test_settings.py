"""Settings: complete, or refused by the name of what is missing."""

from __future__ import annotations

from typing import Any

import pytest

from gateway.settings import IncompleteSettings, Secret, load

CANARY = "CANARY-of-a-secret-value"
GOOD = {"STAGE": "dev", "DATABASE_URL": f"postgresql://{CANARY}", "KEY_PEPPERS": f"v2:{CANARY},v1:{CANARY}-older"}
FULL = GOOD | {
    "OPENROUTER_API_KEY": CANARY,
    "PORTKEY_API_KEY": CANARY,
    "PORTKEY_VIRTUAL_KEY": CANARY,
    "CHUTES_API_KEY": CANARY,
    "CHUTES_BASE_URL": "http://127.0.0.1:8080/v1",
    "AWS_SECRET_ACCESS_KEY": CANARY,
    "AWS_SESSION_TOKEN": CANARY,
}


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"STAGE": None}, "STAGE"),
        ({"STAGE": ""}, "STAGE"),
        ({"STAGE": CANARY}, "STAGE"),
        ({"STAGE": "Production"}, "STAGE"),
        ({"DATABASE_URL": None}, "DATABASE_URL"),
        ({"DATABASE_URL": ""}, "DATABASE_URL"),
        ({"DATABASE_POOLER": CANARY}, "DATABASE_POOLER"),
        ({"SUPABASE_URL": CANARY, "SUPABASE_SERVICE_KEY": CANARY}, "SUPABASE_URL"),
        ({"DATABASE_URL": None, "SUPABASE_URL": CANARY}, "SUPABASE_SERVICE_KEY"),
        ({"KEY_PEPPERS": None}, "KEY_PEPPERS"),
        ({"KEY_PEPPERS": ""}, "KEY_PEPPERS"),
        ({"KEY_PEPPERS": ","}, "KEY_PEPPERS"),
        ({"KEY_PEPPERS": CANARY}, "KEY_PEPPERS"),
        ({"KEY_PEPPERS": f":{CANARY}"}, "KEY_PEPPERS"),
        ({"KEY_PEPPERS": "v1:CANARY-short"}, "KEY_PEPPERS"),
        ({"KEY_PEPPERS": f"v1:{CANARY},v1:{CANARY}"}, "KEY_PEPPERS"),
        ({"KEY_PEPPERS": f"v-1:{CANARY}"}, "KEY_PEPPERS"),
        ({"OPENROUTER_BASE_URL": "http://CANARY.example/v1"}, "OPENROUTER_BASE_URL"),
        ({"PORTKEY_BASE_URL": "ftp://CANARY.example"}, "PORTKEY_BASE_URL"),
        ({"FEATHERLESS_BASE_URL": "CANARY.example"}, "FEATHERLESS_BASE_URL"),
        ({"CHUTES_BASE_URL": "http://localhost.CANARY.example:80/"}, "CHUTES_BASE_URL"),
        ({"RESEND_BASE_URL": "http://CANARY.example"}, "RESEND_BASE_URL"),
        ({"API_URL": "http://CANARY.example"}, "API_URL"),
        ({"MAIL_FROM": "CANARY"}, "MAIL_FROM"),
        ({"MAIL_FROM": "CANARY@example.com\r\nBcc: x@example.com"}, "MAIL_FROM"),
        ({"MAIL_FROM": "CANARY <a@example.com>, b@example.com"}, "MAIL_FROM"),
        ({"LOG_LEVEL": "CANARY"}, "LOG_LEVEL"),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://CANARY.example"}, "OTEL_EXPORTER_OTLP_ENDPOINT"),
        ({"OTEL_EXPORTER_OTLP_HEADERS": "a b=CANARY"}, "OTEL_EXPORTER_OTLP_HEADERS"),
        ({"OTEL_EXPORTER_OTLP_HEADERS": "a=CANARY%0d%0ab: c"}, "OTEL_EXPORTER_OTLP_HEADERS"),
    ],
)
def test_what_is_missing_or_malformed_is_named_and_never_shown(change: dict[str, str | None], named: str):
    environ = {name: value for name, value in (GOOD | change).items() if value is not None}
    with pytest.raises(IncompleteSettings, match=named) as refused:
        load(environ)
    assert "CANARY" not in repr(refused.value)


def test_nothing_shown_tells_a_secret():
    settings = load(FULL)
    assert CANARY not in repr(settings)
    assert CANARY not in str(settings.providers["openrouter"])
    assert CANARY not in f"{Secret(CANARY)} {Secret(CANARY)!r}"
    assert settings.providers["openrouter"].key.reveal() == CANARY


def test_the_first_pepper_is_the_one_for_new_keys():
    assert list(load(GOOD).peppers) == ["v2", "v1"]


def test_a_pepper_may_hold_a_colon():
    peppers = load(GOOD | {"KEY_PEPPERS": "v1:sixteen:letters:and:more"}).peppers
    assert peppers["v1"].reveal() == "sixteen:letters:and:more"


@pytest.mark.parametrize(("stage", "environment"), [("dev", "dev"), ("staging", "staging"), ("production", "live")])
def test_a_stage_has_its_key_environment(stage: str, environment: str):
    assert load(GOOD | {"STAGE": stage}).key_environment == environment


def test_providers_are_those_with_a_key():
    settings = load(FULL)
    assert list(settings.providers) == ["openrouter", "portkey", "chutes"]
    assert settings.providers["chutes"].base_url == "http://127.0.0.1:8080/v1"
    assert settings.providers["openrouter"].base_url is None
    assert load(GOOD).providers == {}


@pytest.mark.parametrize(
    "transport", [{"DATABASE_URL": "postgresql://x"}, {"SUPABASE_URL": "https://x", "SUPABASE_SERVICE_KEY": "y"}]
)
def test_either_transport_is_enough(transport: dict[str, str]):
    environ = {name: value for name, value in GOOD.items() if name != "DATABASE_URL"}
    settings = load(environ | transport)
    assert bool(settings.database_url) is not bool(settings.supabase_url)


def test_mail_is_sent_by_who_has_a_key_and_a_sender():
    key, sender = {"RESEND_API_KEY": CANARY}, {"MAIL_FROM": "Gatewayz <hello@example.com>"}
    assert [load(GOOD | change).mail for change in ({}, key, sender)] == [None] * 3
    mail = load(GOOD | key | sender).mail
    assert mail is not None
    assert (mail.key.reveal(), mail.sender, mail.base_url) == (CANARY, sender["MAIL_FROM"], "https://api.resend.com")
    assert CANARY not in repr(mail)


def test_links_in_mails_lead_to_this_api():
    assert load(GOOD | {"PUBLIC_URL": "https://example.com/"}).api_url == "https://example.com"
    both = {"PUBLIC_URL": "https://example.com", "API_URL": "https://api.example.com/"}
    assert load(GOOD | both).api_url == "https://api.example.com"


def test_empty_settings_are_no_settings():
    empty: dict[str, Any] = dict.fromkeys(
        ("SUPABASE_URL", "PORTKEY_PROVIDER", "SETTLEMENT_QUEUE_URL", "CHUTES_API_KEY"), ""
    )
    settings = load(GOOD | empty)
    assert settings.supabase_url is settings.portkey_provider is settings.settlement_queue_url is None
    assert settings.providers == {}

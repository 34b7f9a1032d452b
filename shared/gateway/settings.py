"""The gateway's settings: the only reader of the environment, once, at import. What is incomplete fails here, by name.

In AWS the secret ones come from Secrets Manager: CORE_SECRET_ARN, PROVIDERS_SECRET_ARN, BILLING_SECRET_ARN and
LOGIN_SECRET_ARN each name one JSON object whose members are the variables below. A later one's win over an earlier
one's, as a function's own DATABASE_URL over the core's. Elsewhere the same names are read from the environment itself.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from typing import Literal, cast, get_args
from urllib.parse import unquote

import msgspec

from gateway import aws

PROVIDERS = ("openrouter", "portkey", "featherless", "chutes")
LOCAL_OR_HTTPS = ("https://", "http://127.0.0.1:", "http://localhost:")
FERNET_KEY = re.compile(r"[0-9A-Za-z_-]{43}=")
SENDER = re.compile(r"[^\s@<>]+@[^\s@<>]+|[^<>@\r\n]+ <[^\s@<>]+@[^\s@<>]+>")
SECRETS = ("CORE_SECRET_ARN", "PROVIDERS_SECRET_ARN", "BILLING_SECRET_ARN", "LOGIN_SECRET_ARN")
GITHUB_SCANNER_KEYS = "https://api.github.com/meta/public_keys/secret_scanning"
LOG_LEVELS: Mapping[str, int] = {"DEBUG": 10, "INFO": 20, "WARNING": 30, "ERROR": 40, "CRITICAL": 50}
HEADER = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
KEY_ENVIRONMENTS: Mapping[str, str] = {"production": "live", "staging": "staging", "dev": "dev"}


type Stage = Literal["dev", "staging", "production"]
type Pooler = Literal["transaction", "session"]


class Secret:
    """A string that no log, traceback or repr shows; `reveal` is the one way to it."""

    __slots__ = ("_value",)

    def __init__(self, value: str) -> None:
        self._value = value

    def reveal(self) -> str:
        return self._value

    def __repr__(self) -> str:
        return "Secret(…)"


class ProviderSettings(msgspec.Struct, frozen=True):
    """What one provider needs: a key, and an address when it is not the provider's own (https, or loopback)."""

    key: Secret
    base_url: str | None = None


class PrivySettings(msgspec.Struct, frozen=True):
    """Sign-in by Privy: the app, and an address when it is not Privy's own (https, or loopback)."""

    app_id: str
    app_secret: Secret | None
    base_url: str


class StripeSettings(msgspec.Struct, frozen=True):
    """Payments: our key, what Stripe signs its events with, and an address when it is not Stripe's own."""

    key: Secret
    webhook_secret: Secret | None
    base_url: str


class AlertSettings(msgspec.Struct, frozen=True):
    """Where security alerts are sent, and whether one pauses the key that it is about."""

    webhook_url: str | None
    webhook_secret: Secret | None
    pause_keys: bool


class MailSettings(msgspec.Struct, frozen=True):
    """Mail by Resend: our key, who writes (`Name <address>`), and an address when it is not Resend's own."""

    key: Secret
    sender: str
    base_url: str


class ExporterSettings(msgspec.Struct, frozen=True):
    """Where spans are sent, by OpenTelemetry's own variables: a collector's route, and headers that may hold a key."""

    url: str
    headers: dict[str, Secret]


class Settings(msgspec.Struct, frozen=True):
    stage: Stage
    log_level: str
    """One of LOG_LEVELS; lines below it are not written."""
    exporter: ExporterSettings | None
    peppers: dict[str, Secret]
    """Version -> HMAC key, the one for new API keys first."""
    database_url: Secret | None
    database_pooler: Pooler | None
    """What kind of pooler DATABASE_URL leads to; None: its port tells, and the first call that a pooler breaks."""
    supabase_url: str | None
    supabase_service_key: Secret | None
    providers: dict[str, ProviderSettings]
    portkey_provider: str | None
    portkey_virtual_key: Secret | None
    settlement_queue_url: str | None
    event_bus: str | None
    """The name of the EventBridge bus that domain events go to."""
    public_url: str
    """Where users find this gateway; sent to OpenRouter as HTTP-Referer."""
    sealing_keys: list[Secret]
    """Fernet keys for what must be readable again; the first seals, all open. Empty: nothing can be sealed."""
    privy: PrivySettings | None
    supabase_auth_url: str | None
    """The issuer of Supabase Auth's tokens, `https://<project>.supabase.co/auth/v1`; None: no such sign-in."""
    leak_keys_url: str
    """Where GitHub's secret scanning publishes the keys that it signs its reports with."""
    stripe: StripeSettings | None
    return_hosts: tuple[str, ...]
    """Hosts that a payment page may send its user back to, beside PUBLIC_URL's."""
    trial_blocked_domains: tuple[str, ...]
    """E-mail domains whose users get no trial: those of addresses to throw away."""
    alerts: AlertSettings
    mail: MailSettings | None
    api_url: str
    """Where this API is reached from outside, without a last slash: for links in mails."""
    audit_retention_days: int
    aws: aws.Account

    @property
    def key_environment(self) -> str:
        """The environment tag of the API keys that this stage serves (`test` keys work on every stage)."""
        return KEY_ENVIRONMENTS[self.stage]


class IncompleteSettings(RuntimeError):
    """A setting is missing or malformed; the message names it and never shows its value."""


def load(environ: Mapping[str, str]) -> Settings:
    """Settings from an environment, with the secrets it points to.

    Raises IncompleteSettings, and aws.AwsError when a secret cannot be read.
    """
    account = aws.account(environ)
    names = dict(environ)
    for variable in SECRETS:
        if arn := environ.get(variable):
            names |= aws.secret(account, arn)
    stage = names.get("STAGE", "")
    if stage not in KEY_ENVIRONMENTS:
        raise IncompleteSettings(f"STAGE must be one of {', '.join(KEY_ENVIRONMENTS)}")
    if bool(names.get("DATABASE_URL")) == bool(names.get("SUPABASE_URL")):
        raise IncompleteSettings("exactly one of DATABASE_URL and SUPABASE_URL must be set")
    if names.get("SUPABASE_URL") and not names.get("SUPABASE_SERVICE_KEY"):
        raise IncompleteSettings("SUPABASE_URL needs SUPABASE_SERVICE_KEY")
    return Settings(
        stage=cast("Stage", stage),
        log_level=_log_level(names),
        exporter=_exporter(names),
        peppers=_peppers(names.get("KEY_PEPPERS", "")),
        database_url=_secret(names, "DATABASE_URL"),
        database_pooler=_pooler(names),
        supabase_url=names.get("SUPABASE_URL") or None,
        supabase_service_key=_secret(names, "SUPABASE_SERVICE_KEY"),
        providers=_providers(names),
        portkey_provider=names.get("PORTKEY_PROVIDER") or None,
        portkey_virtual_key=_secret(names, "PORTKEY_VIRTUAL_KEY"),
        settlement_queue_url=names.get("SETTLEMENT_QUEUE_URL") or None,
        event_bus=names.get("EVENT_BUS_NAME") or None,
        public_url=names.get("PUBLIC_URL") or "http://localhost",
        sealing_keys=_sealing_keys(names.get("SEALING_KEYS", "")),
        privy=_privy(names),
        supabase_auth_url=_address(names, "SUPABASE_AUTH_URL"),
        leak_keys_url=_address(names, "LEAK_KEYS_URL") or GITHUB_SCANNER_KEYS,
        stripe=_stripe(names),
        return_hosts=_listed(names, "RETURN_HOSTS"),
        trial_blocked_domains=_listed(names, "TRIAL_BLOCKED_DOMAINS"),
        alerts=_alerts(names),
        mail=_mail(names),
        api_url=_address(names, "API_URL") or (names.get("PUBLIC_URL") or "http://localhost").rstrip("/"),
        audit_retention_days=_days(names, "AUDIT_RETENTION_DAYS", least=90, default=400),
        aws=account,
    )


def _secret(names: Mapping[str, str], name: str) -> Secret | None:
    value = names.get(name)
    return Secret(value) if value else None


def _pooler(names: Mapping[str, str]) -> Pooler | None:
    pooler = names.get("DATABASE_POOLER")
    if pooler and pooler not in get_args(Pooler.__value__):
        raise IncompleteSettings("DATABASE_POOLER must be transaction or session")
    return cast("Pooler", pooler) if pooler else None


def _log_level(names: Mapping[str, str]) -> str:
    level = (names.get("LOG_LEVEL") or "INFO").upper()
    if level not in LOG_LEVELS:
        raise IncompleteSettings(f"LOG_LEVEL must be one of {', '.join(LOG_LEVELS)}")
    return level


def _exporter(names: Mapping[str, str]) -> ExporterSettings | None:
    """https://opentelemetry.io/docs/specs/otel/protocol/exporter/: headers are `name=value` pairs, percent-encoded."""
    url = _address(names, "OTEL_EXPORTER_OTLP_ENDPOINT")
    headers: dict[str, Secret] = {}
    for entry in filter(None, names.get("OTEL_EXPORTER_OTLP_HEADERS", "").split(",")):
        name, _, value = entry.partition("=")
        if not (HEADER.fullmatch(name.strip()) and unquote(value).isprintable()):
            raise IncompleteSettings("OTEL_EXPORTER_OTLP_HEADERS must be name=value pairs, separated by commas")
        headers[name.strip().lower()] = Secret(unquote(value.strip()))
    return ExporterSettings(f"{url}/v1/traces", headers) if url else None


def _listed(names: Mapping[str, str], name: str) -> tuple[str, ...]:
    return tuple(entry.strip().lower() for entry in names.get(name, "").split(",") if entry.strip())


def _peppers(ring: str) -> dict[str, Secret]:
    """`v2:secret,v1:secret` as a ring; a pepper under 16 characters is refused as a mistake."""
    peppers: dict[str, Secret] = {}
    for entry in filter(None, ring.split(",")):
        version, _, pepper = entry.partition(":")
        if not version.isalnum() or len(pepper) < 16 or version in peppers:
            raise IncompleteSettings("KEY_PEPPERS must be version:secret pairs, each secret at least 16 characters")
        peppers[version] = Secret(pepper)
    if not peppers:
        raise IncompleteSettings("KEY_PEPPERS is not set")
    return peppers


def _sealing_keys(ring: str) -> list[Secret]:
    """`key,key` as a ring of Fernet keys: 32 bytes each, in URL-safe base64."""
    ring_keys = [key.strip() for key in ring.split(",") if key.strip()]
    if not all(FERNET_KEY.fullmatch(key) for key in ring_keys):
        raise IncompleteSettings("SEALING_KEYS must be Fernet keys, separated by commas")
    return [Secret(key) for key in ring_keys]


def _privy(names: Mapping[str, str]) -> PrivySettings | None:
    app_id = names.get("PRIVY_APP_ID")
    base_url = _address(names, "PRIVY_BASE_URL") or "https://api.privy.io"
    return PrivySettings(app_id, _secret(names, "PRIVY_APP_SECRET"), base_url) if app_id else None


def _stripe(names: Mapping[str, str]) -> StripeSettings | None:
    key, base_url = _secret(names, "STRIPE_SECRET_KEY"), _address(names, "STRIPE_BASE_URL") or "https://api.stripe.com"
    return StripeSettings(key, _secret(names, "STRIPE_WEBHOOK_SECRET"), base_url) if key else None


def _alerts(names: Mapping[str, str]) -> AlertSettings:
    url, secret = _address(names, "ALERT_WEBHOOK_URL"), _secret(names, "ALERT_WEBHOOK_SECRET")
    if url and not secret:
        raise IncompleteSettings("ALERT_WEBHOOK_URL needs ALERT_WEBHOOK_SECRET, by which its receiver knows us")
    pause = names.get("PAUSE_KEYS_ON_ALERT") or "false"
    if pause not in ("true", "false"):
        raise IncompleteSettings("PAUSE_KEYS_ON_ALERT must be true or false")
    return AlertSettings(url, secret, pause == "true")


def _mail(names: Mapping[str, str]) -> MailSettings | None:
    """Who has both a key and a sender sends mail: only some functions are told the sender."""
    key, sender = _secret(names, "RESEND_API_KEY"), names.get("MAIL_FROM")
    base_url = _address(names, "RESEND_BASE_URL") or "https://api.resend.com"
    if sender and not SENDER.fullmatch(sender):
        raise IncompleteSettings("MAIL_FROM must be an address, or a name and the address in angle brackets")
    return MailSettings(key, sender, base_url) if key and sender else None


def _days(names: Mapping[str, str], name: str, *, least: int, default: int) -> int:
    given = names.get(name) or str(default)
    if not (given.isascii() and given.isdigit() and least <= int(given) <= 36_500):
        raise IncompleteSettings(f"{name} must be a number of days, {least} at least")
    return int(given)


def _address(names: Mapping[str, str], name: str) -> str | None:
    """An https address without its last slash; http for this machine alone."""
    given = names.get(name) or None
    if given and not given.startswith(LOCAL_OR_HTTPS):
        raise IncompleteSettings(f"{name} must be an https address")
    return given.rstrip("/") if given else None


def _providers(names: Mapping[str, str]) -> dict[str, ProviderSettings]:
    """The providers that this deployment has a key for."""
    found: dict[str, ProviderSettings] = {}
    for provider in PROVIDERS:
        key = _secret(names, f"{provider.upper()}_API_KEY")
        base_url = _address(names, f"{provider.upper()}_BASE_URL")
        if key:
            found[provider] = ProviderSettings(key, base_url)
    return found


settings = load(os.environ)

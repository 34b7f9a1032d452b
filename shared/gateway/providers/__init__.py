"""Who answers: the providers that this deployment has a key for, and the sandbox, which is always here.

To add one: a module with `provider(settings)`, a line in ADAPTERS, and recorded replies for the conformance suite.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cache

import msgspec

from gateway.providers import chutes, featherless, openrouter, portkey
from gateway.providers.base import Provider
from gateway.providers.sandbox import Sandbox
from gateway.settings import ProviderSettings, Secret, Settings, settings

ADAPTERS: Mapping[str, Callable[[Settings], Provider]] = {
    "openrouter": openrouter.provider,
    "portkey": portkey.provider,
    "featherless": featherless.provider,
    "chutes": chutes.provider,
}


def of_user(name: str, key: str) -> Provider:
    """A provider as the user asks it who has this key: with nothing of the deployment's own account there."""
    known = settings.providers.get(name)
    own = {name: ProviderSettings(Secret(key), known.base_url if known else None)}
    return ADAPTERS[name](
        msgspec.structs.replace(settings, providers=own, portkey_provider=None, portkey_virtual_key=None)
    )


def without_key(name: str) -> Provider:
    """A provider to read public things of."""
    return of_user(name, "")


@cache
def available() -> Mapping[str, Provider]:
    """By name, the providers that can be asked."""
    configured = {name: ADAPTERS[name](settings) for name in settings.providers}
    return {**configured, Sandbox.name: Sandbox()}


def on_sale() -> list[str]:
    """Names of the providers whose offers are sold: in production the sandbox answers test keys alone."""
    return [name for name in available() if name != Sandbox.name or settings.stage != "production"]

"""Who may ask for what: each route of the template with the scope that it asks for, `None` for whoever comes."""

from __future__ import annotations

import re
from typing import Any

from samcli.yamlhelper import yaml_parse

from gateway.scopes import CUSTOMER, Scope
from tests.harness.gateway import HELLO, TEMPLATE

type Route = tuple[str, str]

SCOPES: dict[Route, Scope | None] = {
    ("GET", "/health"): None,
    ("GET", "/ping"): None,
    ("GET", "/v1/models"): None,
    ("GET", "/v1/models/{id}"): None,
    ("GET", "/models"): None,
    ("GET", "/catalog/models"): None,
    ("GET", "/models/providers"): None,
    ("GET", "/catalog/provider"): None,
    ("GET", "/ranking/models"): None,
    ("GET", "/admin/quarantined-prices"): Scope.ADMIN_READ,
    ("POST", "/admin/quarantined-prices/{id}"): Scope.ADMIN_CREDITS,
    ("POST", "/auth"): None,
    ("POST", "/auth/privy"): None,
    ("POST", "/auth/supabase"): None,
    ("POST", "/auth/leaked-keys"): None,
    ("POST", "/auth/recovery"): None,
    ("POST", "/auth/recovery/confirm"): None,
    ("GET", "/unsubscribe"): None,
    ("POST", "/unsubscribe"): None,
    ("POST", "/v1/chat/completions"): Scope.INFERENCE,
    ("POST", "/v1/quote"): Scope.INFERENCE,
    ("POST", "/v1/embeddings"): Scope.INFERENCE,
    ("POST", "/v1/images/generations"): Scope.INFERENCE,
    ("POST", "/images/generate"): Scope.INFERENCE,
    ("POST", "/v1/messages"): Scope.INFERENCE,
    ("POST", "/v1/responses"): Scope.INFERENCE,
    ("GET", "/v1/responses/{id}"): Scope.INFERENCE,
    ("DELETE", "/v1/responses/{id}"): Scope.INFERENCE,
    ("GET", "/v1/responses/{id}/input_items"): Scope.INFERENCE,
    ("POST", "/chat/sessions"): Scope.INFERENCE,
    ("GET", "/chat/sessions"): Scope.INFERENCE,
    ("GET", "/chat/sessions/{id}"): Scope.INFERENCE,
    ("PUT", "/chat/sessions/{id}"): Scope.INFERENCE,
    ("DELETE", "/chat/sessions/{id}"): Scope.INFERENCE,
    ("POST", "/chat/sessions/{id}/messages"): Scope.INFERENCE,
    ("POST", "/chat/search"): Scope.INFERENCE,
    ("GET", "/chat/stats"): Scope.INFERENCE,
    ("POST", "/v1/chat/sessions"): Scope.INFERENCE,
    ("GET", "/v1/chat/sessions"): Scope.INFERENCE,
    ("GET", "/v1/chat/sessions/{id}"): Scope.INFERENCE,
    ("PUT", "/v1/chat/sessions/{id}"): Scope.INFERENCE,
    ("DELETE", "/v1/chat/sessions/{id}"): Scope.INFERENCE,
    ("POST", "/v1/chat/sessions/{id}/messages"): Scope.INFERENCE,
    ("POST", "/v1/chat/search"): Scope.INFERENCE,
    ("GET", "/v1/chat/stats"): Scope.INFERENCE,
    ("POST", "/auth/session-keys"): Scope.INFERENCE,
    ("DELETE", "/auth/session"): Scope.INFERENCE,
    ("GET", "/v1/credits"): Scope.ACCOUNT_READ,
    ("GET", "/v1/key"): Scope.ACCOUNT_READ,
    ("GET", "/v1/generation"): Scope.ACCOUNT_READ,
    ("GET", "/user/balance"): Scope.ACCOUNT_READ,
    ("GET", "/user/profile"): Scope.ACCOUNT_READ,
    ("GET", "/user/credit-transactions"): Scope.ACCOUNT_READ,
    ("GET", "/user/activity/stats"): Scope.ACCOUNT_READ,
    ("GET", "/user/activity/log"): Scope.ACCOUNT_READ,
    ("GET", "/user/api-keys"): Scope.ACCOUNT_READ,
    ("GET", "/user/api-keys/{id}"): Scope.ACCOUNT_READ,
    ("GET", "/user/api-keys/usage"): Scope.ACCOUNT_READ,
    ("GET", "/user/api-keys/audit-logs"): Scope.ACCOUNT_READ,
    ("GET", "/user/rate-limits"): Scope.ACCOUNT_READ,
    ("GET", "/user/rate-limits/{id}"): Scope.ACCOUNT_READ,
    ("GET", "/user/notifications/preferences"): Scope.ACCOUNT_READ,
    ("GET", "/user/provider-keys"): Scope.ACCOUNT_READ,
    ("GET", "/user/export"): Scope.ACCOUNT_READ,
    ("GET", "/user/webhooks"): Scope.ACCOUNT_READ,
    ("GET", "/user/webhooks/{id}/deliveries"): Scope.ACCOUNT_READ,
    ("PUT", "/user/profile"): Scope.ACCOUNT_WRITE,
    ("PUT", "/user/notifications/preferences"): Scope.ACCOUNT_WRITE,
    ("DELETE", "/user"): Scope.ACCOUNT_WRITE,
    ("POST", "/user/webhooks"): Scope.ACCOUNT_WRITE,
    ("PUT", "/user/webhooks/{id}"): Scope.ACCOUNT_WRITE,
    ("DELETE", "/user/webhooks/{id}"): Scope.ACCOUNT_WRITE,
    ("POST", "/user/webhooks/{id}/test"): Scope.ACCOUNT_WRITE,
    ("POST", "/user/api-keys"): Scope.KEYS_WRITE,
    ("PUT", "/user/api-keys/{id}"): Scope.KEYS_WRITE,
    ("DELETE", "/user/api-keys/{id}"): Scope.KEYS_WRITE,
    ("POST", "/user/api-keys/{id}/secret"): Scope.KEYS_WRITE,
    ("PUT", "/user/rate-limits/{id}"): Scope.KEYS_WRITE,
    ("PUT", "/user/provider-keys/{provider}"): Scope.KEYS_WRITE,
    ("DELETE", "/user/provider-keys/{provider}"): Scope.KEYS_WRITE,
    ("GET", "/api/stripe/credit-packages"): None,
    ("POST", "/api/stripe/webhook"): None,
    ("GET", "/api/stripe/payments"): Scope.ACCOUNT_READ,
    ("GET", "/api/stripe/payments/{id}"): Scope.ACCOUNT_READ,
    ("GET", "/api/stripe/checkout-session/{id}"): Scope.ACCOUNT_READ,
    ("GET", "/user/auto-top-up"): Scope.ACCOUNT_READ,
    ("POST", "/api/stripe/checkout"): Scope.ACCOUNT_WRITE,
    ("POST", "/api/stripe/checkout-session"): Scope.ACCOUNT_WRITE,
    ("POST", "/api/stripe/payment-intent"): Scope.ACCOUNT_WRITE,
    ("POST", "/api/stripe/portal"): Scope.ACCOUNT_WRITE,
    ("PUT", "/user/auto-top-up"): Scope.ACCOUNT_WRITE,
    ("DELETE", "/user/auto-top-up"): Scope.ACCOUNT_WRITE,
    ("POST", "/user/plan"): Scope.ACCOUNT_WRITE,
    ("DELETE", "/user/plan"): Scope.ACCOUNT_WRITE,
    ("POST", "/trials/convert"): Scope.ACCOUNT_WRITE,
    ("POST", "/api/stripe/refund"): Scope.ADMIN_CREDITS,
    ("GET", "/plans"): None,
    ("GET", "/plans/{id}"): None,
    ("GET", "/user/plan"): Scope.ACCOUNT_READ,
    ("POST", "/trials/start"): Scope.ACCOUNT_WRITE,
    ("GET", "/trials/status"): Scope.ACCOUNT_READ,
    ("GET", "/trial/status"): Scope.ACCOUNT_READ,
    ("POST", "/trials/track-usage"): Scope.ACCOUNT_READ,
    ("POST", "/coupons/redeem"): Scope.ACCOUNT_WRITE,
    ("GET", "/coupons/available"): Scope.ACCOUNT_READ,
    ("GET", "/coupons/history"): Scope.ACCOUNT_READ,
    ("GET", "/referral/code"): Scope.ACCOUNT_READ,
    ("GET", "/referral/stats"): Scope.ACCOUNT_READ,
    ("POST", "/referral/generate"): Scope.ACCOUNT_WRITE,
    ("POST", "/referral/validate"): Scope.ACCOUNT_READ,
    ("POST", "/admin/plans"): Scope.ADMIN_USERS,
    ("PATCH", "/admin/plans/{id}"): Scope.ADMIN_USERS,
    ("POST", "/plans/assign"): Scope.ADMIN_USERS,
    ("POST", "/admin/assign-plan"): Scope.ADMIN_USERS,
    ("POST", "/admin/coupons"): Scope.ADMIN_CREDITS,
    ("GET", "/admin/coupons"): Scope.ADMIN_READ,
    ("GET", "/admin/coupons/stats/overview"): Scope.ADMIN_READ,
    ("GET", "/admin/coupons/{id}"): Scope.ADMIN_READ,
    ("GET", "/admin/coupons/{id}/analytics"): Scope.ADMIN_READ,
    ("PATCH", "/admin/coupons/{id}"): Scope.ADMIN_CREDITS,
    ("DELETE", "/admin/coupons/{id}"): Scope.ADMIN_CREDITS,
    ("GET", "/admin/trial-terms"): Scope.ADMIN_READ,
    ("PUT", "/admin/trial-terms"): Scope.ADMIN_CREDITS,
    ("GET", "/admin/referral-terms"): Scope.ADMIN_READ,
    ("PUT", "/admin/referral-terms"): Scope.ADMIN_CREDITS,
    ("GET", "/admin/monitor"): Scope.ADMIN_READ,
    ("GET", "/admin/usage"): Scope.ADMIN_READ,
    ("GET", "/admin/users"): Scope.ADMIN_READ,
    ("GET", "/admin/users/{id}"): Scope.ADMIN_READ,
    ("GET", "/admin/audit-logs"): Scope.ADMIN_READ,
    ("GET", "/admin/audit-logs/verify"): Scope.ADMIN_READ,
    ("GET", "/admin/roles"): Scope.ADMIN_READ,
    ("GET", "/admin/roles/{id}"): Scope.ADMIN_READ,
    ("GET", "/admin/roles/list/{role}"): Scope.ADMIN_READ,
    ("GET", "/admin/roles/permissions/{role}"): Scope.ADMIN_READ,
    ("GET", "/admin/roles/audit/log"): Scope.ADMIN_READ,
    ("GET", "/admin/alerts"): Scope.ADMIN_READ,
    ("POST", "/admin/create"): Scope.ADMIN_USERS,
    ("POST", "/create"): Scope.ADMIN_USERS,
    ("POST", "/admin/users/{id}/suspend"): Scope.ADMIN_USERS,
    ("POST", "/admin/users/{id}/restore"): Scope.ADMIN_USERS,
    ("POST", "/admin/add_credits"): Scope.ADMIN_CREDITS,
    ("POST", "/admin/rate-limits"): Scope.ADMIN_LIMITS,
    ("POST", "/admin/limit"): Scope.ADMIN_LIMITS,
    ("POST", "/admin/roles/update"): Scope.ADMIN_ROLES,
    ("PUT", "/admin/roles/permissions/{role}"): Scope.ADMIN_ROLES,
    ("DELETE", "/admin/roles/permissions/{role}"): Scope.ADMIN_ROLES,
    ("POST", "/admin/alerts/{id}/resolve"): Scope.ADMIN_ALERTS,
}

BODIES: dict[Route, dict[str, Any]] = {
    ("POST", "/v1/chat/completions"): {"model": "sandbox/chat", "messages": HELLO},
    ("POST", "/v1/quote"): {"model": "sandbox/chat", "messages": HELLO},
    ("POST", "/v1/embeddings"): {"model": "sandbox/embedding", "input": "Hello"},
    ("POST", "/v1/images/generations"): {"model": "sandbox/image", "prompt": "A harbour"},
    ("POST", "/images/generate"): {"model": "sandbox/image", "prompt": "A harbour"},
    ("POST", "/v1/messages"): {"model": "sandbox/chat", "messages": HELLO, "max_tokens": 10},
    ("POST", "/v1/responses"): {"model": "sandbox/chat", "input": "Hello"},
    ("PUT", "/user/api-keys/{id}"): {"key_name": "another"},
    ("PUT", "/user/rate-limits/{id}"): {"requests_per_minute": 1},
}
"""What a route has to be told before it looks at who asks, or at whose it is."""

PROVEN: frozenset[Route] = frozenset({("GET", "/unsubscribe")})
"""Public pages that show nothing without a proof: a link of ours."""

KEY_IDS: frozenset[Route] = frozenset(
    (method, path) for method, path in SCOPES if path.startswith(("/user/api-keys/{id}", "/user/rate-limits/{id}"))
)
"""The customers' routes that name a thing of somebody's: keys."""


def deployed() -> set[Route]:
    """The routes of template.yaml, as `SCOPES` has them."""
    resources = yaml_parse(TEMPLATE.read_text())["Resources"].values()
    events = [event for each in resources for event in each.get("Properties", {}).get("Events", {}).values()]
    api = [event["Properties"] for event in events if event["Type"] == "Api"]
    return {(route["Method"], route["Path"].replace("+}", "}")) for route in api}


def is_for(scope: Scope | None, role: str) -> bool:
    """Whether a built-in role allows a scope."""
    return scope is None or role == "admin" or scope in CUSTOMER


def spelled(path: str, value: object = "999999") -> str:
    """A route's path with this for what varies in it."""
    return re.sub(r"\{(\w+)\}", lambda found: "nobody" if found[1] in {"role", "provider"} else str(value), path)

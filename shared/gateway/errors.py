"""Every error that a caller can be shown, as one closed tree.

GatewayError
├── InvalidRequest              400 invalid_request_error
│   ├── ContextLengthExceeded   400 context_length_exceeded
│   ├── ModelNotPriced          400 model_not_priced
│   ├── ProviderKeyRefused      400 provider_key_refused
│   ├── CouponInactive          400 coupon_inactive
│   ├── CouponNotYetValid       400 coupon_not_yet_valid
│   ├── CouponExpired           400 coupon_expired
│   └── CouponUsedUp            400 coupon_max_uses_reached
├── Unauthenticated             401 invalid_api_key
│   ├── KeyExpired              401 expired_api_key
│   └── InvalidToken            401 invalid_token
├── InsufficientCredits         402 insufficient_credits
│   ├── KeyLimitReached         402 key_limit_reached
│   └── InFlightBudget          402 in_flight_budget            transient
├── InsufficientScope           403 insufficient_scope
│   ├── IpNotAllowed            403 ip_not_allowed
│   ├── RefererNotAllowed       403 referer_not_allowed
│   ├── ModelNotAllowed         403 model_not_allowed
│   ├── KeyPaused               403 key_paused
│   ├── RoleRequired            403 role_required
│   ├── AccountClosed           403 account_closed
│   ├── AddressNeeded           403 address_needed
│   ├── TrialNotAvailable       403 trial_not_available
│   └── TrialExpired            403 trial_expired
├── NotFound                    404 not_found
│   ├── ModelNotFound           404 model_not_found
│   └── CouponNotFound          404 coupon_not_found
├── MethodNotAllowed            405 method_not_allowed
├── RequestTimeout              408 request_timeout             transient
├── Conflict                    409 conflict
│   ├── IdempotencyInProgress   409 idempotency_in_progress     transient
│   ├── NoSavedCard             409 no_saved_card
│   ├── TrialAlreadyUsed        409 trial_already_used
│   ├── CouponAlreadyRedeemed   409 coupon_already_redeemed
│   └── CouponBonusWaiting      409 coupon_bonus_waiting
├── PayloadTooLarge             413 payload_too_large
│   └── StorageFull             413 storage_full
├── Unprocessable               422 unprocessable
├── IdempotencyKeyReused        422 idempotency_key_reused
├── RateLimitExceeded           429 rate_limit_exceeded         transient
│   ├── ConcurrencyLimitExceeded 429 concurrency_limit_exceeded transient
│   ├── PlanLimitExceeded       429 plan_limit_exceeded         transient
│   └── ProviderRateLimited     429 provider_rate_limited       transient
├── InternalError               500 internal_error              transient
├── ProviderError               502 provider_error              transient
│   ├── NoProviderAvailable     503 no_provider_available       transient
│   ├── ProviderTimeout         504 provider_timeout            transient
│   └── PaymentsUnavailable     503 payments_unavailable        transient
├── Overloaded                  503 overloaded                  transient
└── DatabaseUnavailable         503 database_unavailable        transient

The status decides how OpenAI's SDKs retry (408, 409, 429 and 5xx are retried, 402 never is), so "no money" is always
402 and "too fast" always 429. The code is stable and may be relied on; the message is not.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any, ClassVar


class GatewayError(Exception):
    """A refusal or failure with the status, type, code and headers that its caller is shown."""

    status: ClassVar[int] = 500
    type: ClassVar[str] = "server_error"
    code: ClassVar[str] = "internal_error"
    text: ClassVar[str] = "The gateway failed to answer this request."
    transient: ClassVar[bool] = False

    def __init__(
        self,
        message: str | None = None,
        *,
        param: str | None = None,
        retry_after_ms: int | None = None,
        **metadata: Any,
    ) -> None:
        super().__init__(message or self.text)
        self.message = message or self.text
        self.param = param
        self.retry_after_ms = retry_after_ms
        self.metadata = metadata
        self.receipt: dict[str, str] = {}
        """Further headers, of a request that had been admitted."""

    def error(self) -> dict[str, Any]:
        """The `error` object of OpenAI's API, with OpenRouter's `metadata`."""
        return {
            "message": self.message,
            "type": self.type,
            "param": self.param,
            "code": self.code,
            "metadata": {"error_type": self.type, "retryable": self.transient, **self.metadata},
        }

    def body(self, request_id: str) -> dict[str, Any]:
        """The whole answer's body, as documented for every route."""
        return {
            "error": self.error(),
            "detail": self.message,
            "status_code": self.status,
            "request_id": request_id,
            "timestamp": datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z"),
        }

    def headers(self) -> dict[str, str]:
        """Headers that tell a client when to try again (RFC 9110 10.2.3; OpenAI's SDKs read `retry-after-ms`)."""
        headers = dict(self.receipt)
        if self.retry_after_ms is not None:
            headers["retry-after"] = str(max(1, -(-self.retry_after_ms // 1000)))
            headers["retry-after-ms"] = str(max(1, self.retry_after_ms))
        if scope := self.metadata.get("scope"):
            headers["x-ratelimit-scope"] = str(scope)
        return headers


class InvalidRequest(GatewayError):
    status, type, code = 400, "invalid_request_error", "invalid_request_error"
    text = "The request is not valid."


class ContextLengthExceeded(InvalidRequest):
    code = "context_length_exceeded"
    text = "The request and the answer's ceiling are longer than the model's context. Shorten it or lower max_tokens."


class ModelNotPriced(InvalidRequest):
    code = "model_not_priced"
    text = "This model has no price and is not served."


class ProviderKeyRefused(InvalidRequest):
    code = "provider_key_refused"
    text = "The provider refused the key that you stored for it."


class CouponInactive(InvalidRequest):
    code = "coupon_inactive"
    text = "This coupon is not active."


class CouponNotYetValid(InvalidRequest):
    code = "coupon_not_yet_valid"
    text = "This coupon cannot be redeemed yet."


class CouponExpired(InvalidRequest):
    code = "coupon_expired"
    text = "This coupon cannot be redeemed any more."


class CouponUsedUp(InvalidRequest):
    code = "coupon_max_uses_reached"
    text = "This coupon was redeemed as often as it may be."


class Unauthenticated(GatewayError):
    status, type, code = 401, "authentication_error", "invalid_api_key"
    text = "The API key is missing or not valid."

    def headers(self) -> dict[str, str]:
        return {**super().headers(), "www-authenticate": "Bearer"}


class KeyExpired(Unauthenticated):
    code = "expired_api_key"
    text = "The API key has expired."


class InvalidToken(Unauthenticated):
    code = "invalid_token"
    text = "The sign-in token is missing or not valid."


class InsufficientCredits(GatewayError):
    status, type, code = 402, "insufficient_credits", "insufficient_credits"
    text = "The balance does not cover this request."


class KeyLimitReached(InsufficientCredits):
    code = "key_limit_reached"
    text = "The API key's own spending limit does not cover this request."


class InFlightBudget(InsufficientCredits):
    code, transient = "in_flight_budget", True
    text = "Requests still running hold the rest of the balance."


class InsufficientScope(GatewayError):
    status, type, code = 403, "permission_error", "insufficient_scope"
    text = "The API key may not do this."


class IpNotAllowed(InsufficientScope):
    code = "ip_not_allowed"
    text = "The API key may not be used from this address."


class RefererNotAllowed(InsufficientScope):
    code = "referer_not_allowed"
    text = "The API key may not be used from this site."


class ModelNotAllowed(InsufficientScope):
    code = "model_not_allowed"
    text = "The API key may not use this model."


class KeyPaused(InsufficientScope):
    code = "key_paused"
    text = "The API key is paused."


class RoleRequired(InsufficientScope):
    code = "role_required"
    text = "The account's role does not allow this."


class AccountClosed(InsufficientScope):
    code = "account_closed"
    text = "The account was suspended or deleted."


class AddressNeeded(InsufficientScope):
    code = "address_needed"
    text = "This is for accounts with an e-mail address. Sign in with one that you have proved, or pay."


class TrialNotAvailable(InsufficientScope):
    code = "trial_not_available"
    text = "There is no trial for this account."


class TrialExpired(InsufficientScope):
    code = "trial_expired"
    text = "The trial is over. Add credits to go on."

    def headers(self) -> dict[str, str]:
        return {
            **super().headers(),
            "x-trial-expired": "true",
            "x-trial-end-date": str(self.metadata.get("trial_end_date")),
        }


class NotFound(GatewayError):
    status, type, code = 404, "invalid_request_error", "not_found"
    text = "There is nothing at this address."


class ModelNotFound(NotFound):
    code = "model_not_found"
    text = "There is no such model."


class CouponNotFound(NotFound):
    code = "coupon_not_found"
    text = "There is no such coupon."


class MethodNotAllowed(GatewayError):
    status, type, code = 405, "invalid_request_error", "method_not_allowed"
    text = "This address does not answer that method."


class RequestTimeout(GatewayError):
    status, type, code, transient = 408, "invalid_request_error", "request_timeout", True
    text = "The request did not arrive in time. Send it again over a faster connection, or send a smaller one."


class Conflict(GatewayError):
    status, type, code = 409, "invalid_request_error", "conflict"
    text = "The request conflicts with the present state."

    def headers(self) -> dict[str, str]:
        return {**super().headers(), "x-should-retry": "true" if self.transient else "false"}


class IdempotencyInProgress(Conflict):
    code, transient = "idempotency_in_progress", True
    text = "A request with this Idempotency-Key is still running."


class NoSavedCard(Conflict):
    code = "no_saved_card"
    text = "There is no saved card. Pay once with `save_card`, or save one in the customer portal."


class TrialAlreadyUsed(Conflict):
    code = "trial_already_used"
    text = "A trial was started with this account or one of its identities before."


class CouponAlreadyRedeemed(Conflict):
    code = "coupon_already_redeemed"
    text = "You have redeemed this coupon."


class CouponBonusWaiting(Conflict):
    code = "coupon_bonus_waiting"
    text = "Another bonus waits for your next top-up."


class PayloadTooLarge(GatewayError):
    status, type, code = 413, "invalid_request_error", "payload_too_large"
    text = "The request's body is too large."


class StorageFull(PayloadTooLarge):
    code = "storage_full"
    text = "The account's storage is full. Delete chat sessions or stored responses, or take a larger plan."


class Unprocessable(GatewayError):
    status, type, code = 422, "invalid_request_error", "unprocessable"
    text = "The request's body or parameters are not valid."


class IdempotencyKeyReused(GatewayError):
    status, type, code = 422, "invalid_request_error", "idempotency_key_reused"
    text = "This Idempotency-Key was used with another request."


class RateLimitExceeded(GatewayError):
    status, type, code, transient = 429, "rate_limit_error", "rate_limit_exceeded", True
    text = "Too many requests or tokens in a short time."


class ConcurrencyLimitExceeded(RateLimitExceeded):
    code = "concurrency_limit_exceeded"
    text = "Too many requests at once."


class PlanLimitExceeded(RateLimitExceeded):
    code = "plan_limit_exceeded"
    text = "The plan's limit for this day or month is used up."


class ProviderRateLimited(RateLimitExceeded):
    code = "provider_rate_limited"
    text = "The provider limits requests for this model at the moment."


class InternalError(GatewayError):
    transient = True


class ProviderError(GatewayError):
    status, type, code, transient = 502, "provider_error", "provider_error", True
    text = "The provider failed to answer."
    key_refused = False
    """Whether it was the key that the provider did not take."""


class NoProviderAvailable(ProviderError):
    status, code = 503, "no_provider_available"
    text = "No provider of this model is available."


class ProviderTimeout(ProviderError):
    status, code = 504, "provider_timeout"
    text = "The provider did not answer in time."


class PaymentsUnavailable(ProviderError):
    status, code = 503, "payments_unavailable"
    text = "The payment service cannot be reached. Send the same request again: nothing is charged twice."


class Overloaded(GatewayError):
    status, type, code, transient = 503, "server_error", "overloaded", True
    text = "The gateway has too many requests in work. Send this one again in a moment."


class DatabaseUnavailable(GatewayError):
    status, type, code, transient = 503, "server_error", "database_unavailable", True
    text = "The gateway cannot reach its database; nothing was served or charged."


def _tree(node: type[GatewayError]) -> dict[str, type[GatewayError]]:
    found = {node.code: node}
    for child in node.__subclasses__():
        found |= _tree(child)
    return found


CODES: dict[str, type[GatewayError]] = _tree(GatewayError)


def refusal(code: str, detail: dict[str, Any]) -> GatewayError | None:
    """The error that a database function raised by its code, with what it told in `detail`; None for a foreign code."""
    if (error := CODES.get(code)) is None:
        return None
    message, param, wait_ms = (detail.pop(name, None) for name in ("message", "param", "retry_after_ms"))
    return error(message, param=param, retry_after_ms=wait_ms, **detail)

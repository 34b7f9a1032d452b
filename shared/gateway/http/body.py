"""Bodies and parameters of management routes: strict, bounded, and refused whole when a field is not known."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Coroutine
from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Annotated, Any

from fastapi import Path, Query, Request, Response
from fastapi.routing import APIRoute
from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, StringConstraints

from gateway import money
from gateway.errors import InvalidRequest
from gateway.http.parsing import parsed

UNPRINTABLE = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")
MAX_MANAGED_VALUES = 20_000
"""Of a large body; each that is not known would be an error of its own."""
MAX_PAGE = 100
MAX_ID = 2**63 - 1
FIRST_YEAR, LAST_YEAR = 2000, 9000
"""There is nothing before, and room for a span after."""


class Body(BaseModel):
    """A request's body: no field that is not named, no value of another type."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


def _printable(text: str) -> str:
    if UNPRINTABLE.search(text):
        raise ValueError("holds characters that cannot be printed")
    return text


def _nano(amount: Any) -> int:
    if isinstance(amount, bool) or not isinstance(amount, int | str | Decimal):
        raise ValueError("must be an amount of dollars, as a number or a decimal string")  # noqa: TRY004 - pydantic's
    return money.parse(str(amount) if not isinstance(amount, Decimal) else f"{amount:f}")


type Line = Annotated[str, StringConstraints(min_length=1, max_length=200), AfterValidator(_printable)]
"""One line of text that people wrote."""
type Name = Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9_-]{0,31}$")]
"""The name of a role."""
type Usd = Annotated[int, BeforeValidator(_nano)]
"""An amount that came in dollars (`5`, `5.25` or `"5.25"`), as nano-dollars; never through a float."""
type Id = Annotated[int, Path(ge=1, le=MAX_ID)]
type Limit = Annotated[int, Query(ge=1, le=MAX_PAGE)]
type Cursor = Annotated[int, Query(ge=1, le=MAX_ID)]
"""Where a page starts: the last id of the page before."""


def _utc(moment: datetime) -> datetime:
    _day(moment)
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


def _day(day: date) -> date:
    if not FIRST_YEAR <= day.year <= LAST_YEAR:
        raise ValueError("is out of range")
    return day


type KeyId = Annotated[int, Query(ge=1, le=MAX_ID)]
type Day = Annotated[date, AfterValidator(_day)]
"""A UTC day of a query."""
type Moment = Annotated[datetime, AfterValidator(_utc)]
"""A time of a query, in ISO 8601; UTC where it names no zone."""


class StrictRoute(APIRoute):
    """A route whose JSON is read strictly; `APIRouter(route_class=StrictRoute)`."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handle = super().get_route_handler()

        async def strictly(request: Request) -> Response:
            return await handle(_StrictRequest(request.scope, request.receive))

        return strictly


class _StrictRequest(Request):
    async def json(self) -> Any:
        return await parsed(await self.body(), self.scope["share"], _strict_json, MAX_MANAGED_VALUES)


def _strict_json(raw: bytes) -> Any:
    try:
        return json.loads(raw, object_pairs_hook=_members, parse_float=Decimal, parse_constant=_refuse_constant)
    except (RecursionError, UnicodeDecodeError, ValueError):
        raise InvalidRequest("The body is not valid JSON.") from None


def _members(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) != len(pairs):
        raise ValueError("a member twice")
    return members


def _refuse_constant(name: str) -> None:
    raise ValueError(name)

"""The ceiling of a completion: what its admission held is what its provider is asked for, and nothing else raises it.

A provider bills what it is asked for. So the body that goes out has exactly one ceiling, of so many tokens as the hold
assumed, under the one name that the provider takes; a request that could raise it under another name is refused.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from gateway.errors import InvalidRequest
from gateway.providers.base import CEILINGS

RAISING = frozenset({
    "bestof", "maxcompletiontokens", "maxdecodetokens", "maxgenerationlength", "maxgenlen", "maxlen", "maxlength",
    "maxnewtokens", "maxoutputtokens", "maxreasoningtokens", "maxthinkingtokens", "maxtokens", "maxtokenstosample",
    "mincompletiontokens", "minlength", "minnewtokens", "minoutputtokens", "mintokens", "npredict", "numbeams",
    "numcompletions", "numgenerations", "numpredict", "numreturnsequences", "reasoningbudget", "reasoningmaxtokens",
    "thinkingbudget", "thinkingtokenbudget", "usebeamsearch",
})  # fmt: skip
"""Names by which servers take a ceiling, a least length or more answers than `n`, without `_` and in lower case."""
NESTS = frozenset({"config", "generationconfig", "modelkwargs", "nvext", "options", "parameters", "samplingparams"})
"""Members in which servers take such names, too."""


def refuse_others(body: Mapping[str, Any]) -> None:
    """Refuse a ceiling under a name that is not one of CEILINGS. Raises InvalidRequest, which names it."""
    for name, value in body.items():
        if value is None or name in CEILINGS:
            continue
        if _plain(name) in RAISING:
            _refuse(name)
        if _plain(name) in NESTS:
            _refuse_within(name, value)


def _refuse_within(path: str, value: Any) -> None:
    if isinstance(value, list):
        for position, member in enumerate(value):
            _refuse_within(f"{path}.{position}", member)
    if not isinstance(value, dict):
        return
    for name, member in value.items():
        if _plain(name) in RAISING or name == "n":
            _refuse(f"{path}.{name}")
        _refuse_within(f"{path}.{name}", member)


def _refuse(param: str) -> None:
    raise InvalidRequest("This field is not accepted. Say how long the answer may be with max_tokens.", param=param)


def _plain(name: str) -> str:
    return name.replace("_", "").replace("-", "").lower()


def one_ceiling(**ceilings: int | None) -> None:
    """Refuse a second ceiling (by its name) that differs from the first: one of them would not be what is held. Raises
    ValueError, which names it as msgspec does.
    """
    given = {name: tokens for name, tokens in ceilings.items() if tokens is not None}
    if len(set(given.values())) > 1:
        *_, last = given
        raise ValueError(f"Two different ceilings were given, send only one of them - at `$.{last}`")


def within_ceiling(ceiling: int | None, budget: int | None, path: str) -> None:
    """Refuse a budget of thoughts above the answer's ceiling. Raises ValueError, which names it as msgspec does."""
    if ceiling is not None and budget is not None and budget > ceiling:
        raise ValueError(f"The budget of thoughts is larger than the answer may be - at `$.{path}`")

"""What is sealed is opened by any key of the ring, and by nothing else."""

from __future__ import annotations

import base64
from typing import TYPE_CHECKING

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway import sealing
from gateway.errors import InternalError
from gateway.settings import Secret, settings

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    type Ring = Callable[..., None]

FIRST, SECOND = (Secret(base64.urlsafe_b64encode(bytes([n] * 32)).decode()) for n in (1, 2))


@pytest.fixture
def ring(monkeypatch: pytest.MonkeyPatch) -> Iterator[Ring]:
    """Puts keys into the ring."""

    def put(*keys: Secret) -> None:
        monkeypatch.setattr(sealing, "settings", msgspec.structs.replace(settings, sealing_keys=list(keys)))
        sealing._ring.cache_clear()

    yield put
    sealing._ring.cache_clear()


@given(st.text(max_size=500))
def test_what_is_sealed_is_read_again_and_not_seen(text: str) -> None:
    sealed = sealing.seal(text)
    assert sealing.unseal(sealed) == text
    assert len(text) < 8 or text not in sealed
    assert sealing.seal(text) != sealed


def test_a_ring_turns(ring: Ring) -> None:
    ring(FIRST)
    before = sealing.seal("a secret")
    ring(SECOND, FIRST)
    after = sealing.seal("a secret")
    assert sealing.unseal(before) == sealing.unseal(after) == "a secret"
    ring(SECOND)
    assert sealing.unseal(after) == "a secret"
    with pytest.raises(InternalError):
        sealing.unseal(before)


def test_without_a_key_nothing_is_sealed(ring: Ring) -> None:
    ring()
    with pytest.raises(InternalError, match="SEALING_KEYS"):
        sealing.seal("a secret")


@pytest.mark.parametrize("forged", ["", "x", "gAAAAA", "é"])
def test_what_was_not_sealed_is_not_opened(forged: str) -> None:
    with pytest.raises(InternalError):
        sealing.unseal(forged)

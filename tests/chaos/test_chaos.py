"""Short forms of `make chaos` and `make soak`: what goes wrong once, and a few seconds of traffic."""

from __future__ import annotations

from contextlib import ExitStack

import pytest

from chaos import __main__ as chaos
from chaos import soak
from chaos.faults import FAULTS, Scale
from chaos.stand import Stand
from tests.harness.scratch import scratch

SHORT = Scale(storm=32, times=1, readers=4, seconds=0.4)
NEEDS_ROOT = {"the disk is full"}
ONCE = {name: fault for name, fault in FAULTS.items() if name != "no name is found"}
"""All but the one whose time-outs take longer than a test may."""


@pytest.mark.slow("each fault of make chaos in its short form, one after the other on one gateway")
@pytest.mark.process
async def test_every_answer_is_paid_and_the_gateway_comes_back_from_every_fault() -> None:
    with scratch("chaos") as folder, ExitStack() as stack:
        stand = Stand(stack, folder)
        await stand.start()
        await keeps_nothing(stand)
        await comes_back(stand)


async def keeps_nothing(stand: Stand) -> None:
    report = await soak.run(stand, 4, samples=8)
    assert report.is_sound, report.books
    assert report.figures["refused"] == report.figures["broken"] == 0
    kept = report.growth["gateway"].descriptors
    assert max(kept) - min(kept) < len(stand.traffic.answered) / 2  # a leak would keep one a request
    assert len(report.lines()) == 1 + 2 * 4 + 2


async def comes_back(stand: Stand) -> None:
    report = await chaos.run(stand, SHORT, ONCE)
    assert report.phases.keys() | report.left_out.keys() == {"nothing", *ONCE}
    assert report.left_out.keys() <= NEEDS_ROOT
    assert report.phases["nothing"]["refused"] == report.phases["nothing"]["broken"] == 0
    assert report.phases["storms of completions"]["answered"] >= SHORT.storm
    assert report.is_sound, report.books
    assert len(report.lines()) == 1 + len(report.phases) + len(report.left_out) + 3


def test_a_process_that_grows_is_not_level() -> None:
    level, rising, leaking = (soak.Growth(5.0) for _ in range(3))
    for n in range(soak.SAMPLES):
        for growth in (level, rising, leaking):
            growth.memory_mb.append(80 + n % 3 + (n * 0.2 if growth is rising else 0))
            growth.descriptors.append(40 + (n // 4 if growth is leaking else n % 2))
    assert [growth.is_level for growth in (level, rising, leaking)] == [True, False, False]
    assert rising.slope(rising.memory_mb) == pytest.approx(24, abs=1)  # 0.2 MB each 5 s

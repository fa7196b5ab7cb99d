"""Waiting polls, returns what it waited for, and says what it waited for in vain."""

import itertools

import pytest

from tests.support.waiting import wait_for, wait_for_async


def test_waiting_returns_the_first_truthy_answer() -> None:
    answers = itertools.chain([0, None, ""], itertools.repeat("done"))
    assert wait_for(lambda: next(answers), timeout_s=5, poll_s=0) == "done"


def test_waiting_in_vain_names_the_condition_and_its_last_answer() -> None:
    states = iter(range(10_000_000))
    with pytest.raises(AssertionError, match=r"waited 0 s for: two rows, seen \d+; the last answer was 0"):
        wait_for(lambda: 0, timeout_s=0, what=lambda: f"two rows, seen {next(states)}", poll_s=0)


async def test_waiting_in_a_coroutine_takes_plain_and_async_conditions() -> None:
    answers = iter([False, True])

    async def condition() -> bool:
        return next(answers)

    assert await wait_for_async(condition, timeout_s=5, poll_s=0) is True
    assert await wait_for_async(lambda: 7, timeout_s=5) == 7
    with pytest.raises(AssertionError, match="waited 0 s for: nothing"):
        await wait_for_async(lambda: False, timeout_s=0, what="nothing", poll_s=0)

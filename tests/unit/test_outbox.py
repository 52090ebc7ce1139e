from __future__ import annotations

import threading
import time

from vintner.outbox import Outbox

WAIT = 10.0


def test_items_come_out_once_and_in_order() -> None:
    outbox: Outbox[int] = Outbox()
    for item in range(3):
        outbox.put(item)
    assert [outbox.take() for _ in range(3)] == [0, 1, 2]
    assert outbox.take(timeout=0) is None


def test_what_was_put_in_before_the_close_still_comes_out_and_nothing_after() -> None:
    outbox: Outbox[int] = Outbox()
    outbox.put(1)
    outbox.close()
    outbox.put(2)
    assert [outbox.take(), outbox.take()] == [1, None]


def test_there_is_room_below_the_bound_and_not_after_the_close() -> None:
    outbox: Outbox[int] = Outbox(most=1)
    assert outbox.wait_for_room()
    outbox.close()
    assert not outbox.wait_for_room()


def test_who_waits_for_room_goes_on_as_soon_as_something_is_taken() -> None:
    outbox: Outbox[int] = Outbox(most=1, patience=WAIT)
    outbox.put(1)
    found: list[bool] = []
    waiter = threading.Thread(target=lambda: found.append(outbox.wait_for_room()))
    waiter.start()
    assert outbox.take() == 1
    waiter.join(WAIT)
    assert found == [True]


def test_who_waits_for_room_goes_on_at_the_close() -> None:
    outbox: Outbox[int] = Outbox(most=1, patience=WAIT)
    outbox.put(1)
    found: list[bool] = []
    waiter = threading.Thread(target=lambda: found.append(outbox.wait_for_room()))
    waiter.start()
    outbox.close()
    waiter.join(WAIT)
    assert found == [False]


def test_a_client_that_takes_nothing_is_not_waited_for_beyond_the_patience() -> None:
    outbox: Outbox[int] = Outbox(most=1, patience=0.01)
    outbox.put(1)
    assert not outbox.wait_for_room()
    assert not outbox.closed


def test_what_is_put_in_does_not_pass_for_what_is_taken() -> None:
    """A client could otherwise have others wait for it as long as it asks for more, and takes nothing."""
    outbox: Outbox[int] = Outbox(most=1, patience=0.05)
    outbox.put(1)
    found: list[bool] = []
    waiter = threading.Thread(target=lambda: found.append(outbox.wait_for_room()))
    waiter.start()
    end = time.monotonic() + WAIT
    while waiter.is_alive() and time.monotonic() < end:
        outbox.put(2)
        waiter.join(0.01)
    assert found == [False]


def test_nothing_is_lost_between_many_who_put_and_wait_and_one_who_takes() -> None:
    outbox: Outbox[tuple[int, int]] = Outbox(most=2, patience=WAIT)

    def make(maker: int) -> None:
        for number in range(300):
            assert outbox.wait_for_room()
            outbox.put((maker, number))

    makers = [threading.Thread(target=make, args=(maker,)) for maker in range(4)]
    for each in makers:
        each.start()
    taken = [outbox.take(WAIT) for _ in range(4 * 300)]
    for each in makers:
        each.join(WAIT)
    assert [[number for maker, number in filter(None, taken) if maker == each] for each in range(4)] == [
        [*range(300)]
    ] * 4
    outbox.close()
    assert (outbox.take(), outbox.take()) == (None, None)

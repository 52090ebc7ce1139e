"""One request as several inferences: in their order, a few at a time, one answer, one version."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
from vintner.errors import InvalidArgument, ModelNotReady
from vintner.spread import AT_ONCE, ATTEMPTS, Spread
from vintner.types import Request, Response

Reply = Callable[[Response | Exception], None]


class Held:
    """A service in whose hands requests stay until the test answers them; with `at_once`, before `submit` returns."""

    def __init__(self, at_once: bool = False) -> None:
        self.waiting: list[tuple[Request, Reply]] = []
        self.ids: set[str] = set()
        self._at_once = at_once

    def submit(self, request: Request, protocol: str, reply: Reply) -> None:
        self.ids.add(request.id)
        if self._at_once:
            reply(Response(request.model_name, "1", {}, request.model_name))
        else:
            self.waiting.append((request, reply))

    def answer(self, place: int = 0, version: str = "1") -> None:
        request, reply = self.waiting.pop(place)
        reply(Response(request.model_name, version, {}, request.model_name))


def spread(service: Any, parts: int) -> list[Any]:
    results: list[Any] = []
    make = [partial(Request, str(part), "", {}) for part in range(parts)]
    Spread(service, make, results.append).run()
    return results


def test_responses_are_in_the_order_of_the_parts_though_they_come_in_another() -> None:
    service = Held()
    results = spread(service, 9)
    while service.waiting:
        assert len(service.waiting) <= AT_ONCE
        service.answer(-1)
    (responses,) = results
    assert [response.model_name for response in responses] == [str(part) for part in range(9)]
    assert len(service.ids) == 1


def test_answers_that_come_at_once_do_not_nest() -> None:
    (responses,) = spread(Held(at_once=True), 3000)
    assert len(responses) == 3000


@pytest.mark.parametrize("failing", range(6))
def test_the_first_error_is_the_answer_and_cancels_the_rest(failing: int) -> None:
    service = Held()
    results = spread(service, 6)
    for _ in range(failing):
        service.answer()
    _, reply = service.waiting.pop(0)
    left = list(service.waiting)
    reply(InvalidArgument("no"))
    assert [str(result) for result in results] == ["no"]
    assert all(request.cancellation is not None and request.cancellation.cancelled for request, _ in left)
    while service.waiting:
        service.answer()
    assert len(results) == 1


def test_parts_of_two_versions_are_run_again() -> None:
    service = Held()
    results = spread(service, 2)
    service.answer(version="1")
    service.answer(version="2")
    assert not results
    service.answer(version="2")
    service.answer(version="2")
    assert [response.model_version for response in results[0]] == ["2", "2"]
    assert len(service.ids) == 2


def test_a_model_that_is_always_replaced_is_not_run_for_ever() -> None:
    service = Held()
    results = spread(service, 2)
    for _ in range(ATTEMPTS):
        service.answer(version="1")
        service.answer(version="2")
    assert isinstance(results[0], ModelNotReady)
    assert not service.waiting

"""Triton's trace settings, on a server that does not trace."""

from __future__ import annotations

import pytest
from vintner.errors import InvalidArgument, Unsupported
from vintner.trace_settings import EXPECTED, HELD, update


@pytest.mark.parametrize("changes", [{}, HELD, dict.fromkeys(HELD, ()), {"trace_level": ["OFF", "OFF"]}])
def test_what_asks_for_what_holds_is_accepted(changes: dict[str, list[str]]) -> None:
    assert update(changes) == HELD


@pytest.mark.parametrize(
    "changes",
    [
        {"trace_level": ["TIMESTAMPS"]},
        {"trace_level": ["OFF", "TENSORS"]},
        {"trace_rate": ["1"]},
        {"trace_count": ["10"]},
        {"log_frequency": ["5"]},
        {"trace_file": ["/tmp/trace\n.json"]},
        {"trace_mode": ["opentelemetry"]},
        {"trace_rate": ["1000"], "trace_count": ["1"]},
    ],
)
def test_what_would_have_no_effect_is_unsupported(changes: dict[str, list[str]]) -> None:
    with pytest.raises(Unsupported, match=r"tracing is not supported by this server: .* stays"):
        update(changes)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"trace_leve": ["OFF"]}, "unknown trace setting 'trace_leve'; did you mean 'trace_level'?"),
        ({"x": []}, "expected one of: log_frequency, trace_count"),
        ({"trace_level": ["LOUD"]}, "expected OFF, TIMESTAMPS or TENSORS, got 'LOUD'"),
        ({"trace_rate": ["often"]}, "expected a number, got 'often'"),
        ({"trace_rate": ["-1"]}, "expected a number"),
        ({"trace_rate": ["1000", "1000"]}, "expected a number, got '1000, 1000'"),
        ({"trace_count": ["-2"]}, "expected a number, or -1 for any"),
        ({"log_frequency": ["0\n"]}, "expected a number"),
        ({"trace_mode": [""]}, "expected triton or opentelemetry"),
        ({"trace_rate": ["9" * 10_000]}, "expected a number"),
        ({"trace_level": ["TIMESTAMPS"], "trace_mode": ["x"]}, "'trace_mode'"),
    ],
)
def test_what_cannot_be_meant_is_refused(changes: dict[str, list[str]], message: str) -> None:
    with pytest.raises(InvalidArgument) as caught:
        update(changes)
    assert message in str(caught.value)
    assert len(str(caught.value)) < 300


def test_every_setting_has_a_pattern() -> None:
    assert EXPECTED.keys() == HELD.keys()

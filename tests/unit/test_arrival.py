"""Models that come after the server: what is said of them, and when."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
from vintner.arrival import Arrival


class Time:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def test_what_is_waited_for_is_said_at_once_and_at_intervals_that_double(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    time = Time()
    arrival = Arrival([tmp_path, tmp_path / "models"], time)
    for second in range(46):
        time.now = 100.0 + second
        assert arrival.pending()
    said = [f"since {second} s: {tmp_path / 'models'}: No such file or directory" for second in (0, 10, 20, 40)]
    assert caplog.messages == [f"waiting for models, not ready, {each}" for each in said]
    caplog.clear()
    (tmp_path / "models").mkdir()
    assert not arrival.pending()
    assert caplog.messages == ["the models are there, after 45.0 s"]


def test_nothing_is_said_of_models_that_are_there(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    assert not Arrival([tmp_path]).pending()
    assert caplog.messages == []


def test_a_link_to_nowhere_and_a_file_are_waited_for(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to("/proc/0/root/models")
    (tmp_path / "file").touch()
    assert Arrival([tmp_path / "link"]).pending()
    assert Arrival([tmp_path / "file"]).pending()

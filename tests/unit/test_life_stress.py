"""A short run of `life_stress`, with and without explicit control: no answer is lost or wrong, all is closed."""

from __future__ import annotations

from pathlib import Path

import pytest
from life_stress import stress


@pytest.mark.parametrize("seed", [1, 2])
def test_models_live_through_everything_at_once(seed: int, tmp_path: Path) -> None:
    done = stress(1.5, seed, tmp_path, least=21)
    assert done.wrong == []
    assert done.answers["Response"] > 20

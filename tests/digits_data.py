"""The handwritten digits that the shipped networks have not learned from.

The split is the one of scripts/make_digits.py; another would show networks images that they know.
"""

from __future__ import annotations

import numpy as np
from sklearn.datasets import load_digits  # type: ignore[import-untyped]
from sklearn.model_selection import train_test_split  # type: ignore[import-untyped]
from vintner.types import Array


def held_out() -> tuple[Array, Array]:
    """450 images, FP32 [450, 1, 8, 8] with pixels from 0 to 16, and the digit 0 to 9 that each shows, INT64 [450]."""
    pixels, digits = load_digits(return_X_y=True)
    _, pixels, _, digits = train_test_split(pixels, digits, test_size=0.25, random_state=0, stratify=digits)
    return pixels.astype(np.float32).reshape(-1, 1, 8, 8), digits.astype(np.int64)

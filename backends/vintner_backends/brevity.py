"""Whether a model is so small that more than one thread could not make it faster: measured, with one.

Knows no runtime library. A request costs the interpreter some 50 microseconds, under a lock that all threads share. A
model that runs a full batch in little more is never waited for by others than those that it would have to wait for
itself, so it needs no threads of its own; and of such models there may be thousands.

Invariant: what was asked for in the configuration is not overruled.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Final

import numpy as np
from vintner.backend import Instance, LoadSpec
from vintner.errors import VintnerError
from vintner.types import TensorSpec, numpy_dtype

BRIEF: Final = 100e-6
"""Seconds of a full batch."""

ROWS: Final = 64
"""Of a batch, where the model leaves its first extent open: as many as are stacked by default."""

RUNS: Final = 20
"""Of which one has to be brief: the first ones prepare what later ones find, and others may be loading meanwhile."""

PATIENCE: Final = 0.05
"""Seconds for these runs."""

SMALL: Final = 256 * 1024
"""Bytes of weights over which it is not worth trying: 64 rows take longer than that by their multiplications alone."""


def worth_trying(spec: LoadSpec, weights: int) -> bool:
    """Whether a model may be found brief, and nothing in its configuration says how it is to be run."""
    asked = spec.streams or spec.threads or spec.affinity or spec.options or (spec.instances or 1) > 1
    compiled_for_rows = spec.rows is not None and spec.rows > 0  # one of several sizes, which have to be alike
    return not asked and not compiled_for_rows and spec.cores > 1 and spec.device == "CPU" and weights <= SMALL


def is_brief(instance: Instance, inputs: Sequence[TensorSpec]) -> bool:
    """Whether it is, of an instance that computes on its caller's thread.

    False where the inputs do not tell how large they will be, or where zeros make it fail. Other threads do not disturb
    it, for it is the processor's time of this thread that is measured.
    """
    if any(-1 in spec.shape[1:] or spec.datatype == "BYTES" for spec in inputs):
        return False
    zeros = {
        spec.name: np.zeros([ROWS if extent == -1 else extent for extent in spec.shape], numpy_dtype(spec.datatype))
        for spec in inputs
    }
    spent = 0.0
    for _ in range(RUNS):
        started = time.thread_time()
        try:
            instance.run(zeros)
        except VintnerError:
            return False
        taken = time.thread_time() - started
        if taken < BRIEF:
            return True
        spent += taken
        if spent > PATIENCE:
            return False
    return False

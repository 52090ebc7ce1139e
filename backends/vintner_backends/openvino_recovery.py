"""How a model with open extents is brought back to its senses after a run that failed.

OpenVINO infers shapes node by node, and lets a node keep what it inferred if its inputs look as they did in the last
run that succeeded. A run that fails halfway has changed shapes without being such a run: afterwards inputs that are
like the last good ones meet the shapes of the bad ones, and good requests fail. This lasts until every node has
seen other inputs, so that is what is arranged here: runs on fillings of two different sizes.

Invariant: what these runs compute is thrown away, and that they fail is not an error.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
from vintner.types import Array, TensorSpec, numpy_dtype

EXTENTS = ((1, 2), (32, 64))
"""Pairs to fill the open extents with. The second is for images, which may have to be larger than a kernel."""


def settle(run: Callable[[Mapping[str, Array]], object], inputs: Sequence[TensorSpec], streams: int) -> None:
    """Runs each filling once for every stream, because each stream has a graph of its own and they take turns."""
    for pair in EXTENTS:
        outcomes = [succeeds(run, filling(inputs, extent)) for extent in pair for _ in range(streams)]
        if all(outcomes):
            return


def filling(inputs: Sequence[TensorSpec], extent: int) -> dict[str, Array]:
    """An array for each input, of zeros or empty strings, with every open extent set."""
    return {
        spec.name: np.full(
            tuple(extent if wanted == -1 else wanted for wanted in spec.shape),
            b"" if spec.datatype == "BYTES" else 0,
            numpy_dtype(spec.datatype),
        )
        for spec in inputs
    }


def succeeds(run: Callable[[Mapping[str, Array]], object], inputs: Mapping[str, Array]) -> bool:
    try:
        run(inputs)
    except RuntimeError:
        return False
    return True

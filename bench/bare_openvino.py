"""The OpenVINO runtime with nothing around it: one infer request, its input set once, run in a loop.

Says `ready`, then for each number N on its standard input runs N times and says `ran N in SECONDS`. Usage:
`bare_openvino.py MODEL`. Its device, hint and precision are those that Vintner is given for the same model.
"""

from __future__ import annotations

import sys
import time

import numpy as np
import openvino

PROPERTIES = {"PERFORMANCE_HINT": "THROUGHPUT", "INFERENCE_PRECISION_HINT": "f32"}


def main(model: str) -> None:
    compiled = openvino.Core().compile_model(model, "CPU", PROPERTIES)
    request = compiled.create_infer_request()
    shape = tuple(compiled.input(0).shape)
    request.set_input_tensor(openvino.Tensor(np.random.default_rng(224).random(shape, np.float32)))
    request.infer()
    print("ready", flush=True)
    for line in sys.stdin:
        start = time.perf_counter()
        for _ in range(int(line)):
            request.infer()
        print(f"ran {int(line)} in {time.perf_counter() - start}", flush=True)


if __name__ == "__main__":
    main(sys.argv[1])

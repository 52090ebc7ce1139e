"""OpenVINO GenAI's continuous batching with nothing around it: a pipeline that is stepped, its tokens read each step.

Says `ready`, then for each line `STREAMS REQUESTS FIRST TOKENS RATE` on its standard input keeps so many requests going
until those were answered whose numbers begin at FIRST (`prompts.py`), or with a RATE takes them in as they arrive, and
says `ran` with a JSON object: `seconds`, and for each request the seconds to its `first` token and from there
`per_token`. It makes tokens of prompts, as the server
has to, but no text of tokens. Usage: `bare_genai.py MODEL`. Its settings are those that Vintner has by itself.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections import deque
from collections.abc import Iterable, Sequence
from itertools import zip_longest
from typing import Any

import openvino_genai as genai

from bench.arrivals import poisson
from bench.prompts import Prompt, prompt


class Bare:
    """One pipeline, used by one thread."""

    def __init__(self, model: str) -> None:
        settings = genai.SchedulerConfig()
        settings.max_num_batched_tokens = 256
        settings.max_num_seqs = 256
        settings.enable_prefix_caching = True
        settings.cache_size = 0
        properties = {
            "PERFORMANCE_HINT": "LATENCY",
            "INFERENCE_NUM_THREADS": len(os.sched_getaffinity(0)),
            "ENABLE_CPU_PINNING": False,
        }
        self._pipeline: Any = genai.ContinuousBatchingPipeline(model, settings, "CPU", properties)
        self._key = 0

    def run(self, streams: int, prompts: Iterable[Prompt], arrivals: Sequence[float] = ()) -> dict[str, Any]:
        """With `arrivals`, the seconds from the start at which each comes, any number runs at once."""
        waiting = deque(zip_longest(((one.text, _config(one)) for one in prompts), arrivals))
        running: dict[int, tuple[Any, Times]] = {}
        ended: list[Times] = []
        start = time.perf_counter()
        while waiting or running:
            while waiting and (arrivals or len(running) < streams):
                asked, arrival = waiting[0]
                now = time.perf_counter()
                begun = now if arrival is None else start + arrival
                if begun > now:
                    break
                waiting.popleft()
                self._key += 1
                running[self._key] = (self._pipeline.add_request(self._key, *asked), Times(begun))
            if not running:
                time.sleep(max(0.0, start + waiting[0][1] - time.perf_counter()))
                continue
            self._pipeline.step()
            over = [key for key, (handle, times) in running.items() if _read(handle, times)]
            ended += [running.pop(key)[1] for key in over]
        return {
            "seconds": time.perf_counter() - start,
            "first": [one.first - one.begun for one in ended],
            "per_token": [(one.last - one.first) / max(1, one.tokens - 1) for one in ended],
            "tokens": sum(one.tokens for one in ended),
        }


class Times:
    """Of one request, in seconds of `time.perf_counter`."""

    __slots__ = ("begun", "first", "last", "tokens")

    def __init__(self, begun: float) -> None:
        """`begun` is when it came."""
        self.begun, self.first, self.last, self.tokens = begun, 0.0, 0.0, 0


def _read(handle: Any, times: Times) -> bool:
    """Takes what a step gave. True at the end."""
    if not handle.can_read():
        return False
    (output,) = handle.read().values()
    now = time.perf_counter()
    if not times.tokens:
        times.first = now
    times.last = now
    times.tokens += len(output.generated_ids)
    return bool(output.finish_reason != genai.GenerationFinishReason.NONE)


def _config(one: Prompt) -> Any:
    config = genai.GenerationConfig()
    config.max_new_tokens = one.tokens
    config.ignore_eos = True
    config.apply_chat_template = False
    return config


def main(model: str) -> None:
    bare = Bare(model)
    print("ready", flush=True)
    for line in sys.stdin:
        streams, requests, first, tokens = map(int, line.split()[:4])
        rate = float(line.split()[4])
        arrivals = poisson(rate, requests, first) if rate else ()
        ran = bare.run(streams, [prompt(first + number, tokens) for number in range(requests)], arrivals)
        print(f"ran {json.dumps(ran)}", flush=True)


if __name__ == "__main__":
    main(sys.argv[1])

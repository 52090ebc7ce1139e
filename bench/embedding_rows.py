"""The row about embedding models: texts per second through `/v1/embeddings`, beside the pipeline in process."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterator, Sequence
from itertools import cycle, islice
from pathlib import Path
from typing import Final

import numpy as np

from bench import servers
from bench.http_caller import closed_loop, post
from bench.load import fetch
from bench.measure import (
    Comparison,
    Limit,
    Sample,
    Sampler,
    Target,
    WrongAnswerError,
    alternate,
    check_served,
    requests_for,
    timed,
)
from bench.messages import Message
from bench.plan import Plan
from bench.process import Process
from bench.servers import Server

CLIENTS: Final = 32
SHAPES: Final = ((CLIENTS, 1), (8, 16))
"""Clients at a time, and texts in each request."""

BATCH: Final = 64
"""Texts that the pipeline is given at once."""

WORDS: Final = (10, 30)
TARGET: Final = Target(Limit.AT_LEAST, 0.9)
DIFFERENT: Final = 1024
"""Texts."""


def embeddings(plan: Plan) -> Iterator[Comparison]:
    """A real encoder, and one so small that it measures only the server."""
    texts = sentences()
    file = plan.site.directory / "sentences.json"
    file.write_text(json.dumps(texts))
    for name, title, target in (("minilm_texts", "MiniLM", TARGET), ("tiny_embeddings", "tiny encoder", None)):
        repository = plan.configured("embeddings", name, "")
        with (
            servers.vintner(plan.site, repository, "embeddings") as server,
            servers.bare_embeddings(plan.site, repository / name / "1", file, BATCH) as (bare, run),
        ):
            _check(plan, server, name, texts[:BATCH])
            for clients, together in SHAPES:
                samplers = (_served(plan, server, name, texts, clients, together), _bare(plan, bare, run))
                what = f"{title}, {clients} clients, {together} texts in a request"
                samples = alternate(plan.repeats, *samplers)
                against = f"pipeline, {BATCH} texts at once"
                yield Comparison("embeddings", what, against, "1/s", *samples, target)


def sentences() -> list[str]:
    """Texts of the words that the bench is described in, as many words as people's sentences have."""
    words = [word for word in (Path(__file__).parent / "README.md").read_text().split() if word.isalpha()]
    chosen = random.Random(30)
    return [" ".join(chosen.choices(words, k=chosen.randint(*WORDS))) for _ in range(DIFFERENT)]


def _served(plan: Plan, server: Server, model: str, texts: Sequence[str], clients: int, together: int) -> Sampler:
    ring = cycle([texts[start : start + together] for start in range(0, len(texts), together)])

    def seconds(requests: int) -> float:
        bodies = [_request(model, part) for part in islice(ring, requests)]
        return closed_loop(server.http, bodies, clients)

    requests = requests_for(seconds, plan.seconds, 2 * clients)

    def sample() -> Sample:
        before = server.served()
        taken, busy = timed(server.process, lambda: seconds(requests))
        check_served(server, before, requests)
        return Sample(requests * together / taken, busy)

    return sample


def _bare(plan: Plan, bare: Process, run: Callable[[int], float]) -> Sampler:
    count = requests_for(run, plan.seconds, BATCH)

    def sample() -> Sample:
        seconds, busy = timed(bare, lambda: run(count))
        return Sample(count / seconds, busy)

    return sample


def _request(model: str, texts: Sequence[str]) -> bytes:
    return post("/v1/embeddings", _body(model, texts))


def _body(model: str, texts: Sequence[str]) -> bytes:
    """As OpenAI's clients ask for embeddings."""
    return json.dumps({"model": model, "input": [*texts], "encoding_format": "base64"}).encode()


def _check(plan: Plan, server: Server, model: str, texts: Sequence[str]) -> None:
    """Raises WrongAnswerError unless texts together get what each gets alone."""

    def asked(given: Sequence[str]) -> np.ndarray:
        file = plan.site.directory / "embeddings.json"
        file.write_text(json.dumps({"model": model, "input": [*given]}))
        message = Message("/v1/embeddings", ("Content-Type: application/json",), file)
        return np.array([one["embedding"] for one in json.loads(fetch(server.http, message))["data"]])

    together, alone = asked(texts), np.concatenate([asked([text]) for text in texts])
    if not np.allclose(together, alone, atol=1e-4):
        raise WrongAnswerError(f"{model}: texts together get other embeddings than alone")

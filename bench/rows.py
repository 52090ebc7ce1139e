"""The rows of the table: what is compared with what, under which load, and what is wanted of it.

Each row starts what it needs and stops it again, so that any of them can be run alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final

import numpy as np
import tritonclient.grpc as triton

from bench import embedding_rows, load_rows, messages, model_life_rows, models, servers
from bench.curves import Point
from bench.load import Load, fetch, median_call
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
    throughput,
    timed,
)
from bench.messages import Message
from bench.plan import Plan
from bench.servers import Server

IN_FLIGHT: Final = 32
PUBLIC_GRPC: Final = "--grpc-fast-path=off"
MEGABYTE: Final = 1e6
SHIPPED_REPOSITORY: Final = servers.ROOT / "model_repository"


def resnet50(plan: Plan) -> Iterator[Comparison]:
    """A heavy model: what the server costs on top of the runtime. Four in flight, so that it is always busy."""
    repository = plan.repository("resnet50")
    message = plan.message(messages.grpc_message, "resnet50", models.RESNET_INPUT, models.image())
    model = repository / "resnet50" / "1" / "model.onnx"
    with servers.vintner(plan.site, repository) as server, servers.bare_openvino(plan.site, model) as (bare, run):
        runs = requests_for(run, plan.seconds, 2)

        def runtime() -> Sample:
            seconds, busy = timed(bare, lambda: run(runs))
            return Sample(runs / seconds, busy)

        served = throughput(server, Load(server.grpc, message, 1, 4), plan.seconds)
        yield Comparison(
            "resnet50",
            "ResNet-50 over gRPC, 4 in flight",
            "bare OpenVINO",
            "1/s",
            *alternate(plan.repeats, served, runtime),
            Target(Limit.AT_LEAST, 0.94),
        )


def mlp_grpc(plan: Plan) -> Iterator[Comparison]:
    """A tiny model: what the server costs at all. Streams of one connection, and connections of their own."""
    message = _mlp_message(plan, messages.grpc_message)
    repository = plan.repository("mlp")
    with (
        servers.vintner(plan.site, repository) as fast,
        servers.vintner(plan.site, repository, "vintner-public", PUBLIC_GRPC) as public,
        servers.grpc_echo(plan.site, "scores") as echo,
    ):
        check_mlp(fast)
        check_mlp(public)
        for server, path, least in ((fast, "fast path", 1.5), (public, "public API", 0.75)):
            for connections, streams in ((1, IN_FLIGHT), (IN_FLIGHT, 1)):
                samplers = (
                    throughput(which, Load(which.grpc, message, connections, streams), plan.seconds)
                    for which in (server, echo)
                )
                yield Comparison(
                    "mlp-grpc",
                    f"MLP over gRPC, {path}, {connections} x {streams} in flight",
                    "grpcio echo",
                    "1/s",
                    *alternate(plan.repeats, *samplers),
                    Target(Limit.AT_LEAST, least),
                )


def mlp_latency(plan: Plan) -> Iterator[Comparison]:
    """One request in flight: the median wait, as h2load sees it, and as a caller in Python does."""
    message = _mlp_message(plan, messages.grpc_message)
    target = Target(Limit.AT_MOST, 1.5)
    with servers.vintner(plan.site, plan.repository("mlp")) as server, servers.grpc_echo(plan.site, "scores") as echo:
        for client, sampler in (("h2load", _h2load_median), ("tritonclient", _triton_median)):
            samplers = (sampler(plan, which, message) for which in (server, echo))
            samples = alternate(plan.repeats, *samplers)
            yield Comparison(
                "mlp-latency", f"MLP over gRPC, p50 of one, {client}", "grpcio echo", "us", *samples, target
            )


def mlp_rest(plan: Plan) -> Iterator[Comparison]:
    """The same model over REST JSON, beside the same server over gRPC by grpcio's public API."""
    grpc, rest = _mlp_message(plan, messages.grpc_message), _mlp_message(plan, messages.json_message)
    with servers.vintner(plan.site, plan.repository("mlp"), "vintner", PUBLIC_GRPC) as server:
        yield Comparison(
            "mlp-rest",
            f"MLP over REST JSON, {IN_FLIGHT} in flight",
            f"public gRPC, 1 x {IN_FLIGHT}",
            "1/s",
            *alternate(
                plan.repeats,
                throughput(server, Load(server.http, rest, IN_FLIGHT, 1, http1=True), plan.seconds),
                throughput(server, Load(server.grpc, grpc, 1, IN_FLIGHT), plan.seconds),
            ),
            Target(Limit.AT_LEAST, 2.0),
        )


def large(plan: Plan) -> Iterator[Comparison]:
    """Inputs of 600 KB to a model that does nothing with them: what moving tensors costs."""
    target = Target(Limit.AT_LEAST, 0.9)
    grpc, rest = (
        plan.message(make, "first_pixels", "image", models.image())
        for make in (messages.grpc_message, messages.binary_message)
    )
    with servers.vintner(plan.site, plan.repository("first_pixels")) as server:
        with servers.grpc_echo(plan.site, "pixels") as echo:
            samplers = (_megabytes(plan, which, Load(which.grpc, grpc, 4, 1)) for which in (server, echo))
            samples = alternate(plan.repeats, *samplers)
            yield Comparison("large", "600 KB over gRPC, 4 in flight", "grpcio echo", "MB/s", *samples, target)
        with servers.http_echo(plan.site, fetch(server.http, rest)) as echo:
            samplers = (_megabytes(plan, which, Load(which.http, rest, 4, 1, http1=True)) for which in (server, echo))
            samples = alternate(plan.repeats, *samplers)
            yield Comparison("large", "600 KB over REST binary, 4 in flight", "granian echo", "MB/s", *samples, target)


def memory(plan: Plan) -> Iterator[Comparison]:
    """Resident memory with the shipped repository; the two samples of a pair are that many requests apart."""
    image = np.zeros((1, 1, 8, 8), np.float32)
    grpc, rest = (
        plan.message(make, "digits", "image", image) for make in (messages.grpc_message, messages.json_message)
    )
    with servers.vintner(plan.site, SHIPPED_REPOSITORY) as server:
        loads = (Load(server.grpc, grpc, 1, IN_FLIGHT), Load(server.http, rest, IN_FLIGHT, 1, http1=True))
        step = plan.memory_requests // 10
        _serve(server, loads, 2 * step)  # the warm-up
        early = _resident_after(server, loads, step, plan.repeats)
        _serve(server, loads, plan.memory_requests - plan.repeats * step)
        late = _resident_after(server, loads, step, plan.repeats)
    yield Comparison(
        "memory",
        f"Resident memory after {plan.memory_requests:,} requests",
        "after the warm-up",
        "MB",
        late,
        early,
        Target(Limit.AT_MOST, 1.01),
    )


def mlserver(plan: Plan) -> Iterator[Comparison]:
    """The same model in MLServer, over both of its protocols."""
    grpc, rest = _mlp_message(plan, messages.grpc_message), _mlp_message(plan, messages.json_message)
    with servers.vintner(plan.site, plan.repository("mlp")) as server, servers.mlserver(plan.site) as rival:
        check_mlp(server)
        check_mlp(rival)
        over_grpc = (throughput(it, Load(it.grpc, grpc, 1, IN_FLIGHT), plan.seconds) for it in (server, rival))
        name = f"MLP over gRPC, 1 x {IN_FLIGHT} in flight"
        samples = alternate(plan.repeats, *over_grpc)
        yield Comparison("mlserver", name, "MLServer", "1/s", *samples, Target(Limit.AT_LEAST, 2.5))
        over_rest = (
            throughput(it, Load(it.http, rest, IN_FLIGHT, 1, http1=True), plan.seconds) for it in (server, rival)
        )
        name = f"MLP over REST JSON, {IN_FLIGHT} in flight"
        samples = alternate(plan.repeats, *over_rest)
        yield Comparison("mlserver", name, "MLServer", "1/s", *samples, Target(Limit.AT_LEAST, 5.0))


ROWS: Final[Mapping[str, Callable[[Plan], Iterator[Comparison | Point]]]] = {
    "resnet50": resnet50,
    "mlp-grpc": mlp_grpc,
    "mlp-latency": mlp_latency,
    "mlp-rest": mlp_rest,
    "large": large,
    "memory": memory,
    "mlserver": mlserver,
    "minilm-curve": load_rows.minilm_curve,
    "resnet-curve": load_rows.resnet_curve,
    "overload": load_rows.overload,
    "mixed-shapes": load_rows.mixed_shapes,
    "neighbours": load_rows.neighbours,
    "hot-path": load_rows.hot_path,
    "embeddings": embedding_rows.embeddings,
    "model-life": model_life_rows.model_life,
}


def check_mlp(server: Server) -> None:
    """Raises WrongAnswerError unless the server computes the network: a fast wrong answer is worth nothing."""
    features = models.mlp_features()
    with triton.InferenceServerClient(server.grpc) as client:
        answer = client.infer("mlp", [_triton_input(features)]).as_numpy("scores")
    if answer is None or not np.allclose(answer, models.mlp_scores(features), atol=1e-5):
        raise WrongAnswerError(f"{server.process} answers {answer} where {models.mlp_scores(features)} is right")


def _mlp_message(plan: Plan, make: Callable[..., Message]) -> Message:
    return plan.message(make, "mlp", "features", models.mlp_features())


def _megabytes(plan: Plan, server: Server, load: Load) -> Sampler:
    return throughput(server, load, plan.seconds, load.message.size / MEGABYTE)


def _h2load_median(plan: Plan, server: Server, message: Message) -> Sampler:
    load = Load(server.grpc, message, 1, 1)
    requests = requests_for(load.seconds, plan.seconds, 100)
    log = plan.site.directory / "h2load.log"

    def sample() -> Sample:
        before = server.served()
        seconds, busy = timed(server.process, lambda: load.median_latency(requests, log))
        check_served(server, before, requests)
        return Sample(seconds * 1e6, busy)

    return sample


def _triton_median(plan: Plan, server: Server, _: Message) -> Sampler:
    inputs = [_triton_input(models.mlp_features())]
    requests = int(plan.seconds * 500)

    def sample() -> Sample:
        before = server.served()
        with triton.InferenceServerClient(server.grpc) as client:
            seconds, busy = timed(server.process, lambda: median_call(lambda: client.infer("mlp", inputs), requests))
        check_served(server, before, requests + requests // 10)
        return Sample(seconds * 1e6, busy)

    return sample


def _triton_input(features: np.ndarray[Any, Any]) -> triton.InferInput:
    tensor = triton.InferInput("features", list(features.shape), "FP32")
    tensor.set_data_from_numpy(features)
    return tensor


def _resident_after(server: Server, loads: tuple[Load, ...], step: int, times: int) -> tuple[Sample, ...]:
    samples = []
    for _ in range(times):
        _serve(server, loads, step)
        samples.append(Sample(server.process.resident_bytes() / MEGABYTE))
    return tuple(samples)


def _serve(server: Server, loads: tuple[Load, ...], requests: int) -> None:
    """Half of the requests by each load."""
    for load in loads:
        before = server.served()
        load.seconds(requests // len(loads))
        check_served(server, before, requests // len(loads))

"""KServe's own clients, for a test that calls them in a process of their own.

kserve and tritonclient each put their messages into protobuf's default pool, where the second to come finds the names
taken. So nothing here is imported beside tritonclient, and what goes in and out of these functions is plain data.
"""

from __future__ import annotations

import asyncio
import faulthandler
import os
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import grpc
import httpx
import numpy as np


@dataclass(frozen=True, slots=True)
class Outcome:
    """What an inference came to: an answer, or the `status` and text of an error."""

    id: str = ""
    model: str = ""
    version: str = ""
    outputs: Sequence[Any] = ()
    status: str = ""
    text: str = ""


@dataclass(frozen=True, slots=True)
class Question:
    """An inference; `inputs` by name, each sent as binary data or not."""

    model: str
    inputs: dict[str, Any]
    binary: bool = False
    parameters: dict[str, Any] | None = None

    def request(self) -> Any:
        import kserve
        from kserve.utils.numpy_codec import from_np_dtype

        inputs = []
        for name, values in self.inputs.items():
            tensor = kserve.InferInput(name, list(values.shape), from_np_dtype(values.dtype))
            tensor.set_data_from_numpy(values, binary_data=self.binary)
            inputs.append(tensor)
        return kserve.InferRequest(
            model_name=self.model, infer_inputs=inputs, request_id="7", parameters=self.parameters or {}
        )


def prepare(place: Path) -> None:
    """What the process does first. Should it crash, it says where."""
    os.chdir(place)
    faulthandler.enable()


@cache
def runner() -> asyncio.Runner:
    """One for all calls: grpc has one poller for a process, which would go from event loop to event loop."""
    return asyncio.Runner()


def over_rest(address: str, ask: Callable[[Any, str], Awaitable[Any]], protocol: str = "v2") -> Any:
    """What the REST client answers when it is asked about this server."""
    import kserve

    async def run() -> Any:
        client = kserve.InferenceRESTClient(kserve.RESTConfig(protocol=protocol, retries=0))
        try:
            return await ask(client, f"http://{address}")
        finally:
            await client.close()

    return runner().run(run())


def over_grpc(address: str, ask: Callable[[Any], Awaitable[Any]]) -> Any:
    import kserve

    async def run() -> Any:
        async with kserve.InferenceGRPCClient(address) as client:
            return await ask(client)

    return runner().run(run())


def readiness_over_rest(address: str, models: Sequence[str]) -> list[Any]:
    """Whether the server lives, is ready, and each model is."""
    return [
        over_rest(address, lambda client, url: client.is_server_live(url)),
        over_rest(address, lambda client, url: client.is_server_ready(url)),
        *(over_rest(address, lambda client, url, m=model: client.is_model_ready(url, m)) for model in models),
    ]


def readiness_over_grpc(address: str, models: Sequence[str]) -> list[Any]:
    """The same; for a model that is refused, the status."""
    answers = [over_grpc(address, lambda client: client.is_server_live())]
    answers.append(over_grpc(address, lambda client: client.is_server_ready()))
    for model in models:
        try:
            answers.append(over_grpc(address, lambda client, m=model: client.is_model_ready(m)))
        except grpc.RpcError as error:
            answers.append(error.code().name)
    return answers


def infer_over_rest(address: str, question: Question) -> Outcome:
    try:
        response = over_rest(
            address, lambda client, url: client.infer(url, question.request(), model_name=question.model)
        )
    except httpx.HTTPStatusError as error:
        return Outcome(status=str(error.response.status_code), text=str(error))
    return _answered(response)


def infer_over_grpc(address: str, question: Question) -> Outcome:
    try:
        return _answered(over_grpc(address, lambda client: client.infer(question.request())))
    except grpc.RpcError as error:
        return Outcome(status=error.code().name, text=error.details())


def _answered(response: Any) -> Outcome:
    outputs = [np.asarray(output.as_numpy()) for output in response.outputs]
    return Outcome(response.id, response.model_name, response.model_version, outputs)


def readiness_over_v1(address: str, models: Sequence[str]) -> list[Any]:
    """Whether the server lives, and each model is ready; for a model that is refused, the status."""
    answers = [over_rest(address, lambda client, url: client.is_server_live(url), "v1")]
    for model in models:
        try:
            answers.append(over_rest(address, lambda client, url, m=model: client.is_model_ready(url, m), "v1"))
        except httpx.HTTPStatusError as error:
            answers.append(error.response.status_code)
    return answers


def predict_over_v1(address: str, model: str, document: dict[str, Any], verb: str = "infer") -> Any:
    """The document of the answer, or the `Outcome` of an error."""
    try:
        return over_rest(address, lambda client, url: getattr(client, verb)(url, data=document, model_name=model), "v1")
    except httpx.HTTPStatusError as error:
        return Outcome(status=str(error.response.status_code), text=str(error))

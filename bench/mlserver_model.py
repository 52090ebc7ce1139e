"""The MLP in MLServer: a custom runtime on OpenVINO, so that both servers stand on the same one.

Runs in MLServer's own environment, so it imports nothing of the bench. The model is where `parameters.uri` says.
"""

from __future__ import annotations

import openvino
from mlserver import MLModel  # type: ignore[import-not-found]
from mlserver.codecs import NumpyCodec  # type: ignore[import-not-found]
from mlserver.types import InferenceRequest, InferenceResponse  # type: ignore[import-not-found]


class Mlp(MLModel):  # type: ignore[misc]
    async def load(self) -> bool:
        properties = {"PERFORMANCE_HINT": "THROUGHPUT", "INFERENCE_PRECISION_HINT": "f32"}
        compiled = openvino.Core().compile_model(self.settings.parameters.uri, "CPU", properties)
        self._request = compiled.create_infer_request()
        return True

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        features = NumpyCodec.decode_input(payload.inputs[0])
        scores = self._request.infer({"features": features}, share_inputs=True)["scores"]
        return InferenceResponse(model_name=self.name, outputs=[NumpyCodec.encode_output("scores", scores)])

"""The MLP in MLServer: a custom runtime that computes it with NumPy, which costs less than any inference runtime.

Runs in MLServer's own environment, so it imports nothing of the bench. The weights are where `parameters.uri` says.
"""

from __future__ import annotations

import numpy as np
from mlserver import MLModel  # type: ignore[import-not-found]
from mlserver.codecs import NumpyCodec  # type: ignore[import-not-found]
from mlserver.types import InferenceRequest, InferenceResponse  # type: ignore[import-not-found]


class Mlp(MLModel):  # type: ignore[misc]
    async def load(self) -> bool:
        self._weights = dict(np.load(self.settings.parameters.uri))
        return True

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        weights = self._weights
        features = NumpyCodec.decode_input(payload.inputs[0])
        hidden = np.maximum(features @ weights["hidden_weight"] + weights["hidden_bias"], 0)
        scores = hidden @ weights["score_weight"] + weights["score_bias"]
        return InferenceResponse(model_name=self.name, outputs=[NumpyCodec.encode_output("scores", scores)])

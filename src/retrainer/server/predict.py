"""Predictions: labels for texts, answered by the batcher unless the client goes away."""

from __future__ import annotations

from typing import ClassVar

from pydantic_core import to_json
from starlette.requests import Request
from starlette.responses import Response

from retrainer.serve.loading import Answers
from retrainer.server.asking import Asking, Underway, while_connected
from retrainer.server.batcher import Batcher
from retrainer.server.bodies import JSON, PredictBody
from retrainer.server.models import Models, ServedModel
from retrainer.server.settings import Limits


class Predict(Asking):
    """Answers predictions."""

    answers_with: ClassVar[Answers] = "label"

    def __init__(self, models: Models, limits: Limits, underway: Underway) -> None:
        super().__init__(models, limits, underway)
        self.body = self._body = PredictBody.within(limits)

    async def _respond(self, model: ServedModel, request: Request, body: bytearray) -> Response:
        client, batcher = model.ready_with(Batcher)
        texts, top_k = self._body.read(body, client.task)
        answer = await while_connected(request, batcher.ask(texts, top_k=top_k))
        document = {
            "model": model.name,
            "version": answer.version,
            "precision": answer.precision,
            "predictions": answer.predictions,
        }
        return Response(to_json(document), media_type=JSON)

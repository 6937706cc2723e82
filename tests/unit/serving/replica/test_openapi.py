"""The OpenAPI document and the answers of a real model have the same fields."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from raycls.data.packed import PackedDataset
from raycls.engines.predictor import Predictor
from raycls.serving.replica import openapi
from raycls.serving.settings import ServingConfig


def test_an_answer_has_the_fields_of_the_document(digits: PackedDataset, predictor: Predictor) -> None:
    (prediction,) = predictor.predictions(*predictor.outputs(np.array(digits.images("test")[:1])))
    document = openapi.document(predictor.card.classes, ServingConfig())
    schema = document["components"]["schemas"]["Prediction"]
    own = {"model_version"}  # the classifier adds it
    assert set(prediction.as_json()) | own == set(schema["required"])
    whole = set(prediction._replace(rejected=True).as_json(top_k=2, embedding=True)) | own
    assert whole == set(schema["properties"]) - {"explanation_png_base64", "seen_png_base64"}
    asked = {parameter["name"] for parameter in document["paths"]["/predict"]["post"]["parameters"]}
    assert asked == {"top_k", "explain", "embedding"}


def test_every_reference_leads_somewhere() -> None:
    found = openapi.document(("cat", "dog"), ServingConfig())

    def references(value: object) -> Iterator[str]:
        if isinstance(value, dict):
            if isinstance(value.get("$ref"), str):
                yield value["$ref"]
            for each in value.values():
                yield from references(each)
        elif isinstance(value, list):
            for each in value:
                yield from references(each)

    named = set(references(found))
    assert "#/components/schemas/Inference" in named
    for reference in named:
        place: Any = found
        for part in reference.removeprefix("#/").split("/"):
            place = place[part]

"""The Open Inference Protocol with a client that others wrote: Triton's, for Python over HTTP."""

from __future__ import annotations

from collections.abc import Iterator
from urllib.parse import urlsplit

import numpy as np
import pytest
import requests
import tritonclient.http as triton
from tritonclient.utils import InferenceServerException

from raycls.engines.predictor import Predictor
from raycls.serving.control.deploy import Served
from raycls.training.filing import TrainingResult
from tests.predict import base64_of, counted, encoded


@pytest.fixture
def client(served: Served) -> Iterator[triton.InferenceServerClient]:
    with triton.InferenceServerClient(urlsplit(served.url).netloc) as client:
        yield client


def _input(images: list[bytes]) -> list[triton.InferInput]:
    tensor = triton.InferInput("image", [len(images)], "BYTES")
    tensor.set_data_from_numpy(np.array(images, dtype=object))
    return [tensor]


def test_a_client_learns_what_there_is(client: triton.InferenceServerClient, trained: TrainingResult) -> None:
    version = trained.version
    assert client.is_server_live()
    assert client.is_server_ready()
    assert client.is_model_ready(version.name)
    assert client.is_model_ready(version.name, version.version)
    assert not client.is_model_ready("another")
    assert client.get_server_metadata()["name"] == "raycls"
    document = client.get_model_metadata(version.name)
    assert (document["name"], document["versions"]) == (version.name, [version.version])
    assert document["inputs"] == [{"name": "image", "datatype": "BYTES", "shape": [-1]}]


def test_its_answers_are_the_predictors(
    served: Served, client: triton.InferenceServerClient, trained: TrainingResult, predictor: Predictor
) -> None:
    images = [encoded(seed) for seed in range(5)]
    expected = predictor.predict(images)
    _, before = counted(served)
    answer = client.infer(trained.version.name, _input(images), request_id="mine")
    assert answer.get_response()["id"] == "mine"
    assert answer.get_response()["model_version"] == trained.version.version
    assert answer.as_numpy("class_index").tolist() == [each.class_index for each in expected]
    assert [name.decode() if isinstance(name, bytes) else name for name in answer.as_numpy("class_name")] == [
        each.class_name for each in expected
    ]
    assert answer.as_numpy("confidence") == pytest.approx([each.confidence for each in expected], abs=1e-3)
    assert counted(served)[1] == before + len(images)
    wanted = [triton.InferRequestedOutput("probabilities", binary_data=False)]
    found = client.infer(trained.version.name, _input(images), outputs=wanted).as_numpy("probabilities")
    assert found == pytest.approx(np.stack([each.probabilities for each in expected]), abs=1e-3)


def test_what_is_refused_is_told_in_the_clients_words(
    client: triton.InferenceServerClient, trained: TrainingResult
) -> None:
    name = trained.version.name
    for asked, images, version, words in (
        (name, [b"no image"], "", "image"),
        (name, [encoded(1), b"no image"], "", "image 1: "),
        (name, [encoded(1)] * 9, "", "at most 8"),
        ("another", [encoded(1)], "", f"this is {name}"),
        (name, [encoded(1)], "99", f"this is {name}"),
    ):
        with pytest.raises(InferenceServerException, match=words):
            client.infer(asked, _input(images), model_version=version)


def test_plain_json_takes_base64(served: Served, trained: TrainingResult, predictor: Predictor) -> None:
    data = encoded(3)
    (expected,) = predictor.predict([data])
    tensor = {"name": "image", "shape": [1], "datatype": "BYTES", "data": [base64_of(data)]}
    url = f"{served.url}/v2/models/{trained.version.name}/infer"
    answer = requests.post(url, json={"inputs": [tensor]}, timeout=30)
    outputs = {output["name"]: output["data"] for output in answer.json()["outputs"]}
    assert outputs["class_name"] == [expected.class_name]
    assert "X-Prediction-Id" in answer.headers
    refused = requests.post(url, json={"inputs": []}, timeout=30)
    assert (refused.status_code, refused.json()["error"]) == (400, refused.json()["detail"])
    assert requests.get(url, timeout=30).status_code == 405
    assert (
        requests.get(f"{served.url}/v2/models/{trained.version.name}/nothing", timeout=30).status_code == 404
    )

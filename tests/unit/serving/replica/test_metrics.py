"""What replicas count, and that one answer holds all of them."""

from __future__ import annotations

import numpy as np
import pytest
from prometheus_client.parser import text_string_to_metric_families

from raycls.engines.predictor import Prediction, predictions_of
from raycls.engines.rejection import Rejection
from raycls.lifecycle.guards import ArmCounts, GuardPolicy, tripped
from raycls.registry import ModelVersion
from raycls.serving.replica.metrics import Metrics, exposition

CLASSES = ("cat", "dog")


def counted(replica: str, tags: dict[str, str] | None = None) -> Metrics:
    version = ModelVersion(
        name="pets",
        version="3",
        aliases=(),
        run_id="",
        uri="",
        sha256="",
        fingerprint="",
        metrics={},
        tags=tags or {},
    )
    return Metrics(replica, version, CLASSES, "torch", "cpu")


def prediction(index: int, confidence: float) -> Prediction:
    return Prediction(
        class_index=index,
        class_name=CLASSES[index],
        confidence=confidence,
        probabilities=np.zeros(2),
        embedding=np.zeros(4),
        classes=CLASSES,
    )


def samples(*replicas: Metrics) -> dict[tuple[str, ...], float]:
    """Values by the sample's name, its replica, and the values of its other labels."""
    text = bytes(exposition([replica.collect() for replica in replicas]).body).decode()
    families = list(text_string_to_metric_families(text))
    assert len({family.name for family in families}) == len(families)
    return {
        (sample.name, sample.labels.pop("replica", ""), *sample.labels.values()): sample.value
        for family in families
        for sample in family.samples
    }


def test_every_replica_is_in_one_answer_with_series_of_its_own() -> None:
    a, b = counted("a"), counted("b")
    a.request(200, 0.004)
    a.request(200, 0.004)
    a.request(415, 0.001)
    b.request(200, 0.2)
    found = samples(a, b)
    assert found["raycls_requests_total", "a", "200"] == 2
    assert found["raycls_requests_total", "a", "415"] == 1
    assert found["raycls_requests_total", "b", "200"] == 1
    assert found["raycls_request_seconds_count", "a"] == 3
    assert found["raycls_request_seconds_sum", "b"] == pytest.approx(0.2)
    assert {key[1:] for key in found if key[0] == "raycls_model_info"} == {
        ("a", "cpu", "torch", "pets", "3"),
        ("b", "cpu", "torch", "pets", "3"),
    }


def test_a_batch_and_what_was_answered() -> None:
    a = counted("a")
    a.batch([0.001, 0.02, 0.02], decode_seconds=0.003, forward_seconds=0.03)
    a.batch([0.5], decode_seconds=0.001, forward_seconds=None)  # an image that could not be read
    a.answers([prediction(1, 0.97), prediction(1, 0.55), prediction(0, 1.0)])
    found = samples(a)
    assert found["raycls_batch_images_count", "a"] == 2
    assert found["raycls_batch_images_sum", "a"] == 4
    assert found["raycls_batch_images_bucket", "a", "2.0"] == 1
    assert found["raycls_batch_images_bucket", "a", "4.0"] == 2
    assert found["raycls_queue_seconds_bucket", "a", "0.001"] == 1  # a bound holds what equals it
    assert found["raycls_queue_seconds_bucket", "a", "0.025"] == 3
    assert found["raycls_queue_seconds_bucket", "a", "+Inf"] == 4
    assert found["raycls_decode_seconds_count", "a"] == 2
    assert found["raycls_forward_seconds_count", "a"] == 1
    assert found["raycls_predictions_total", "a", "dog"] == 2
    assert found["raycls_predictions_total", "a", "cat"] == 1
    assert found["raycls_confidence_bucket", "a", "0.6"] == 1
    assert found["raycls_confidence_count", "a"] == 3


def _after(size: int, waited: float, forward: float, answered: float) -> ArmCounts:
    """The counts of a replica that answered 100 batches of this size. forward: seconds of a batch."""
    replica = counted("a")
    for _ in range(100):
        replica.batch([waited] * size, decode_seconds=0.001, forward_seconds=forward)
        replica.request(200, answered)
    return ArmCounts.model_validate(replica.as_arm())


def test_a_busier_or_a_calmer_hour_is_no_slow_version() -> None:
    """A promotion just before a busy hour was taken back, as its requests waited longer than those before it."""
    calm, busy = _after(1, 0.0, 0.0015, 0.003), _after(64, 0.5, 0.02, 0.7)
    assert tripped(GuardPolicy(), calm, busy) is None  # they wait longer, and the network is as fast
    assert tripped(GuardPolicy(), busy, calm) is None  # an image takes the network longer, alone in its batch
    slow = _after(1, 0.0, 0.012, 0.014)
    assert "100 of 100 answers of the challenger took longer" in str(tripped(GuardPolicy(), calm, slow))
    assert "took longer" in str(
        tripped(GuardPolicy(), _after(1, 0.0, 2e-4, 0.001), _after(1, 0.0, 2e-3, 0.004))
    )


def test_counters_that_have_not_begun_are_there_with_nothing() -> None:
    found = samples(counted("a"))
    assert found["raycls_predictions_total", "a", "cat"] == 0
    assert found["raycls_queue_seconds_bucket", "a", "+Inf"] == 0


def test_only_predictions_have_a_duration() -> None:
    replica = counted("a")
    replica.request(200)
    replica.request(200, 0.004)
    found = samples(replica)
    assert found["raycls_requests_total", "a", "200"] == 2
    assert found["raycls_request_seconds_count", "a"] == 1


def test_a_confidence_that_is_no_number_is_in_no_sum() -> None:
    """The watch after a promotion keeps the sums as JSON: one NaN made its record unreadable."""
    metrics = counted("9x3k2a")
    nothing = np.zeros(0, np.float32)
    for confidence in (0.5, float("nan")):
        prediction = Prediction(
            class_index=0,
            class_name="cat",
            confidence=confidence,
            probabilities=nothing,
            embedding=nothing,
            classes=CLASSES,
        )
        metrics.answers([prediction])
    counts = ArmCounts.model_validate(metrics.as_arm())
    assert (counts.confidences, counts.confidence_sum) == (1, 0.5)
    assert ArmCounts.model_validate_json(counts.model_dump_json()) == counts


def test_rejected_answers_are_counted_where_there_is_a_threshold() -> None:
    rejection = Rejection(
        precision=0.9, threshold=0.8, engine="torch", dataset="pets", images=100, answered=80, right=75
    )
    a, b = counted("a", {"rejection": rejection.model_dump_json()}), counted("b")
    assert samples(a)["raycls_rejected_total", "a"] == 0, "a rate needs a zero"
    rows = np.array([[0.9, 0.1], [0.3, 0.7], [0.6, 0.4]], np.float32)
    a.answers(predictions_of(rows, rows, CLASSES, rejection.limits(CLASSES)))
    b.answers(predictions_of(rows, rows, CLASSES))
    found = samples(a, b)
    assert found["raycls_rejected_total", "a"] == 2
    assert ("raycls_rejected_total", "b") not in found
    assert found["raycls_predictions_total", "a", "cat"] == 2, "a rejected answer is an answer"

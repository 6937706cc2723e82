"""What a replica counts of an experiment, as series at GET /metrics. There are none while no experiment runs.

experiment_families("9x3k2a", live.counts)
"""

from __future__ import annotations

from itertools import accumulate

from prometheus_client.core import CounterMetricFamily, HistogramMetricFamily, Metric

from raycls.serving.replica.arm_counts import FAULTS, ExperimentCounts
from raycls.serving.replica.metrics import SECONDS

BOUNDS = [*(str(float(bound)) for bound in SECONDS), "+Inf"]
LABELS = ["replica", "experiment", "arm"]


def experiment_families(replica: str, counts: ExperimentCounts | None) -> list[Metric]:
    """Return the series of one replica. Their label `arm` is champion or challenger."""
    requests = CounterMetricFamily(
        "raycls_experiment_requests", "Requests that a version of the experiment answered", labels=LABELS
    )
    failures = CounterMetricFamily(
        "raycls_experiment_failures",
        "Requests that a version of the experiment did not answer, by kind",
        labels=[*LABELS, "kind"],
    )
    seconds = HistogramMetricFamily(
        "raycls_experiment_seconds", "How long a version of the experiment took for a request", labels=LABELS
    )
    predicted = CounterMetricFamily(
        "raycls_experiment_predictions", "Images that a version of the experiment classified", labels=LABELS
    )
    confidence = CounterMetricFamily(
        "raycls_experiment_confidence", "Sum of the confidences of these images", labels=LABELS
    )
    compared = CounterMetricFamily(
        "raycls_experiment_compared",
        "Images that both versions classified, by whether they agree",
        labels=["replica", "experiment", "agree"],
    )
    replaced = CounterMetricFamily(
        "raycls_experiment_replaced",
        "Requests of the challenger's share that the champion answered",
        labels=["replica", "experiment"],
    )
    if counts:
        of = [replica, counts.experiment]
        for name, arm in (("champion", counts.champion), ("challenger", counts.challenger)):
            requests.add_metric([*of, name], arm.requests)
            # Those of FAULTS also before the first one: a rate needs a zero.
            for kind in sorted({*FAULTS, *arm.failures}):
                failures.add_metric([*of, name, kind], arm.failures[kind])
            buckets = list(zip(BOUNDS, accumulate(arm.seconds), strict=True))
            seconds.add_metric([*of, name], buckets, arm.seconds_sum)
            predicted.add_metric([*of, name], sum(arm.predicted))
            confidence.add_metric([*of, name], arm.confidence_sum)
        compared.add_metric([*of, "yes"], counts.agreed)
        compared.add_metric([*of, "no"], counts.disagreed)
        replaced.add_metric(of, counts.replaced)
    return [requests, failures, seconds, predicted, confidence, compared, replaced]

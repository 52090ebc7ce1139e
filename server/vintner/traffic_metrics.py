"""The Prometheus series of canaries and shadows.

Knows only what routers counted. Labels are versions that are ready, and names of outputs that their models gave.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from typing import TYPE_CHECKING

from vintner.exposition import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    MetricFamily,
    SummaryMetricFamily,
)

if TYPE_CHECKING:
    from vintner.drift import OutputDrift
    from vintner.router import Router


def families(routers: Collection[Router]) -> Iterator[MetricFamily]:
    """All series of these models; the families are there without any, too."""
    yield from _canaries(routers)
    yield from _copies(routers)
    drifts = list(_drifts(routers))
    yield from _numbers(drifts)
    yield from _agreements(drifts)


def _canaries(routers: Iterable[Router]) -> Iterator[MetricFamily]:
    labels = ["model", "version"]
    requests = CounterMetricFamily(
        "vintner_traffic_requests", "Requests that named no version, by who answered them.", labels=[*labels, "role"]
    )
    percent = GaugeMetricFamily("vintner_canary_percent", "The canary's share; 0 once rolled back.", labels=labels)
    rollbacks = CounterMetricFamily("vintner_canary_rollbacks", "Canaries that passed a bound.", labels=labels)
    for router in routers:
        for version, role, count in router.requests:
            requests.add_metric([router.model, version, role], count)
        for version, count in router.rollbacks.items():
            rollbacks.add_metric([router.model, version], count)
        if router.percent is not None:
            percent.add_metric([router.model, router.percent[0]], router.percent[1])
    yield requests
    yield percent
    yield rollbacks


def _copies(routers: Iterable[Router]) -> Iterator[MetricFamily]:
    copies = CounterMetricFamily(
        "vintner_shadow_requests",
        "Copies of requests for a shadow, by outcome; those that are ok were compared with the answer of `version`.",
        labels=["model", "version", "shadow", "outcome"],
    )
    skipped = CounterMetricFamily(
        "vintner_shadow_skipped", "Requests that got no copy for the shadow, by why.",
        labels=["model", "shadow", "reason"],
    )  # fmt: skip
    for router in routers:
        shadow = router.shadow
        if shadow is None:
            continue
        for (version, outcome), count in shadow.outcomes.items():
            copies.add_metric([router.model, version, shadow.version, outcome], count)
        for reason, count in shadow.skipped.items():
            skipped.add_metric([router.model, shadow.version, reason], count)
    yield copies
    yield skipped


def _drifts(routers: Iterable[Router]) -> Iterator[tuple[list[str], OutputDrift]]:
    """Label values, and what they are of."""
    for router in routers:
        shadow = router.shadow
        for version, drift in shadow.drifts.items() if shadow is not None else ():
            for output, own in drift.outputs.copy().items():
                assert shadow is not None
                yield [router.model, version, shadow.version, output], own


LABELS = ["model", "version", "shadow", "output"]


def _numbers(drifts: Iterable[tuple[list[str], OutputDrift]]) -> Iterator[MetricFamily]:
    difference = SummaryMetricFamily(
        "vintner_shadow_absolute_difference",
        "Absolute differences of single elements of an output between two versions.",
        labels=LABELS,
    )
    largest = GaugeMetricFamily(
        "vintner_shadow_absolute_difference_max", "The largest of them since the shadow was loaded.", labels=LABELS
    )
    by_request = HistogramMetricFamily(
        "vintner_shadow_request_difference", "The largest absolute difference of each request.", labels=LABELS
    )
    for labels, own in drifts:
        difference.add_metric(labels, own.elements, own.total)
        largest.add_metric(labels, own.largest)
        by_request.add_metric(labels, own.by_request.cumulative(), own.by_request.total)
    yield difference
    yield largest
    yield by_request


def _agreements(drifts: Iterable[tuple[list[str], OutputDrift]]) -> Iterator[MetricFamily]:
    rows = CounterMetricFamily("vintner_shadow_rows", "Rows of scores that were compared.", labels=LABELS)
    agreed = CounterMetricFamily(
        "vintner_shadow_rows_agreed", "Those of them whose largest score is in the same place.", labels=LABELS
    )
    mismatches = CounterMetricFamily(
        "vintner_shadow_mismatches",
        "Outputs that could not be compared (missing, datatype, shape), and elements finite in one answer alone"
        " (not_finite).",
        labels=[*LABELS, "kind"],
    )
    for labels, own in drifts:
        if own.rows:
            rows.add_metric(labels, own.rows)
            agreed.add_metric(labels, own.agreed)
        for kind, count in own.mismatches.items():
            mismatches.add_metric([*labels, kind], count)
    yield rows
    yield agreed
    yield mismatches

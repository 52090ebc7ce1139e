"""What the dashboard shows: six rows of panels, each an answer to a question, and the queries in them.

Knows nothing of Grafana's JSON. Invariant: every query keeps to the namespace and job that were chosen, and to model
and version where it has them.
"""

from __future__ import annotations

from typing import Final

from dashboard_panels import Query, Row, heatmap, stat, table, time_series

SERVER: Final = 'namespace=~"$namespace",job=~"$job"'
MODEL: Final = f'{SERVER},model=~"$model",version=~"$version"'
EACH: Final = "{{model}} v{{version}}"


def server(name: str, extra: str = "") -> str:
    """A metric that has no model."""
    return f"{name}{{{SERVER}{extra}}}"


def model(name: str, extra: str = "") -> str:
    """A metric of a model's version, or what was recorded of it."""
    return f"{name}{{{MODEL}{extra}}}"


def rate(name: str, extra: str = "") -> str:
    return f"rate({model(name, extra)}[$__rate_interval])"


def by_version(expression: str, also: str = "") -> str:
    return f"sum by (model, version{also}) ({expression})"


def mean(histogram: str) -> str:
    """Of what a histogram counted; nothing where it counted nothing."""
    return f"{by_version(rate(f'{histogram}_sum'))} / ({by_version(rate(f'{histogram}_count'))} > 0)"


def quantile(share: float, histogram: str) -> str:
    return f"histogram_quantile({share}, {by_version(rate(f'{histogram}_bucket'), ', le')})"


def buckets(histogram: str) -> str:
    return f"sum by (le) (increase({model(f'{histogram}_bucket')}[$__rate_interval]))"


def is_it_up() -> Row:
    bad = ((None, "green"), (1, "red"))
    firing = server("ALERTS", ',alertname=~"Vintner.*",alertstate="firing"')
    ready = server("vintner_model_versions", ',state="READY"')
    return Row("Is it up?", [
        stat(
            "Servers", "Servers that Prometheus can scrape.", "none",
            Query(f"count({server('vintner_build_info')}) or vector(0)"), steps=((None, "red"), (1, "green")),
            runbook="VintnerDown",
        ),
        stat(
            "Not ready", "Servers that say that they are not ready, so that no balancer sends them requests.", "none",
            Query(f"count({server('vintner_ready')} == 0) or vector(0)"), steps=bad, runbook="VintnerNotReady",
        ),
        stat(
            "Models with a fault",
            "Model versions that could not be loaded or changed, or of which no instance works, on all servers.",
            "none", Query(f"sum({server('vintner_model_faults')})"), steps=bad, runbook="VintnerModelFailed",
        ),
        stat(
            "Alerts", "Alerts of Vintner that fire.", "none",
            Query(f"count({firing}) or vector(0)"), steps=bad,
        ),
        stat(
            "Requests per second", "Inference requests that were answered, whatever the answer, within 5 minutes.",
            "reqps", Query(f"sum({model('vintner:requests:rate5m')})"),
        ),
        stat(
            "Requests that fail",
            "Share of the requests of 5 minutes that failed by no fault of their clients.", "percentunit",
            Query(
                f"sum({model('vintner:request_errors:ratio5m')} * {model('vintner:requests:rate5m')})"
                f" / (sum({model('vintner:requests:rate5m')}) > 0)"
            ),
            steps=((None, "green"), (0.01, "orange"), (0.05, "red")), runbook="VintnerErrors",
        ),
        table(
            "Servers", "How old each is, what it serves, and whether one has more to do than the others.",
            [
                ("Age", "s", f"max by (instance, pod) ({server('vintner_uptime_seconds')})"),
                ("Ready", "bool_yes_no", f"max by (instance, pod) ({server('vintner_ready')})"),
                ("Versions", "none", f"sum by (instance, pod) ({ready})"),
                ("In flight", "none", f"sum by (instance, pod) ({server('vintner_requests_in_flight')})"),
                ("Longest wait", "s", f"max by (instance, pod) ({server('vintner_queue_oldest_seconds')})"),
                ("Faults", "none", f"sum by (instance, pod) ({server('vintner_model_faults')})"),
            ],
            width=12, runbook="VintnerRestarting",
        ),
        table(
            "Model versions with a fault",
            "What could not be loaded or changed, or has no instance that works. The index and the log say why.",
            [("On servers", "none", f"sum by (model, version) ({server('vintner_model_faulty')})")],
            width=12, runbook="VintnerReloadFailed",
        ),
    ])  # fmt: skip


def is_it_slow() -> Row:
    return Row("Is it slow?", [
        time_series(
            "Requests", "Requests that were answered, whatever the answer.", "reqps",
            [Query(by_version(model("vintner:requests:rate5m")), EACH)],
        ),
        time_series(
            "Latency",
            "What half, 95 % and 99 % of the requests stay below, from the decoded request to its answer; of several"
            " jobs, the slowest. Up to a minute: language models have a panel of their own.",
            "s",
            [
                Query(f"max by (model, version) ({model(f'vintner:request_seconds:p{share}_5m')})", f"p{share} {EACH}")
                for share in (50, 95, 99)
            ],
            runbook="VintnerSlow",
        ),
        heatmap(
            "Latency of all requests", "How many requests took how long, those of all chosen models together.", "s",
            buckets("vintner_request_duration_seconds"), runbook="VintnerSlow",
        ),
        time_series(
            "Failures", "Requests that were not answered well, by why: also by fault of clients.", "reqps",
            [Query(
                f"""sum by (model, outcome) ({rate('vintner_requests_total', ',outcome!="ok"')}) > 0""",
                "{{model}} {{outcome}}",
            )],
            width=12, stacked=True, runbook="VintnerErrors",
        ),
        time_series(
            "Requests that reached no model",
            "They could not be read, named no model that is loaded, or found the server full.", "reqps",
            [Query(
                f"sum by (outcome) (rate({server('vintner_rejected_requests_total')}[$__rate_interval]))",
                "{{outcome}}",
            )],
            width=12, stacked=True, runbook="VintnerServerFull",
        ),
    ])  # fmt: skip


def why() -> Row:
    parked = server("vintner_parked_requests", ',model=~"$model"')
    parts = {"queue": "vintner_queue_duration_seconds", "run": "vintner_compute_duration_seconds"}
    return Row("Why: queue, batch, compute", [
        time_series(
            "Where the time goes", "Mean time in the queue, and mean run of a batch.", "s",
            [Query(mean(name), f"{part} {EACH}") for part, name in parts.items()],
            runbook="VintnerQueueSlow",
        ),
        time_series(
            "Requests that wait", "For an instance, for the load of their model, or for other models' resources.",
            "none",
            [
                Query(by_version(model("vintner_queue_requests")), f"queue {EACH}"),
                Query(f"sum by (model) ({parked})", "load {{model}}"),
            ],
            runbook="VintnerQueueGrowing",
        ),
        time_series(
            "Time in the queue, 95 %", "What 95 % of the requests stay below.", "s",
            [Query(quantile(0.95, "vintner_queue_duration_seconds"), EACH)], runbook="VintnerQueueSlow",
        ),
        time_series(
            "Longest wait",
            "For how long the oldest request waits at present, on any server: a queue from which nothing is taken has"
            " no other figure.",
            "s", [Query(f"max by (model, version) ({model('vintner_queue_oldest_seconds')})", EACH)],
            runbook="VintnerQueueStuck",
        ),
        time_series("Rows of a batch", "On average.", "none", [Query(mean("vintner_batch_rows"), EACH)]),
        time_series(
            "Why batches held no more", "Batches per second, by what ended them.", "ops",
            [Query(f"sum by (reason) ({rate('vintner_batch_cuts_total')}) > 0", "{{reason}}")], stacked=True,
        ),
        time_series(
            "Run of a batch", "What half and 95 % of the batches stay below, assembly and splitting included.", "s",
            [
                Query(quantile(share, "vintner_compute_duration_seconds"), f"p{100 * share:.0f} {EACH}")
                for share in (0.5, 0.95)
            ],
        ),
        time_series(
            "Assembly and splitting", "Mean time that is spent on making a batch, and on taking its answers apart.",
            "s",
            [
                Query(mean(f"vintner_{part}_duration_seconds"), f"{part} {EACH}") for part in ("assembly", "split")
            ],
            width=12,
        ),
        time_series(
            "Answers from the response cache", "Share of the lookups that found an answer.", "percentunit",
            [Query(
                f"{by_version(rate('vintner_cache_hits_total'))} / ({by_version(rate('vintner_cache_hits_total'))}"
                f" + {by_version(rate('vintner_cache_misses_total'))} > 0)",
                EACH,
            )],
            width=12, most=1,
        ),
    ])  # fmt: skip


def which() -> Row:
    return Row("Which model and version?", [
        table(
            "Versions", "Those that are loaded, over all servers.",
            [
                ("Requests", "reqps", model("vintner:requests:rate5m")),
                ("Fail", "percentunit", model("vintner:request_errors:ratio5m")),
                ("p50", "s", model("vintner:request_seconds:p50_5m")),
                ("p99", "s", model("vintner:request_seconds:p99_5m")),
                ("In the queue", "s", model("vintner:queue_seconds:mean5m")),
                ("Busy", "percentunit", model("vintner:instances:busy_ratio")),
                ("Tokens", "short", model("vintner:generated_tokens:rate5m")),
            ],
            runbook="VintnerErrors",
        ),
        time_series(
            "Who answers requests without a version", "By default version and canary.", "reqps",
            [Query(by_version(rate("vintner_traffic_requests_total"), ", role"), f"{EACH} {{{{role}}}}")],
            stacked=True, runbook="VintnerCanaryRolledBack",
        ),
        time_series(
            "Loads", "Within 5 minutes, on all servers: that succeeded, that failed, and unloads.", "none",
            [
                Query(f"sum(increase({server(f'vintner_model_{name}_total')}[5m]))", name.replace("_", " "))
                for name in ("loads", "load_failures", "unloads")
            ],
            runbook="VintnerLoadsFailing",
        ),
        time_series(
            "Time of the last load", "Warm-up included; the slowest server's.", "s",
            [Query(f"max by (model, version) ({model('vintner_model_load_duration_seconds')})", EACH)],
        ),
    ])  # fmt: skip


def devices() -> Row:
    of_device = ", device"
    busy, instances = by_version(model("vintner_instances_busy"), of_device), model("vintner_instances")
    host = "vintner_uptime_seconds"
    return Row("How full are the devices?", [
        time_series(
            "Instances that are busy", "Share of the instances in service that run a batch.", "percentunit",
            [Query(f"{busy} / ({by_version(instances, of_device)} > 0)", f"{EACH} {{{{device}}}}")],
            most=1, runbook="VintnerQueueSlow",
        ),
        time_series(
            "Instances", "In service; out, for they failed or hang; waiting for resources that other models hold.",
            "none",
            [
                Query(f"sum by (model, device) ({instances})", "{{model}} {{device}}"),
                Query(f"sum by (model, device) ({model('vintner_instances_out')}) > 0", "{{model}} {{device}} out"),
                Query(f"sum by (model) ({model('vintner_instances_waiting')}) > 0", "{{model}} waiting"),
            ],
            runbook="VintnerInstancesFailing",
        ),
        time_series(
            "Memory that models count", "In the memory budget: their files, or memory_bytes.", "bytes",
            [Query(by_version(model("vintner_model_bytes")), EACH)], stacked=True, runbook="VintnerMemoryNearLimit",
        ),
        time_series(
            "Processors of the host", "Share of their time that is used, by whatever runs there.", "percentunit",
            [Query(f"{server('nv_cpu_utilization')} and {server(host)}", "{{instance}}")], width=12, most=1,
        ),
        time_series(
            "Memory of the host", "Share of it that is used, by whatever runs there.", "percentunit",
            [Query(
                f"{server('nv_cpu_memory_used_bytes')} / {server('nv_cpu_memory_total_bytes')} and {server(host)}",
                "{{instance}}",
            )],
            width=12, most=1, runbook="VintnerHostMemoryFull",
        ),
    ])  # fmt: skip


def language_models() -> Row:
    family = "vintner_generation"
    return Row("Language models", [
        time_series(
            "Time to the first token", "What half and 95 % of the requests stay below, from their arrival.", "s",
            [
                Query(quantile(0.5, f"{family}_time_to_first_token_seconds"), f"p50 {EACH}"),
                Query(quantile(0.95, f"{family}_time_to_first_token_seconds"), f"p95 {EACH}"),
            ],
            runbook="VintnerFirstTokenSlow",
        ),
        heatmap(
            "Time to the first token of all requests", "Those of all chosen models together.", "s",
            buckets(f"{family}_time_to_first_token_seconds"), runbook="VintnerFirstTokenSlow",
        ),
        time_series(
            "Time between tokens", "What half and 95 % of the steps stay below.", "s",
            [
                Query(quantile(0.5, f"{family}_time_between_tokens_seconds"), f"p50 {EACH}"),
                Query(quantile(0.95, f"{family}_time_between_tokens_seconds"), f"p95 {EACH}"),
            ],
        ),
        time_series(
            "Tokens per second", "In: of prompts that were read. Out: that were generated.", "short",
            [
                Query(by_version(model("vintner:prompt_tokens:rate5m")), f"in {EACH}"),
                Query(by_version(model("vintner:generated_tokens:rate5m")), f"out {EACH}"),
            ],
        ),
        time_series(
            "Key-value cache", "Share that sequences use. Only of models with kv_cache_size: others grow.",
            "percentunit",
            [Query(f"max by (model, version) ({model(f'{family}_cache_usage_ratio')})", EACH)],
            most=1, runbook="VintnerCacheFull",
        ),
        time_series(
            "Sequences", "Those in the engine, and those that wait for a place there.", "none",
            [
                Query(by_version(model(f"{family}_sequences_{state}")), f"{state} {EACH}")
                for state in ("running", "waiting")
            ],
            stacked=True, runbook="VintnerFirstTokenSlow",
        ),
        time_series(
            "Parts of a request", "Mean time in the queue, until the first token, and from there to the last.", "s",
            [
                Query(mean(f"{family}_{part}_duration_seconds"), f"{part} {EACH}")
                for part in ("queue", "prefill", "decode")
            ],
            runbook="VintnerFirstTokenSlow",
        ),
        time_series(
            "Time of a request", "What half and 95 % of the requests stay below, from their arrival to their end.", "s",
            [
                Query(quantile(share, f"{family}_request_duration_seconds"), f"p{100 * share:.0f} {EACH}")
                for share in (0.5, 0.95)
            ],
        ),
        time_series(
            "How requests ended", "stop; length, if cut short; abort, if the client went away; error.", "reqps",
            [Query(by_version(rate(f"{family}_requests_total"), ", reason") + " > 0", f"{EACH} {{{{reason}}}}")],
            stacked=True, runbook="VintnerErrors",
        ),
        time_series(
            "Sequences begun anew", "For want of room in the key-value cache, or because a step failed.", "ops",
            [Query(by_version(rate(f"{family}_restarts_total"), ", reason"), f"{EACH} {{{{reason}}}}")],
            runbook="VintnerSequencesRestarted",
        ),
    ])  # fmt: skip


ROWS: Final = (is_it_up, is_it_slow, why, which, devices, language_models)
"""From top to bottom."""

"""The dashboard's panels with their queries, in reading order. `dashboard` renders them as Grafana's JSON."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from deploy.grafana.promql import mean, now, quantile, rate, rise

Kind = Literal["lines", "stacked", "heatmap", "trend", "table", "stat"]


@dataclass(frozen=True)
class Query:
    """A PromQL expression, and the legend of its series."""

    expression: str
    legend: str


@dataclass(frozen=True)
class Panel:
    """One panel.

    Attributes:
        text: its description.
        unit: the unit's name in Grafana.
        kind: "trend" and "table" join their queries by N and M into columns, named by the legends; a trend's first
            column is its x axis.
        width: columns of 24.
    """

    title: str
    text: str
    unit: str
    queries: tuple[Query, ...]
    kind: Kind = "lines"
    width: int = 12


BUDGET = "candidates, steps"
BUDGET_LEGEND = "N {{candidates}}, M {{steps}}"
# Over the whole range shown. The comparison "> 0" leaves out budgets without requests in it.
_BY_BUDGET = (
    Query(
        f"{rate('sorl_granted_evaluations_total', BUDGET, '$__range')}"
        f" / {rate('sorl_request_by_budget_seconds_count', BUDGET, '$__range')} > 0",
        "evaluations",
    ),
    Query(f"{quantile(0.5, 'sorl_request_by_budget_seconds', BUDGET, '$__range')} > 0", "p50"),
    Query(f"{quantile(0.99, 'sorl_request_by_budget_seconds', BUDGET, '$__range')} > 0", "p99"),
)
_STAGES = ("queue", "compute", "serialise")

PANELS = (
    Panel(
        "Latency versus compute",
        "Latency over network evaluations per request: p50 and p99 of the range shown, a point for each (N, M). "
        "The slope is the cost of compute; the intercept is all other time.",
        "s",
        _BY_BUDGET,
        "trend",
    ),
    Panel(
        "Latency by budget", "The same points as numbers. N is rounded up to a power of two.", "s", _BY_BUDGET, "table"
    ),
    Panel(
        "p99 by budget",
        "From receipt to the encoded reply.",
        "s",
        (Query(quantile(0.99, "sorl_request_by_budget_seconds", BUDGET), BUDGET_LEGEND),),
    ),
    Panel(
        "Latency",
        "Answered requests per second by latency; the rows are control periods.",
        "s",
        (Query(rate("sorl_request_seconds_bucket", "le"), "{{le}}"),),
        "heatmap",
    ),
    Panel(
        "Where the time goes",
        "Means over answered requests. The rest is parsing and checking the request, and waking the event loop.",
        "s",
        (
            *(Query(mean(f"sorl_{stage}_seconds"), stage) for stage in _STAGES),
            Query(
                f"({rate('sorl_request_seconds_sum')}"
                + "".join(f" - {rate(f'sorl_{stage}_seconds_sum')}" for stage in _STAGES)
                + f") / {rate('sorl_request_seconds_count')}",
                "rest",
            ),
        ),
        "stacked",
    ),
    Panel(
        "Deadlines met, by control rate",
        "Share of requests with a deadline that were answered in time, by the slowest control rate whose period "
        "is at least the deadline.",
        "percentunit",
        (
            Query(
                f"{rate('sorl_deadlines_total', 'hz', outcome='met')} / {rate('sorl_deadlines_total', 'hz')}",
                "{{hz}} Hz",
            ),
        ),
    ),
    Panel(
        "Requested and granted compute",
        "Network evaluations per second of answered requests. The difference was degraded.",
        "short",
        (
            Query(rate("sorl_requested_evaluations_total"), "requested"),
            Query(rate("sorl_granted_evaluations_total"), "granted"),
        ),
    ),
    Panel(
        "Degraded",
        "Answered requests per second that were granted less than requested.",
        "reqps",
        (Query(rate("sorl_degraded_total", "reason"), "{{reason}}"),),
    ),
    Panel(
        "Goodput and shedding",
        "Requests per second: answered; refused or given up because there was no time or the server was not ready; "
        "abandoned by their clients; and all with status 4xx or 5xx.",
        "reqps",
        (
            Query(rate("sorl_requests_total", outcome="ok"), "answered"),
            Query(rate("sorl_shed_total", "reason"), "shed: {{reason}}"),
            Query(rate("sorl_cancelled_total", "reason"), "client gone: {{reason}}"),
            Query(rate("sorl_requests_total", "code"), "status {{code}}"),
        ),
    ),
    Panel(
        "Queue",
        "Requests that wait in the queue, and requests in flight.",
        "short",
        (Query(now("sorl_queue_requests"), "waiting"), Query(now("sorl_requests_in_flight"), "in flight")),
    ),
    Panel(
        "Backlog and lag",
        "Predicted compute time in the queue; the 99th percentiles of schedule delay (how much later than predicted a "
        "request is computed) and of event-loop lag.",
        "s",
        (
            Query(now("sorl_queue_backlog_seconds"), "backlog"),
            Query(now("sorl_queue_slip_seconds"), "schedule delay"),
            Query(now("sorl_loop_lag_seconds"), "loop lag"),
        ),
    ),
    Panel(
        "Batch size",
        "Means per batch. Rows are observations x candidates.",
        "short",
        (Query(mean("sorl_batch_requests"), "requests"), Query(mean("sorl_batch_rows"), "rows")),
    ),
    Panel(
        "Q gain of best of N",
        "Value of the chosen candidate minus value of the first, by the ensemble: the benefit of N.",
        "short",
        (Query(mean("sorl_q_gain", "candidates"), "N {{candidates}}"),),
    ),
    Panel(
        "Q gain per evaluation",
        "The same divided by the network evaluations spent: the benefit of compute, and where it ends. "
        "A request of several observations counts with its mean gain and all its evaluations.",
        "short",
        (
            Query(
                f"{rate('sorl_q_gain_sum', 'candidates')} / {rate('sorl_granted_evaluations_total', 'candidates')}",
                "N {{candidates}}",
            ),
        ),
    ),
    Panel(
        "Q of chosen actions",
        "Median Q, and median standard deviation over the ensemble. On observations unlike its training data a policy "
        "has a low Q and a large standard deviation.",
        "short",
        (Query(quantile(0.5, "sorl_q"), "Q"), Query(quantile(0.5, "sorl_q_std"), "standard deviation")),
    ),
    Panel(
        "Share of peak FLOP/s",
        "While computing, and over all time. The peak is the dashboard variable of that name, in FLOP/s; "
        "`sorl-bench engine` measures it.",
        "percentunit",
        (
            Query(f"{rate('sorl_network_flops_total')} / {rate('sorl_batch_seconds_sum')} / $peak", "while computing"),
            Query(f"{rate('sorl_network_flops_total')} / count({now('sorl_ready')}) / $peak", "over all time"),
        ),
    ),
    Panel(
        "FLOP/s by network",
        "Floating-point operations of matrix products, counted as the fewest that are needed.",
        "FLOPS",
        (Query(rate("sorl_network_flops_total", "network"), "{{network}}"),),
        "stacked",
    ),
    Panel(
        "Cost model",
        "Relative error of predicted batch times (mean of |measured / predicted - 1|), and batch time relative to "
        "warm-up.",
        "short",
        (
            Query(now("sorl_cost_relative_error"), "error, {{model}}"),
            Query(now("sorl_cost_factor"), "factor, {{model}}"),
        ),
    ),
    Panel(
        "Reloads",
        "Reloads per interval, by outcome.",
        "short",
        (Query(rise("sorl_reloads_total", "model, outcome"), "{{model}}: {{outcome}}"),),
    ),
    Panel(
        "Faults",
        "Each should be 0: requests with NaN or infinity from the policy, batches that raised, worker threads that "
        "died, and records that were dropped.",
        "short",
        tuple(
            Query(rise(metric), legend)
            for metric, legend in (
                ("sorl_nonfinite_outputs_total", "non-finite"),
                ("sorl_batch_retries_total", "batches retried"),
                ("sorl_worker_restarts_total", "workers replaced"),
                ("sorl_recorder_dropped_total", "recordings dropped"),
            )
        ),
    ),
    Panel("Ready", "1 if /readyz succeeds.", "short", (Query(now("sorl_ready"), "{{instance}}"),), "stat", 6),
    Panel(
        "CPU",
        "Cores used.",
        "short",
        (Query(rate("process_cpu_seconds_total", "instance"), "{{instance}}"),),
        width=6,
    ),
    Panel(
        "Memory", "Resident memory.", "bytes", (Query(now("process_resident_memory_bytes"), "{{instance}}"),), width=6
    ),
    Panel(
        "Versions",
        "The served models, and the software's versions.",
        "short",
        (
            Query(now("sorl_model_info"), "{{name}} {{version}}"),
            Query(now("sorl_build_info"), "sorl-serve {{version}}, torch {{torch}}"),
        ),
        "stat",
        6,
    ),
)

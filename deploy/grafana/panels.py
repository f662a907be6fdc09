"""What the dashboard shows: every panel with its queries, in reading order. `dashboard` makes Grafana's JSON of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from deploy.grafana.promql import mean, now, quantile, rate, rise

Kind = Literal["lines", "stacked", "heatmap", "trend", "table", "stat"]


@dataclass(frozen=True)
class Query:
    """PromQL, and what its series are called."""

    expression: str
    legend: str


@dataclass(frozen=True)
class Panel:
    """One panel.

    Attributes:
        text: what to see in it.
        unit: Grafana's name of one.
        kind: "trend" and "table" join their queries by N and M, into columns called by the legends; a trend's first is
            its x.
        width: of 24.
    """

    title: str
    text: str
    unit: str
    queries: tuple[Query, ...]
    kind: Kind = "lines"
    width: int = 12


BUDGET = "candidates, steps"
BUDGET_LEGEND = "N {{candidates}}, M {{steps}}"
# Over the whole range that is looked at; a comparison leaves out budgets that nobody asked for in it.
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
        "What a request's network evaluations cost in time: p50 and p99 of the range shown, a point for each (N, M). "
        "A straight line is compute; what it has at 0 is everything else.",
        "s",
        _BY_BUDGET,
        "trend",
    ),
    Panel(
        "Latency by budget", "The same points in figures. N is rounded up to a power of two.", "s", _BY_BUDGET, "table"
    ),
    Panel(
        "p99 by budget",
        "Receipt to encoded reply.",
        "s",
        (Query(quantile(0.99, "sorl_request_by_budget_seconds", BUDGET), BUDGET_LEGEND),),
    ),
    Panel(
        "Latency",
        "Answered requests a second; the rows are control periods.",
        "s",
        (Query(rate("sorl_request_seconds_bucket", "le"), "{{le}}"),),
        "heatmap",
    ),
    Panel(
        "Where the time goes",
        "Means of answered requests. The rest is reading and checking the request, and waking the event loop.",
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
        "Share of requests with a deadline that were answered in time; a deadline counts for the slowest rate whose "
        "period holds it.",
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
        "Network evaluations a second of answered requests. Between the two is what was degraded.",
        "short",
        (
            Query(rate("sorl_requested_evaluations_total"), "requested"),
            Query(rate("sorl_granted_evaluations_total"), "granted"),
        ),
    ),
    Panel(
        "Degraded",
        "Answered requests a second that were granted less than asked.",
        "reqps",
        (Query(rate("sorl_degraded_total", "reason"), "{{reason}}"),),
    ),
    Panel(
        "Goodput and shedding",
        "Requests a second: answered, refused or given up for want of time or readiness, dropped by their clients, "
        "ended as 4xx or 5xx in all.",
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
        "Requests waiting, and being answered.",
        "short",
        (Query(now("sorl_queue_requests"), "waiting"), Query(now("sorl_requests_in_flight"), "in flight")),
    ),
    Panel(
        "Backlog and lag",
        "Predicted compute waiting; how much later than predicted one request in a hundred is computed, and how long "
        "it waits for the event loop.",
        "s",
        (
            Query(now("sorl_queue_backlog_seconds"), "backlog"),
            Query(now("sorl_queue_slip_seconds"), "slip"),
            Query(now("sorl_loop_lag_seconds"), "loop lag"),
        ),
    ),
    Panel(
        "Batch size",
        "Means. Rows are observations x candidates.",
        "short",
        (Query(mean("sorl_batch_requests"), "requests"), Query(mean("sorl_batch_rows"), "rows")),
    ),
    Panel(
        "Q gain of best of N",
        "How much better the chosen candidate is than the first, by the ensemble: what N buys.",
        "short",
        (Query(mean("sorl_q_gain", "candidates"), "N {{candidates}}"),),
    ),
    Panel(
        "Q gain an evaluation",
        "The same, divided by the network evaluations that were spent on it: what compute buys, and where it stops. "
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
        "Median, and the median spread of the ensemble: a policy that meets what it does not know has a low one and a "
        "wide other.",
        "short",
        (Query(quantile(0.5, "sorl_q"), "Q"), Query(quantile(0.5, "sorl_q_std"), "spread")),
    ),
    Panel(
        "Share of peak FLOP/s",
        "While computing, and of all time. The peak is the variable of that name, in FLOP/s; `sorl-bench engine` "
        "measures it.",
        "percentunit",
        (
            Query(f"{rate('sorl_network_flops_total')} / {rate('sorl_batch_seconds_sum')} / $peak", "while computing"),
            Query(f"{rate('sorl_network_flops_total')} / count({now('sorl_ready')}) / $peak", "of all time"),
        ),
    ),
    Panel(
        "FLOP/s by network",
        "Of matrix products, as needed at the least.",
        "FLOPS",
        (Query(rate("sorl_network_flops_total", "network"), "{{network}}"),),
        "stacked",
    ),
    Panel(
        "Cost model",
        "How far predictions of batches are off (mean of |measured / predicted - 1|), and how much slower batches are "
        "than at warm-up.",
        "short",
        (
            Query(now("sorl_cost_relative_error"), "error, {{model}}"),
            Query(now("sorl_cost_factor"), "factor, {{model}}"),
        ),
    ),
    Panel(
        "Reloads",
        "In the range of a point, by outcome.",
        "short",
        (Query(rise("sorl_reloads_total", "model, outcome"), "{{model}}: {{outcome}}"),),
    ),
    Panel(
        "Faults",
        "Each should be 0: NaN or infinity from the policy, batches that raised, worker threads that died.",
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
    Panel("Ready", "1: /readyz says so.", "short", (Query(now("sorl_ready"), "{{instance}}"),), "stat", 6),
    Panel(
        "Processor",
        "Cores used.",
        "short",
        (Query(rate("process_cpu_seconds_total", "instance"), "{{instance}}"),),
        width=6,
    ),
    Panel("Memory", "Resident.", "bytes", (Query(now("process_resident_memory_bytes"), "{{instance}}"),), width=6),
    Panel(
        "Versions",
        "What is served, by what.",
        "short",
        (
            Query(now("sorl_model_info"), "{{name}} {{version}}"),
            Query(now("sorl_build_info"), "sorl-serve {{version}}, torch {{torch}}"),
        ),
        "stat",
        6,
    ),
)

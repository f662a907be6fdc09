"""Evaluation: success of a policy in simulation, over a grid of compute budgets (N, M).

`evaluate_policy` runs the grid that an `EvaluateConfig` describes; `evaluate` is `sorl-evaluate`. `run_jobs` spreads
episodes over worker processes, and `EpisodeRunner` is what each process does. `policy_facts` and `discount_of` read
from a policy what its figures must say.
"""

from training.evaluation.facts import discount_of, policy_facts
from training.evaluation.grid import EvaluateConfig, evaluate_policy
from training.evaluation.rollout import EpisodeRunner
from training.evaluation.workers import run_jobs

__all__ = ["EpisodeRunner", "EvaluateConfig", "discount_of", "evaluate_policy", "policy_facts", "run_jobs"]

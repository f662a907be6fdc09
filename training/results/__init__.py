"""The paper's claims, tested (`sorl-results`): experiments, what they measured, and the pages made from it.

`protocol` fixes budgets, seeds and claims before anything runs. `experiments` runs what is missing, with `latency` and
`shortcut`, and keeps it in a `Record` per policy (`record`). `plan` says what a page shows; `measurements` are the
records that it needs. `tables`, `plots` (`budget_plots`, `verifier_plots`) and `page` (`*_section`, `captions`) render
them. `runs` finds the policies of a run folder; `cli` is the command.
"""

from training.results.errors import ResultsError
from training.results.plan import Plan
from training.results.protocol import Cell, Seeds
from training.results.record import Record, best_cell, record_folder

__all__ = ["Cell", "Plan", "Record", "ResultsError", "Seeds", "best_cell", "record_folder"]

"""Who waits and what runs next: the queue, the batches, the worker thread, and the deadlines' rule.

It knows neither torch nor HTTP. It is handed engines (see `Engine`) and a clock.
"""

from service.scheduling.deadlines import Deadlines
from service.scheduling.job import Engine, Job, ReduceBudget
from service.scheduling.scheduler import Scheduler
from service.scheduling.watchdog import Watchdog

__all__ = ["Deadlines", "Engine", "Job", "ReduceBudget", "Scheduler", "Watchdog"]

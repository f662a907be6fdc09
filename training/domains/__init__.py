"""Scores beside the papers' (`sorl-domain`): the mean over the five tasks of a domain, one policy or more for each.

`contestants` groups policies by task and refuses what is not one recipe. `measuring` chooses one (N, M) for the domain
on selection seeds and evaluates it on report seeds. `scores` has rates, their mean and its interval. `published` lists
the papers' figures; `page` makes the tables. `cli` is the command.
"""

from training.domains.scores import DomainError, Score

__all__ = ["DomainError", "Score"]

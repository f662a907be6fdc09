"""`windows`: transitions as windows of h consecutive actions, what a policy that proposes chunks learns from.

Q-chunking (Li, Zhou and Levine, arXiv 2507.07969) backs up over h steps along the very actions that the data executed,
so the sum of rewards needs no correction. Its code draws windows anywhere and multiplies the TD error of one that
crosses an episode's end by 0. Here such windows are not drawn, which means the same to the critic. Two things differ:

- That code trains its flow on the first actions of a window that is cut off. Here the last h - 1 states of an episode
  start no window.
- That code adds up rewards past a mask of 0. Here nothing counts after it.
"""

from __future__ import annotations

import numpy as np

from training.data.formats.raw_dataset import Columns, DatasetError


def windows(where: str, columns: Columns, action_horizon: int, discount: float) -> Columns:
    """The windows of T transitions, one for each that has h - 1 others after it in its episode, in the same order.

    With h = `action_horizon` and gamma = `discount`, of the window that starts at t:

        actions            a_t, ..., a_(t+h-1) one after the other, (T', h * action_dim)
        rewards            r_t + gamma m_t r_(t+1) + ... + gamma^(h-1) m_t ... m_(t+h-2) r_(t+h-1)
        masks              m_t ... m_(t+h-1)
        next observation   the one after t + h - 1
        ends               whether t + h - 1 ends its episode

    Sums are in float64. With h = 1 the values are those of `columns`.

    Args:
        where: what the transitions belong to; begins an error's message.
        columns: the transitions, an episode's in the order of time.

    Raises:
        DatasetError: no episode has h transitions.
    """
    rows = len(columns.rewards)
    last = np.flatnonzero(columns.ends | (np.arange(rows) == rows - 1))
    end_of = last[np.searchsorted(last, np.arange(rows))]  # the last row of each row's episode
    starts = np.flatnonzero(end_of - np.arange(rows) >= action_horizon - 1)
    if not len(starts):
        longest = int(np.diff(last, prepend=-1).max())
        raise DatasetError(
            f"{where}: no episode has the {action_horizon} transitions of --action-horizon; the longest has {longest}"
        )
    rewards, masks = (column[starts].astype(np.float64) for column in (columns.rewards, columns.masks))
    for step in range(1, action_horizon):
        rewards += discount**step * masks * columns.rewards[starts + step]
        masks *= columns.masks[starts + step]
    chunks = [columns.actions[starts + step] for step in range(action_horizon)]
    final = starts + action_horizon - 1
    return Columns(
        observations=columns.observations[starts],
        actions=np.concatenate(chunks, axis=1),
        rewards=rewards,
        masks=masks,
        next_observations=columns.next_observations[final],
        ends=columns.ends[final],
    )

"""`with_prefixes`: batches for policies that take a chunk's first actions as an input."""

from __future__ import annotations

import torch

from policy import PolicySpec, with_prefix
from training.batch import Batch


def with_prefixes(batch: Batch, spec: PolicySpec, generator: torch.Generator) -> Batch:
    """`batch` with the networks' inputs in place of observations, (B, input_dim).

    The first d actions of a row's own chunk are its prefix: d is 0 for half of the rows, so that a policy asked without
    one is trained as often, and uniform on 1 to `prefix_max` for the others. Next observations get none: the value of a
    state is that of a robot that is committed to nothing.
    """
    rows, device = len(batch.actions), batch.actions.device
    most = spec.prefix_max
    length = torch.randint(1 - most, most + 1, (rows,), generator=generator, device=device).clamp(min=0)
    actions = batch.actions.view(rows, spec.action_horizon, spec.action_dim)
    return batch._replace(
        observations=with_prefix(spec, batch.observations, actions, length),
        next_observations=with_prefix(spec, batch.next_observations, actions, torch.zeros_like(length)),
    )

"""Properties of the losses. Their values and gradients are compared with the released code's in test_parity.py."""

from __future__ import annotations

import torch

from training import losses
from training.release.parity import LOSS, relative_error
from training.release.parity_file import ParityFile


def test_two_velocity_losses_in_one_pass_equal_two_passes(release: ParityFile) -> None:
    actor, batch = release.actor(), release.batch()
    share = actor.observation_share(batch.observations)
    rows = losses.flow_matching_rows(batch.actions, release["fm/noise"], release.column("fm/t"), 8, 1e-5)
    other = rows._replace(log2_steps=torch.zeros_like(rows.log2_steps))
    together = losses.velocity_loss(actor, share, rows, other)
    apart = [losses.velocity_loss(actor, share, part)[0] for part in (rows, other)]
    for found, expected in zip(together, apart, strict=True):
        assert relative_error(found, expected) < LOSS

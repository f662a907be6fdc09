"""Losses and gradients against the released code's own figures (the parity fixture)."""

from __future__ import annotations

import pytest
import torch

from tests.fixture import Fixture, relative_error, worst_gradient_error
from training import losses

LOSS, GRADIENT = 1e-5, 1e-4
STEPS = [1, 2, 4, 8]


def test_flow_matching(release: Fixture) -> None:
    actor, batch = release.actor(), release.batch()
    rows = losses.flow_matching_rows(batch.actions, release["fm/noise"], release["fm/t"][:, None], 8)
    (loss,) = losses.velocity_loss(actor, actor.observation_share(batch.observations), rows)
    loss.backward()
    assert relative_error(loss, release["fm/loss"][0]) < LOSS
    assert worst_gradient_error(actor, release.actor_tree("fm/grad/modules_actor")) < GRADIENT


def test_self_consistency(release: Fixture) -> None:
    actor, target, batch = release.actor(), release.actor("params/modules_target_actor"), release.batch()
    levels = losses.consistency_levels(len(batch.actions), 8, torch.device("cpu"))
    assert torch.equal(levels[:, 0], release["sc/log2_steps"])
    target_share = target.observation_share(batch.observations)
    rows = losses.self_consistency_rows(
        target, target_share, batch.actions, release["sc/noise"], release["sc/t"][:, None], levels
    )
    (loss,) = losses.velocity_loss(actor, actor.observation_share(batch.observations), rows)
    loss.backward()
    assert relative_error(loss, release["sc/loss"][0]) < LOSS
    assert worst_gradient_error(actor, release.actor_tree("sc/grad/modules_actor")) < GRADIENT


@pytest.mark.parametrize("k", STEPS)
def test_q_loss(release: Fixture, k: int) -> None:
    actor, critic, batch = release.actor(), release.critic().requires_grad_(False), release.batch()
    share = actor.observation_share(batch.observations)
    noise = release[f"q/k{k}/noise"]
    assert relative_error(losses.sample(actor, share, noise, k, 8), release[f"q/k{k}/actions"]) < LOSS
    loss, info = losses.q_loss(actor, critic, batch.observations, share, noise, k, 8)
    loss.backward()
    assert relative_error(loss, release[f"q/k{k}/loss"][0]) < LOSS
    assert relative_error(info["q_mean"], release[f"q/k{k}/q"].mean()) < LOSS
    assert worst_gradient_error(actor, release.actor_tree(f"q/k{k}/grad/modules_actor")) < GRADIENT


@pytest.mark.parametrize("k", STEPS)
def test_critic_loss(release: Fixture, k: int) -> None:
    critic, target, batch = release.critic(), release.critic("params/modules_target_critic"), release.batch()
    actor = release.actor().requires_grad_(False)
    share = actor.observation_share(batch.next_observations)
    next_action = losses.sample(actor, share, release[f"critic/k{k}/noise"], k, 8)
    settings = release.settings
    loss, _ = losses.critic_loss(
        critic, target.requires_grad_(False), batch, next_action, k, settings["discount"], settings["q_agg"]
    )
    loss.backward()
    assert relative_error(loss, release[f"critic/k{k}/loss"][0]) < LOSS
    expected = release.critic_tree(f"critic/k{k}/grad/modules_critic")
    assert worst_gradient_error(critic, expected) < GRADIENT


def test_a_planted_error_is_seen(release: Fixture) -> None:
    """The tolerance is tight enough to tell the released interpolation from one without its epsilon."""
    actor, batch = release.actor(), release.batch()
    t = release["fm/t"][:, None]
    rows = losses.flow_matching_rows(batch.actions, release["fm/noise"], t, 8)
    wrong = rows._replace(target=batch.actions - 1.0001 * release["fm/noise"])
    share = actor.observation_share(batch.observations)
    (loss,) = losses.velocity_loss(actor, share, wrong)
    assert relative_error(loss, release["fm/loss"][0]) > LOSS


def test_both_velocity_losses_in_one_pass_equal_two_passes(release: Fixture) -> None:
    actor, batch = release.actor(), release.batch()
    share = actor.observation_share(batch.observations)
    rows = losses.flow_matching_rows(batch.actions, release["fm/noise"], release["fm/t"][:, None], 8)
    other = rows._replace(log2_steps=torch.zeros_like(rows.log2_steps))
    together = losses.velocity_loss(actor, share, rows, other)
    apart = [losses.velocity_loss(actor, share, part)[0] for part in (rows, other)]
    for found, expected in zip(together, apart, strict=True):
        assert relative_error(found, expected) < LOSS

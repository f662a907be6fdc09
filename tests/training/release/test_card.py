"""Model cards state what the policy file says and nothing else; shipped cards are up to date."""

from __future__ import annotations

from pathlib import Path

import pytest

from policy import Budget, Measurement, Provenance, load_policy
from tests.policies import random_policy
from training.config import TrainConfig
from training.release.card import model_card, summary

SHIPPED = sorted((Path(__file__).parents[3] / "deploy" / "policies").glob("*.safetensors"))


def provenance(config: TrainConfig) -> Provenance:
    return Provenance(
        environment=config.task, dataset_sha256="ab12", updates=70_000, seed=3, config=config.resolved().provenance()
    )


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_a_shipped_card_is_up_to_date(path: Path) -> None:
    card = path.with_suffix(".md").read_text()
    policy = load_policy(path)
    assert card == model_card(policy, path.name), f"run: sorl-export {path} --out {path}"
    assert policy.version in card
    assert policy.spec.headline is not None
    assert f"**{100 * policy.spec.headline.success:.1f} %" in card


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_no_cell_measured_better_than_a_shipped_default(path: Path) -> None:
    spec = load_policy(path).spec
    rates = {Budget(cell.num_candidates, cell.num_steps): cell.success for cell in spec.frontier}
    assert rates[spec.default_budget] == max(rates.values())


def test_success_is_the_headline_and_the_best_cell_is_bold() -> None:
    policy = random_policy(
        default_budget=Budget(8, 4),
        frontier=(Measurement(1, 2, 0.5, 0.366, 0.634, 50), Measurement(8, 4, 0.96, 0.865, 0.989, 50)),
        headline=Measurement(8, 4, 0.86, 0.805, 0.901, 200),
    )
    card = model_card(policy, "mine.safetensors")
    assert "**86.0 % [80.5, 90.1] over 200 episodes at N = 8, M = 4**" in card
    assert "| 2 | 50 [37, 63] | not run |" in card
    assert "| 4 | not run | **96** [86, 99] |" in card
    assert "sorl-serve --model mine.safetensors" in card
    assert "success: 86.0 % [80.5, 90.1]" in summary(policy)


def test_an_unmeasured_policy_says_so() -> None:
    card = model_card(random_policy(), "mine.safetensors")
    assert "Not measured" in card
    assert "over" not in card.partition("## Success")[2].partition("## Training")[0]
    assert "success" not in summary(random_policy())


def test_only_settings_that_differ_from_the_defaults_are_listed() -> None:
    config = TrainConfig(
        task="scene-play-singletask-task2-v0", hidden=(256, 256), q_loss_coef=10.0, anneal_updates=40_000
    )
    table = model_card(random_policy(provenance=provenance(config)), "mine.safetensors").partition("## Training")[2]
    assert "70,000 updates on data of sha256 `ab12`, seed 3." in table
    assert "| `hidden` | 2 x 256 | 4 x 512 |" in table
    assert "| `q_loss_coef` | 10.0 | 100.0 |" in table
    assert "| `anneal_updates` | 40,000 | 0 |" in table
    assert table.count("| `") == 3


def test_default_settings_have_no_table() -> None:
    config = TrainConfig(task="scene-play-singletask-task2-v0")
    assert "| setting |" not in model_card(random_policy(provenance=provenance(config)), "mine.safetensors")


def test_bounds_that_differ_by_dimension_are_all_listed() -> None:
    policy = random_policy(action_dim=2, action_low=(-1.0, 0.0), action_high=(1.0, 0.5))
    assert "2 in [-1, 1] x [0, 0.5], at 20 Hz" in model_card(policy, "mine.safetensors")

"""The rules best, upper-quartile, random and worst: which candidate each executes."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from kernels.backend import SampleBatch
from kernels.philox import standard_normals
from kernels.reference import ReferenceBackend
from tests.policies import random_policy
from training.episodes import Selection
from training.evaluation.selection import choose, random_index, upper_quartile_index

ROWS = 24


def batch(seed: int = 0) -> SampleBatch:
    observation = np.random.default_rng(seed).standard_normal((ROWS, 11)).astype(np.float32)
    return SampleBatch.of(observation, [1, 2, 7, 16] * (ROWS // 4), [1, 4, 8] * (ROWS // 3), range(ROWS), 1.0, 0, True)


def chosen(rule: Selection) -> tuple[np.ndarray, np.ndarray]:
    backend = ReferenceBackend(random_policy())
    return choose(batch(), backend.sample_and_score(batch()), [rule] * ROWS)


def test_best_is_the_backends_choice() -> None:
    result = ReferenceBackend(random_policy()).sample_and_score(batch())
    action, q = chosen("best")
    np.testing.assert_array_equal(action, result.action)
    np.testing.assert_array_equal(q, result.q)


def test_worst_has_the_lowest_q_and_never_more_than_best() -> None:
    result = ReferenceBackend(random_policy()).sample_and_score(batch())
    assert result.candidate_q is not None
    _, worst = chosen("worst")
    np.testing.assert_array_equal(worst, [values.min() for values in result.candidate_q])
    assert (worst <= result.q).all()
    assert (worst < result.q)[batch().num_candidates > 1].all()


def test_the_executed_action_belongs_to_the_reported_q() -> None:
    result = ReferenceBackend(random_policy()).sample_and_score(batch())
    assert result.candidates is not None
    assert result.candidate_q is not None
    rules: tuple[Selection, ...] = ("upper-quartile", "random", "worst")
    for rule in rules:
        action, q = chosen(rule)
        for row in range(ROWS):
            index = int(np.flatnonzero(result.candidate_q[row] == q[row])[0])
            np.testing.assert_array_equal(action[row], result.candidates[row][index])


def test_requests_of_one_batch_may_have_different_rules() -> None:
    result = ReferenceBackend(random_policy()).sample_and_score(batch())
    rules: list[Selection] = ["best", "upper-quartile", "random", "worst"]
    # Every rule meets every N: rows of one N are four apart.
    select = [rules[(row + row // 4) % 4] for row in range(ROWS)]
    action, q = choose(batch(), result, select)
    for row, rule in enumerate(select):
        alone_action, alone_q = chosen(rule)
        np.testing.assert_array_equal(action[row], alone_action[row])
        assert q[row] == alone_q[row]


def test_upper_quartile_has_rank_n_div_4_of_the_sorted_q() -> None:
    result = ReferenceBackend(random_policy()).sample_and_score(batch())
    assert result.candidate_q is not None
    _, q = chosen("upper-quartile")
    for row, values in enumerate(result.candidate_q):
        assert q[row] == np.sort(values)[::-1][len(values) // 4]


@pytest.mark.parametrize(("candidates", "above"), [(1, 0), (2, 0), (3, 0), (4, 1), (5, 1), (7, 1), (8, 2), (64, 16)])
def test_as_many_candidates_as_the_rank_says_have_a_higher_q(candidates: int, above: int) -> None:
    q = np.random.default_rng(candidates).permutation(candidates).astype(np.float32)
    assert (q > q[upper_quartile_index(q)]).sum() == above


def test_equal_q_are_ranked_by_candidate_index() -> None:
    draws = np.random.default_rng(0)
    for candidates in (4, 9, 64):
        for _ in range(20):
            q = draws.integers(-2, 3, candidates).astype(np.float32)
            ranked = sorted(range(candidates), key=lambda index: (-q[index], index))
            assert upper_quartile_index(q) == ranked[candidates // 4]
    assert upper_quartile_index(np.zeros(64, np.float32)) == 16


def test_random_depends_on_the_seed_only() -> None:
    seeds = np.arange(4096, dtype=np.uint64) * np.uint64(2**40 + 12345)
    counts = np.full(4096, 8, np.int32)
    index = random_index(seeds, counts)
    np.testing.assert_array_equal(index[::-1], random_index(seeds[::-1].copy(), counts))
    np.testing.assert_array_equal(index[7:9], random_index(seeds[7:9], counts[7:9]))


def test_random_is_uniform_and_in_range() -> None:
    seeds = np.arange(8000, dtype=np.uint64)
    for candidates in (1, 5, 8):
        index = random_index(seeds, np.full(len(seeds), candidates, np.int32))
        counts = np.bincount(index, minlength=candidates)
        assert len(counts) == candidates
        expected = len(seeds) / candidates
        # Five standard deviations of a binomial count.
        assert np.abs(counts - expected).max() <= 5 * np.sqrt(expected)
    high = np.array([2**64 - 1, 2**63], dtype=np.uint64)
    assert (random_index(high, np.array([3, 3], np.int32)) < 3).all()


def test_random_is_independent_of_the_noise() -> None:
    """Word 0 of a candidate's counter makes the radius of its first two dimensions: the choice must not repeat it."""
    seeds = np.arange(8000, dtype=np.uint64)
    index = random_index(seeds, np.full(len(seeds), 64, np.int32))
    bits = torch.from_numpy(seeds.astype(np.int64))
    for candidate in (0, 1):
        noise = standard_normals(bits, torch.full_like(bits, candidate), 2).numpy()
        # Five standard deviations of the correlation of independent samples.
        assert abs(np.corrcoef(index, np.linalg.norm(noise, axis=1))[0, 1]) < 5 / np.sqrt(len(seeds))

"""The random stream of a run, and its change between devices."""

from __future__ import annotations

import torch

from training.learner.draws import RandomStream


def numbers(stream: RandomStream) -> list[float]:
    return torch.rand(64, generator=stream.device).tolist() + torch.rand(64, generator=stream.host).tolist()


def test_a_loaded_stream_continues() -> None:
    stream, other = RandomStream("cpu", 3), RandomStream("cpu", 4)
    numbers(stream)
    other.load_state_dict(stream.state_dict())
    assert numbers(other) == numbers(stream)


def test_a_stream_that_moves_from_a_card_to_a_cpu_is_a_new_one() -> None:
    """A card's stream has two generators in its state."""
    state = {"device": torch.zeros(16, dtype=torch.uint8), "host": torch.Generator().manual_seed(3).get_state()}
    one, two, unrelated = (RandomStream("cpu", seed) for seed in (0, 1, 3))
    one.load_state_dict(state)
    two.load_state_dict(state)
    found = numbers(one)
    assert numbers(two) == found
    assert not set(numbers(unrelated)) & set(found)

"""Sample-and-score in plain torch for batches of equal N and M, to compare the GPU kernel and other servers with."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from kernels.reference import aggregate
from kernels.schedule import critic_steps, dyadic_steps
from policy import Policy

Sampler = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]
"""(observation (R, obs_dim), noise (R * N, chunk_dim)) -> chosen action (R, chunk_dim), its value (R,)."""


def torch_sampler(policy: Policy, candidates: int, steps: int) -> Sampler:
    """A sampler of eager operators, on the policy's device and in its precision.

    It does not use `kernels.reference.ReferenceBackend`, which copies from the host and so can't be captured by a CUDA
    graph.
    """
    spec = policy.spec
    k = float(critic_steps(steps, spec.max_backprop_steps))

    def sample(observation: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
        rows = len(noise)
        seen = policy.normalise(observation)
        share = policy.actor.observation_share(seen).repeat_interleave(candidates, 0, output_size=rows)
        action = noise
        for t, log2_steps in dyadic_steps(steps):
            columns = noise.new_full((rows, 1), t), noise.new_full((rows, 1), log2_steps)
            action = action + 2.0**-log2_steps * policy.actor(share, action, *columns)
        action = action.clamp(-1, 1)
        repeated = seen.repeat_interleave(candidates, 0, output_size=rows)
        q = aggregate(policy.critic(repeated, action, noise.new_full((rows, 1), k)), spec.q_agg)
        value, index = q.view(-1, candidates).max(1)
        first = torch.arange(len(observation), device=index.device) * candidates
        return action[first + index], value

    return sample


def graphed(sample: Sampler, observation: Tensor, noise: Tensor) -> Callable[[], None]:
    """Capture `sample` as a CUDA graph that also draws new noise. The returned call replays it."""

    def run() -> None:
        noise.normal_()
        sample(observation, noise)

    stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
    with torch.cuda.stream(stream):
        for _ in range(3):
            run()
    stream.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        run()
    return graph.replay

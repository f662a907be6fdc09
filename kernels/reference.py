"""The definition of sample-and-score, in plain differentiable torch. Every other backend is tested against it.

The learner trains through `euler_sample`; the service and the evaluation can run `ReferenceBackend`. Rows are sorted by
descending M: the rows that still move at step i are then a prefix, and a batch of mixed M costs exactly sum(N * M)
actor rows.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from kernels.backend import SampleBatch, SampleResult
from kernels.philox import standard_normals
from kernels.schedule import step_table
from policy import Policy, Velocity


def euler_sample(
    actor: Velocity, share: Tensor, noise: Tensor, num_steps: Tensor | int, denoise_timesteps: int
) -> Tensor:
    """Integrate the flow from noise (t = 0) to actions (t = 1), then clip to [-1, 1]; differentiable.

    Args:
        actor: the velocity field.
        share: (B, hidden), `actor.observation_share` of each row's observation.
        noise: (B, chunk_dim), x_0.
        num_steps: M, one int for all rows or (B,) int64 on the CPU in descending order. An int needs no copy from the
            host, so a CUDA graph can capture the call.
        denoise_timesteps: M_disc, the steps of the finest grid.

    Returns:
        (B, chunk_dim) in [-1, 1].
    """
    table = step_table(denoise_timesteps, 1, noise.device, noise.dtype)
    if isinstance(num_steps, int):
        moving, rows = [len(noise)] * num_steps, None
    else:
        moving = [int((num_steps > step).sum()) for step in range(int(num_steps[0]))]
        rows = num_steps.to(noise.device)
    x, finished = noise, []
    for step, active in enumerate(moving):
        if active < len(x):
            finished.append(x[active:])
            x = x[:active]
        t, log2_steps = (
            column[num_steps, step].repeat(active, 1) if rows is None else column[rows[:active], step, None]
            for column in (table.t, table.log2_steps)
        )
        x = x + torch.exp2(-log2_steps) * actor(share[:active], x, t, log2_steps)
    return torch.cat([x, *reversed(finished)]).clamp(-1, 1) if finished else x.clamp(-1, 1)


def aggregate(q: Tensor, q_agg: str) -> Tensor:
    """The value of each row: the mean or minimum over the ensemble, (E, B) -> (B,)."""
    return q.mean(0) if q_agg == "mean" else q.amin(0)


class ReferenceBackend:
    """`Backend` in eager torch on any device, in fp32, or in fp64 for tests.

    It moves `policy` to `device` and `dtype` in place.
    """

    def __init__(self, policy: Policy, device: str = "cpu", dtype: torch.dtype = torch.float32) -> None:
        self.policy = policy.to(device=device, dtype=dtype)
        self.device = torch.device(device)
        self.dtype = dtype
        self.engine = f"reference/{'fp32' if dtype == torch.float32 else 'fp64'}/{self.device.type}"

    @torch.inference_mode()
    def sample_and_score(self, batch: SampleBatch) -> SampleResult:
        """See `Backend`."""
        spec = self.policy.spec
        order = np.argsort(-batch.num_steps, kind="stable")  # requests, by descending M
        counts = batch.num_candidates[order].astype(np.int64)
        request = np.repeat(np.arange(len(batch)), counts)  # row -> position in `order`
        starts = np.concatenate([[0], np.cumsum(counts)[:-1]])
        candidate = np.arange(len(request)) - starts[request] + batch.first_candidate[order][request]

        observation = torch.from_numpy(batch.observation[order]).to(self.device, self.dtype)
        observation = self.policy.normalise(observation)
        rows = torch.from_numpy(request).to(self.device)
        steps = torch.from_numpy(batch.num_steps[order].astype(np.int64)[request])
        noise = self._noise(batch, order, request, candidate)
        share = self.policy.actor.observation_share(observation)[rows]
        action = euler_sample(self.policy.actor, share, noise, steps, spec.denoise_timesteps)

        table = step_table(spec.denoise_timesteps, spec.max_backprop_steps, self.device, self.dtype)
        k = table.critic_steps[steps.to(self.device), None]
        members = self.policy.critic(observation[rows], action, k)
        q = aggregate(members, spec.q_agg)
        return self._select(batch, order, starts, counts, action, q, members.std(0, correction=0))

    def _noise(self, batch: SampleBatch, order: np.ndarray, request: np.ndarray, candidate: np.ndarray) -> Tensor:
        seed = torch.from_numpy(batch.seed[order][request].view(np.int64)).to(self.device)
        z = standard_normals(seed, torch.from_numpy(candidate).to(self.device), self.policy.spec.chunk_dim)
        temperature = torch.from_numpy(batch.temperature[order][request]).to(self.device)
        return (temperature[:, None] * z).to(self.dtype)

    def _select(
        self,
        batch: SampleBatch,
        order: np.ndarray,
        starts: np.ndarray,
        counts: np.ndarray,
        action: Tensor,
        q: Tensor,
        q_std: Tensor,
    ) -> SampleResult:
        """Select each request's best row, the first of equals, and restore the batch's order."""
        actions, values, spreads = (tensor.cpu().numpy() for tensor in (action, q, q_std))
        finite_row = np.isfinite(actions).all(1) & np.isfinite(values) & np.isfinite(spreads)
        finite = np.logical_and.reduceat(finite_row, starts)
        position = np.argsort(order, kind="stable")  # request -> position in `order`
        slices = [slice(start, start + count) for start, count in zip(starts, counts, strict=True)]
        # np.argmax takes the first of equals. It prefers a NaN, but then `nonfinite` is set.
        winner = np.array([s.start + int(np.argmax(values[s])) for s in slices])

        def by_request(array: np.ndarray) -> np.ndarray:
            return array[position].astype(np.float32)

        def of_candidates(array: np.ndarray) -> list[np.ndarray] | None:
            return [array[slices[p]].astype(np.float32) for p in position] if batch.return_candidates else None

        return SampleResult(
            action=by_request(actions[winner]),
            q=by_request(values[winner]),
            q_std=by_request(spreads[winner]),
            index=((winner - starts)[position] + batch.first_candidate).astype(np.int32),
            q_first=by_request(values[starts]),
            q_sum=by_request(np.add.reduceat(values, starts)),
            q_sumsq=by_request(np.add.reduceat(values * values, starts)),
            nonfinite=~finite[position],
            candidates=of_candidates(actions),
            candidate_q=of_candidates(values),
            candidate_q_std=of_candidates(spreads),
        )

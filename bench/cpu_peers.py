"""Other CPU runtimes for the same network, which `sorl-bench engine` compares with.

Each function takes a `Sampler` of static shapes and returns a call (observation, noise) -> (action, q).
"""

from __future__ import annotations

import io
import statistics
import time
import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from kernels.schedule import critic_steps, dyadic_steps
from policy import Policy
from policy.networks import LAYER_NORM_EPS

PeerCall = Callable[[Tensor, Tensor], Any]


class Sampler(nn.Module):
    """A plain sample-and-score for one (R, N, M): ordinary linear layers, without manual fusion."""

    def __init__(self, policy: Policy, requests: int, num_candidates: int, num_steps: int) -> None:
        super().__init__()
        spec = policy.spec
        self.requests, self.num_candidates = requests, num_candidates
        self.steps = [(float(step.t), float(step.log2_steps)) for step in dyadic_steps(num_steps)]
        self.k = float(critic_steps(num_steps, spec.max_backprop_steps))
        # Any, because mypy takes the weight of a module in a ModuleList for a Module.
        actor: Any = policy.actor.layers
        layers: Any = policy.critic.layers
        norms: Any = policy.critic.norms
        self.actor: Any = nn.ModuleList(_linear(layer.weight, layer.bias) for layer in actor)
        self.critics: Any = nn.ModuleList(
            nn.ModuleList(_linear(layer.weight[i], layer.bias[i]) for layer in layers)
            for i in range(spec.ensemble_size)
        )
        self.norms: Any = nn.ModuleList(
            nn.ModuleList(_norm(norm.weight[i], norm.bias[i]) for norm in norms) for i in range(spec.ensemble_size)
        )

    def forward(self, observation: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
        """The chosen actions (R, chunk_dim) and their values (R,), of (R, obs_dim) and noise (R N, chunk_dim)."""
        s, x = observation.repeat_interleave(self.num_candidates, 0), noise
        one = torch.ones_like(x[:, :1])
        for t, d in self.steps:
            h = torch.cat([s, x, t * one, d * one], 1)
            for layer in self.actor[:-1]:
                h = F.gelu(layer(h), approximate="tanh")
            x = x + self.actor[-1](h) * 2.0**-d
        x = x.clamp(-1, 1)
        inputs = torch.cat([s, x, self.k * one], 1)
        values = []
        for layers, norms in zip(self.critics, self.norms, strict=True):
            h = inputs
            for layer, norm in zip(layers[:-1], norms, strict=True):
                h = norm(F.gelu(layer(h), approximate="tanh"))
            values.append(layers[-1](h))
        q = torch.cat(values, 1).mean(1).view(self.requests, self.num_candidates)
        best = q.argmax(1)
        rows = torch.arange(self.requests) * self.num_candidates + best
        return x[rows], q.amax(1)


def _linear(weight: Tensor, bias: Tensor) -> nn.Linear:
    layer = nn.Linear(weight.shape[1], weight.shape[0])
    layer.weight.data.copy_(weight)
    layer.bias.data.copy_(bias)
    return layer.requires_grad_(False)


def _norm(weight: Tensor, bias: Tensor) -> nn.LayerNorm:
    norm = nn.LayerNorm(len(weight), eps=LAYER_NORM_EPS)
    norm.weight.data.copy_(weight)
    norm.bias.data.copy_(bias)
    return norm.requires_grad_(False)


def torch_eager(sampler: Sampler, observation: Tensor, noise: Tensor, precision: str, threads: int) -> PeerCall:
    if precision == "fp32":
        return sampler
    half = sampler.bfloat16()
    return lambda s, x: half(s.bfloat16(), x.bfloat16())


def torch_compiled(sampler: Sampler, observation: Tensor, noise: Tensor, precision: str, threads: int) -> PeerCall:
    """torch.compile with frozen weights. Compilation takes 7 to 25 s per shape."""
    import torch._inductor.config as inductor

    inductor.freezing = True
    torch._dynamo.reset()
    dtype = torch.float32 if precision == "fp32" else torch.bfloat16
    compiled = torch.compile(sampler.to(dtype).eval(), dynamic=False)

    def call(s: Tensor, x: Tensor) -> Any:
        with torch.no_grad():  # freezing does not work in inference mode
            return compiled(s.to(dtype), x.to(dtype))

    return call


def fused_onednn(sampler: Sampler, observation: Tensor, noise: Tensor, precision: str, threads: int) -> PeerCall:
    """Linear, bias and GELU as one oneDNN call on weights in its layout. The observation's share is computed once."""
    dtype = torch.float32 if precision == "fp32" else torch.bfloat16
    pointwise = torch.ops.mkldnn._linear_pointwise
    rows = len(noise)

    def packed(layer: nn.Linear) -> tuple[Tensor, Tensor]:
        weight = layer.weight.to(dtype).contiguous()
        return torch.ops.mkldnn._reorder_linear_weight(weight, rows), layer.bias.to(dtype)

    def fused(h: Tensor, layer: tuple[Tensor, Tensor], activation: str) -> Any:
        return pointwise(h, *layer, activation, [], "tanh" if activation == "gelu" else "")

    obs_dim, one = observation.shape[1], torch.ones(rows, 1, dtype=dtype)
    first = sampler.actor[0]
    share_layer: Any = first.weight[:, :obs_dim].to(dtype), first.bias.to(dtype)
    beside = first.weight[:, obs_dim:].to(dtype).t().contiguous()
    actor = [packed(layer) for layer in sampler.actor[1:]]
    critics = [[packed(layer) for layer in layers] for layers in sampler.critics]
    norms = [[norm.to(dtype) for norm in norms] for norms in sampler.norms]

    def call(observation: Tensor, noise: Tensor) -> Any:
        s, x = observation.to(dtype), noise.to(dtype)
        share = F.linear(s, *share_layer).repeat_interleave(sampler.num_candidates, 0)
        for t, d in sampler.steps:
            h = F.gelu(torch.addmm(share, torch.cat([x, t * one, d * one], 1), beside), approximate="tanh")
            for layer in actor[:-1]:
                h = fused(h, layer, "gelu")
            x = x + fused(h, actor[-1], "none") * 2.0**-d
        x = x.clamp(-1, 1)
        inputs = torch.cat([s.repeat_interleave(sampler.num_candidates, 0), x, sampler.k * one], 1)
        values = []
        for layers, member_norms in zip(critics, norms, strict=True):
            h = inputs
            for layer, norm in zip(layers[:-1], member_norms, strict=True):
                h = norm(fused(h, layer, "gelu"))
            values.append(fused(h, layers[-1], "none"))
        q = torch.cat(values, 1).mean(1).view(sampler.requests, sampler.num_candidates)
        return x[torch.arange(sampler.requests) * sampler.num_candidates + q.argmax(1)], q.amax(1)

    return call


def openvino_model(sampler: Sampler, observation: Tensor, noise: Tensor, precision: str, threads: int) -> PeerCall:
    """OpenVINO with the faster of one and `threads` threads; arrays are shared, not copied."""
    import openvino

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # tracing warns that shapes become constants
        model = openvino.convert_model(
            sampler, example_input=(observation, noise), input=[list(observation.shape), list(noise.shape)]
        )

    def compiled(count: int) -> PeerCall:
        settings = {
            "INFERENCE_PRECISION_HINT": "f32" if precision == "fp32" else "bf16",
            "INFERENCE_NUM_THREADS": count,
            "PERFORMANCE_HINT": "LATENCY",
        }
        request = openvino.Core().compile_model(model, "CPU", settings).create_infer_request()
        return lambda s, x: request.infer([s.numpy(), x.numpy()], share_inputs=True, share_outputs=True)

    return _faster([compiled(count) for count in {1, threads}], observation, noise)


def _faster(calls: list[PeerCall], observation: Tensor, noise: Tensor) -> PeerCall:
    """The call with the lowest median time of ten runs."""

    def median(call: PeerCall) -> float:
        times = []
        for _ in range(12):
            started = time.perf_counter()
            call(observation, noise)
            times.append(time.perf_counter() - started)
        return statistics.median(times[2:])

    return min(calls, key=median)


def onnxruntime_session(sampler: Sampler, observation: Tensor, noise: Tensor, precision: str, threads: int) -> PeerCall:
    import onnxruntime

    file: Any = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(sampler, (observation, noise), file, input_names=["s", "x"], dynamo=False, opset_version=20)

    def session(count: int) -> PeerCall:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = count
        made = onnxruntime.InferenceSession(file.getvalue(), options, providers=["CPUExecutionProvider"])
        return lambda s, x: made.run(None, {"s": s.numpy(), "x": x.numpy()})

    return _faster([session(count) for count in {1, threads}], observation, noise)

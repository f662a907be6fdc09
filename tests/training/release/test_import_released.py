"""An imported policy acts like the released code's; anything but a SORL checkpoint is refused."""

from __future__ import annotations

import json
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from kernels.reference import aggregate, euler_sample
from policy import Budget, ObservationKey, Policy, load_policy
from training.files import sha256_of
from training.release.array_pickle import ArrayPickleError, ForbiddenGlobal
from training.release.import_released import ImportConfig, import_released
from training.release.parity import relative_error
from training.release.parity_file import ParityFile
from training.release.released import ReleasedTreeError

FIXTURES = Path(__file__).parents[2] / "fixtures"
TASK = "pointmaze-medium-navigate-singletask-task1-v0"
Tree = dict[str, Any]


def agent_tree(release: ParityFile) -> Tree:
    """What the release pickles, with the parity fixture's parameters in it."""
    params: Tree = {}
    for name, tensor in release.tensors.items():
        if name.startswith("params/"):
            *folders, leaf = name.removeprefix("params/").split("/")
            node = params
            for folder in folders:
                node = node.setdefault(folder, {})
            node[leaf] = tensor.numpy()
    network = {"step": np.int32(10001), "params": params, "opt_state": {"0": {}, "1": {"0": {"count": np.int32(9)}}}}
    return {"agent": {"rng": np.array([1, 2], np.uint32), "network": network, "step": np.int32(5000)}}


@pytest.fixture
def tree(release: ParityFile) -> Tree:
    return agent_tree(release)


@pytest.fixture
def config(tree: Tree, tmp_path: Path) -> ImportConfig:
    """The fixture's agent in a file; an environment of our own."""
    return config_of(tree, tmp_path)


def config_of(tree: Tree, tmp_path: Path, **changes: Any) -> ImportConfig:
    path = tmp_path / "params_5000.pkl"
    path.write_bytes(pickle.dumps(tree))
    return ImportConfig(path, **({"env": "our-robot-v0", "control_hz": 25.0} | changes))


def params(tree: Tree) -> Tree:
    found: Tree = tree["agent"]["network"]["params"]
    return found


def critic_of(tree: Tree) -> Tree:
    found: Tree = params(tree)["modules_critic"]["value_net"]
    return found


@pytest.mark.parametrize("cell", ["n1_m1", "n8_m1", "n8_m2", "n16_m4", "n32_m8"])
def test_samples_equal_those_of_the_released_code(config: ImportConfig, release: ParityFile, cell: str) -> None:
    import_released(config)
    policy = load_policy(config.checkpoint.with_suffix(".safetensors"))
    m = int(cell.partition("_m")[2])
    for row, observation in enumerate(release["sample/observations"]):
        noise = release[f"sample/{cell}/noise"][row]
        observations = policy.normalise(observation.expand(len(noise), -1))
        steps = torch.full((len(noise),), m)
        share = policy.actor.observation_share(observations)
        candidates = euler_sample(policy.actor, share, noise, steps, policy.spec.denoise_timesteps)
        assert relative_error(candidates, release[f"sample/{cell}/candidates"][row]) < 1e-5
        q = policy.critic(observations, candidates, steps[:, None].float())
        assert relative_error(q, release[f"sample/{cell}/q"][row]) < 1e-5
        best = aggregate(q, policy.spec.q_agg).argmax()
        assert relative_error(candidates[best], release[f"sample/{cell}/action"][row]) < 1e-5


def test_a_checkpoint_of_the_released_code_with_jax_arrays(tmp_path: Path) -> None:
    """A pickle and figures that the released code wrote (how: the json's made_by)."""
    figures = json.loads((FIXTURES / "released_agent_tiny.json").read_text())
    genuine = {key: torch.tensor(value) for key, value in figures.items() if key != "made_by"}
    out = tmp_path / "tiny.safetensors"
    policy = import_released(ImportConfig(FIXTURES / "released_agent_tiny.pkl", "tiny", out, control_hz=10))
    assert policy.spec.actor_hidden == policy.spec.critic_hidden == (8, 8)
    share = policy.actor.observation_share(genuine["observation"])
    velocity = policy.actor(share, genuine["x"], genuine["t"], genuine["log2_steps"])
    assert relative_error(velocity, genuine["velocity"]) < 1e-5
    q = policy.critic(genuine["observation"], genuine["action"], genuine["num_steps"])
    assert relative_error(q, genuine["q"]) < 1e-5


def test_the_policy_has_its_provenance(config: ImportConfig) -> None:
    spec = import_released(config).spec
    assert (spec.obs_dim, spec.action_dim, spec.ensemble_size, spec.control_hz) == (11, 3, 2, 25.0)
    assert spec.actor_hidden == spec.critic_hidden == (32, 32, 32, 32)
    assert (spec.name, spec.normaliser, spec.critic_conditioning) == ("our-robot", "identity", "steps")
    assert (spec.provenance.environment, spec.provenance.updates) == ("our-robot-v0", 5000)
    assert spec.provenance.config["imported_sha256"] == sha256_of(config.checkpoint)
    assert spec.provenance.config["imported_from"] == "params_5000.pkl"
    assert "imported" in spec.provenance.notes


def test_defaults_come_from_the_environment_and_options_override_them(tree: Tree, tmp_path: Path) -> None:
    spec = import_released(config_of(tree, tmp_path, env="antmaze-giant-of-ours")).spec
    obs_dim = spec.obs_dim
    assert (spec.q_agg, spec.provenance.config["discount"]) == ("min", 0.995)
    changes = {
        "env": "antmaze-giant-of-ours",
        "name": "ant",
        "q_agg": "mean",
        "discount": 0.9,
        "max_backprop_steps": 4,
        "action_low": (-0.5,),
        "action_high": (1.0, 2.0, 3.0),
        "default_budget": (2, 8),
        "out": tmp_path / "elsewhere" / "ant.safetensors",
        "observation_keys": f"torso={obs_dim - 1},goal=1",
    }
    spec = import_released(config_of(tree, tmp_path, **changes)).spec
    assert (spec.name, spec.q_agg, spec.provenance.config["discount"]) == ("ant", "mean", 0.9)
    assert (spec.max_backprop_steps, spec.default_budget) == (4, Budget(2, 8))
    assert (spec.action_low, spec.action_high) == ((-0.5,) * 3, (1.0, 2.0, 3.0))
    assert spec.observation_keys == (ObservationKey("torso", obs_dim - 1), ObservationKey("goal", 1))
    assert load_policy(tmp_path / "elsewhere" / "ant.safetensors").spec == spec


def point_maze_agent(tree: Tree) -> None:
    """The fixture's agent cut down to 2 observations and 2 actions."""
    for module, columns in (("actor", [0, 1, 11, 12, 14, 15]), ("target_actor", [0, 1, 11, 12, 14, 15])):
        mlp = params(tree)[f"modules_{module}"]["mlp"]
        mlp["Dense_0"]["kernel"] = mlp["Dense_0"]["kernel"][columns]
        mlp["Dense_4"] = {"kernel": mlp["Dense_4"]["kernel"][:, :2], "bias": mlp["Dense_4"]["bias"][:2]}
    first = critic_of(tree)["Dense_0"]
    first["kernel"] = first["kernel"][:, [0, 1, 11, 12, 14]]


def test_dimensions_are_checked_and_the_rate_is_taken_from_ogbench(tree: Tree, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"is for 11 observations, and pointmaze.* has \(2,\)"):
        import_released(config_of(tree, tmp_path, env=TASK))
    with pytest.raises(ValueError, match=r"^--env: OGBench has no task .*pass --control-hz"):
        import_released(config_of(tree, tmp_path, control_hz=None))
    point_maze_agent(tree)
    spec = import_released(config_of(tree, tmp_path, env=TASK, control_hz=None)).spec
    assert spec.control_hz == pytest.approx(10.0)
    assert import_released(config_of(tree, tmp_path, env=TASK, control_hz=7.0)).spec.control_hz == 7.0


def unconditioned(tree: Tree) -> None:
    first = critic_of(tree)["Dense_0"]
    first["kernel"] = first["kernel"][:, :-1]


def without_critic_norms(tree: Tree) -> None:
    for layer in range(4):
        del critic_of(tree)[f"LayerNorm_{layer}"]


def three_critics(tree: Tree) -> None:
    for layer in critic_of(tree).values():
        for name, array in layer.items():
            layer[name] = np.concatenate([array, array[:1]])


VARIANTS: list[tuple[Callable[[Tree], None], Callable[[Policy], bool]]] = [
    (unconditioned, lambda policy: policy.spec.critic_conditioning == "none"),
    (without_critic_norms, lambda policy: not policy.spec.critic_layer_norm),
    (three_critics, lambda policy: policy.spec.ensemble_size == 3),
]


@pytest.mark.parametrize(("change", "holds"), VARIANTS)
def test_variants_are_read_from_the_shapes(
    tree: Tree, tmp_path: Path, change: Callable[[Tree], None], holds: Callable[[Policy], bool]
) -> None:
    change(tree)
    assert holds(import_released(config_of(tree, tmp_path)))


def put(module: str, path: str, value: Any) -> Callable[[Tree], None]:
    def change(tree: Tree) -> None:
        *folders, leaf = f"modules_{module}/{path}".split("/")
        node = params(tree)
        for folder in folders:
            node = node.setdefault(folder, {})
        node[leaf] = value

    return change


def drop(*path: str) -> Callable[[Tree], None]:
    def change(tree: Tree) -> None:
        node = tree
        for folder in path[:-1]:
            node = node[folder]
        del node[path[-1]]

    return change


ROOT = ("agent", "network", "params")
ZEROS = np.zeros((32, 32), np.float32)
FAULTS: dict[str, tuple[Callable[[Tree], None], str]] = {
    "no agent": (drop("agent"), "no entry below modules_actor/"),
    "no actor": (drop(*ROOT, "modules_actor"), "no entry below modules_actor/"),
    "no critic": (drop(*ROOT, "modules_critic"), "no entry below modules_critic/"),
    "no layer": (drop(*ROOT, "modules_actor", "mlp", "Dense_1"), "a layer is missing: Dense_1/bias"),
    "no first layer": (drop(*ROOT, "modules_critic", "value_net", "Dense_0"), "a layer is missing: Dense_0/bias"),
    "no bias": (drop(*ROOT, "modules_critic", "value_net", "Dense_2", "bias"), "a layer is missing: Dense_2/bias"),
    "no kernel": (drop(*ROOT, "modules_actor", "mlp", "Dense_3", "kernel"), "Dense_3/kernel is missing"),
    "no norm": (drop(*ROOT, "modules_critic", "value_net", "LayerNorm_2"), "LayerNorm_2/bias is missing"),
    "norms in the actor": (put("actor", "mlp/LayerNorm_0/scale", ZEROS[0]), "LayerNorm_0/scale does not belong"),
    "an encoder": (put("critic", "encoder/Dense_0/kernel", ZEROS), "modules_critic/encoder.*images"),
    "another layer": (put("actor", "mlp/Conv_0/kernel", ZEROS), "Conv_0/kernel: expected"),
    "a broken chain": (put("actor", "mlp/Dense_1/kernel", ZEROS[:31]), r"Dense_1/kernel does not fit.*\(32, 31\)"),
    "other columns": (
        put("critic", "value_net/Dense_0/kernel", np.zeros((2, 17, 32), np.float32)),
        r"has 17 columns, expected 11 \+ 3",
    ),
    "two outputs": (put("critic", "value_net/Dense_4/bias", np.zeros((2, 2), np.float32)), "Dense_4/bias"),
    "axes": (put("actor", "mlp/Dense_0/kernel", ZEROS[0]), r"Dense_0/kernel: expected 2 axes, .*\(32,\)"),
    "one critic": (put("critic", "value_net/Dense_0/kernel", ZEROS), "expected 3 axes"),
    "a number": (put("actor", "mlp/Dense_0/bias", 3.0), "expected a float32 array, found float"),
    "float64": (put("actor", "mlp/Dense_0/bias", np.zeros(32)), "expected a float32 array, found float64"),
    "NaN": (put("critic", "value_net/Dense_1/bias", np.full((2, 32), np.nan, np.float32)), "Dense_1/bias: has NaN"),
}


@pytest.mark.parametrize("fault", sorted(FAULTS))
def test_a_tree_of_another_agent_is_refused(tree: Tree, tmp_path: Path, fault: str) -> None:
    change, message = FAULTS[fault]
    change(tree)
    config = config_of(tree, tmp_path)
    with pytest.raises(ReleasedTreeError, match=message) as raised:
        import_released(config)
    assert "params_5000.pkl" in str(raised.value)
    assert not config.checkpoint.with_suffix(".safetensors").exists()


def test_damaged_and_malicious_files_are_refused(config: ImportConfig) -> None:
    whole = config.checkpoint.read_bytes()
    config.checkpoint.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ArrayPickleError, match="truncated"):
        import_released(config)
    config.checkpoint.write_bytes(b"cos\nsystem\n(S'true'\ntR.")
    with pytest.raises(ForbiddenGlobal, match=r"os\.system"):
        import_released(config)

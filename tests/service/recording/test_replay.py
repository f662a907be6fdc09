from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from policy import load_policy, save_policy
from service.protocol.codec import decode_array, encode_array
from service.recording.replay import main

pytestmark = pytest.mark.anyio


@pytest.fixture
async def recording(serve: Any, tmp_path: Path, observations: Callable[[int], list[list[float]]]) -> Path:
    """Made by the server itself: 6 requests, 11 rows, of several budgets."""
    async with serve(record_dir=tmp_path / "recordings") as client:
        for number in range(6):
            body = {"observation": observations(1 + number % 3), "num_candidates": 1 + number, "seed": number}
            body["temperature"] = 0.5 + number / 4
            if number == 5:
                body |= {"observation": observations(1)[0], "num_steps": 7, "seed": str(2**64 - 1)}
            assert (await client.post("/act", json=body)).status_code == 200
        assert (await client.post("/act", json={"observation": [1]})).status_code == 422  # not recorded
    (path,) = (tmp_path / "recordings").iterdir()
    return path


def tamper(path: Path, change: Callable[[dict[str, Any]], None], line: int = 3) -> None:
    lines = path.read_text().splitlines()
    value = json.loads(lines[line])
    change(value)
    lines[line] = json.dumps(value)
    path.write_text("\n".join(lines) + "\n")


def nudge(name: str, by: float) -> Callable[[dict[str, Any]], None]:
    def change(value: dict[str, Any]) -> None:
        value[name] = encode_array(decode_array(value[name], name) + np.float32(by))

    return change


async def test_untouched_recording_agrees_to_the_bit(recording: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(recording), "--tolerance", "0"]) == 0
    assert "6 requests, 10 rows" in (out := capsys.readouterr().out)
    assert "10 equal to the bit, 0 ties, largest difference 0, 0 mismatches" in out


@pytest.mark.parametrize(
    "change", [nudge("action", 0.01), nudge("observation", 0.5), nudge("q", 1.0), lambda v: v.update(seeds=["9"])]
)
async def test_tampered_record_is_a_mismatch(
    recording: Path, capsys: pytest.CaptureFixture[str], change: Callable[[dict[str, Any]], None]
) -> None:
    tamper(recording, change, line=4)
    assert main([str(recording)]) == 1
    assert "1 mismatches" in (out := capsys.readouterr().out)
    assert "row 0: action off by" in out


async def test_difference_within_the_tolerance_is_no_mismatch(recording: Path) -> None:
    tamper(recording, nudge("action", 1e-3))
    assert main([str(recording)]) == 1
    assert main([str(recording), "--tolerance", "1e-2"]) == 0


async def test_other_candidate_of_equal_worth_is_a_tie(
    recording: Path, checkpoint: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """With a critic that finds all actions equal, any candidate may have won where rounding differs."""
    from kernels.backend import SampleBatch
    from kernels.choice import create_backend

    policy = load_policy(checkpoint)
    for parameter in policy.critic.layers[-1].parameters():
        parameter.zero_()
    flat = recording.parent / "flat.safetensors"
    version = save_policy(policy, flat)
    lines = recording.read_text().splitlines()
    value = json.loads(lines[3])  # 1 + 2 candidates, 3 rows
    batch = SampleBatch.of(
        decode_array(value["observation"], ""),
        value["num_candidates"],
        value["num_steps"],
        np.array([int(seed) for seed in value["seeds"]], np.uint64),
        value["temperature"],
        return_candidates=True,
    )
    candidates = create_backend(policy, "reference", "cpu").sample_and_score(batch).candidates
    assert candidates is not None
    last = np.stack([row[-1] for row in candidates])
    value |= {"action": encode_array(policy.spec.action_to_environment(last)), "model_version": version}
    value["q"] = encode_array(np.zeros(3, np.float32))
    recording.write_text(lines[0] + "\n" + json.dumps(value) + "\n")
    assert main([str(recording), "--model", str(flat)]) == 0
    assert "3 ties" in capsys.readouterr().out


async def test_cut_last_line_is_noted(recording: Path, capsys: pytest.CaptureFixture[str]) -> None:
    recording.write_bytes(recording.read_bytes()[:-20])
    assert main([str(recording)]) == 0
    assert "last line was cut" in (out := capsys.readouterr().out)
    assert "5 requests" in out


async def test_damaged_line_in_the_middle_is_an_error(recording: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lines = recording.read_text().splitlines()
    lines[2] = lines[2][:-20]
    recording.write_text("\n".join(lines) + "\n")
    assert main([str(recording)]) == 2
    assert "line 3 is damaged" in capsys.readouterr().err


@pytest.fixture
def other(checkpoint: Path, tmp_path: Path) -> Path:
    policy = load_policy(checkpoint)
    policy.observation_mean += 1
    save_policy(policy, tmp_path / "other.safetensors")
    return tmp_path / "other.safetensors"


async def test_other_model_version_is_an_error_that_names_both(
    recording: Path, other: Path, checkpoint: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([str(recording), "--model", str(other)]) == 2
    message = capsys.readouterr().err
    assert load_policy(other).version[:12] in message
    assert load_policy(checkpoint).version[:12] in message
    assert main([str(recording), "--model", str(other), str(checkpoint)]) == 0


async def test_missing_checkpoint_and_record_that_does_not_fit(
    recording: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([str(recording), "--model", "none.safetensors"]) == 2
    assert "none.safetensors: cannot be read" in capsys.readouterr().err
    tamper(recording, lambda value: value.update(num_steps=9))
    assert main([str(recording)]) == 2
    assert "does not fit 'small'" in capsys.readouterr().err


async def test_a_recording_across_reloads_needs_the_files_of_its_versions(
    serve: Any, write: Any, tmp_path: Path, observations: Callable[[int], Any], capsys: pytest.CaptureFixture[str]
) -> None:
    """Two models of a folder, one of them replaced midway: a record says what answered it."""
    folder = write("cube", 1).parent
    write("maze", 2, obs_dim=4)
    row = observations(1)[0]
    async with serve(model=folder, record_dir=tmp_path / "recordings") as client:
        for seed in range(2, 5):
            for name, size in (("cube", 6), ("maze", 4)):
                body = {"observation": row[:size], "model": name, "seed": seed}
                assert (await client.post("/act", json=body)).status_code == 200
            kept = tmp_path / f"cube-{seed}.safetensors"
            kept.write_bytes((folder / "cube.safetensors").read_bytes())
            write("cube", 10 + seed)
            await client.app.state.runtime.reload_all()
    (path,) = (tmp_path / "recordings").iterdir()
    assert main([str(path)]) == 2
    assert "answered by 'cube' version" in capsys.readouterr().err
    assert main([str(path), "--tolerance", "0", "--model", str(folder), str(tmp_path)]) == 0
    assert "6 requests, 6 rows" in (out := capsys.readouterr().out)
    assert "6 equal to the bit" in out
    (folder / "cube.safetensors").write_bytes((tmp_path / "cube-2.safetensors").read_bytes())
    lines = path.read_text().splitlines()
    path.write_text("\n".join(lines[:3]) + "\n")  # the header and what came before the first reload
    assert main([str(path)]) == 0

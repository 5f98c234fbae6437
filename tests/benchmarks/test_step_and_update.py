import json
import subprocess
import sys

import pytest
import torch

from benchmarks import step, update
from benchmarks.comparison import Measured, measured_from, named_ratios, script, speed_ratio, step_rows
from benchmarks.peers.environments import ROOT
from benchmarks.shapes import make_prompts, model_folder
from textenv.tokenizer import load_tokenizer


def measured(name, precision="bfloat16", seconds=(2.0,), **parts):
    steps = tuple({"seconds": s, "tokens": 64, **parts} for s in seconds)
    return Measured(name, precision, steps, peak_memory_gb=1.0)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    """A random model with a tokenizer of words."""
    return model_folder("tiny", lambda _: None, tmp_path_factory.mktemp("shapes"))


def run_worker(name, tmp_path, **settings):
    path = tmp_path / "settings.json"
    path.write_text(json.dumps(settings))
    done = subprocess.run(
        [sys.executable, str(script(name)), json.dumps({"settings": str(path)})],
        env={"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "PATH": ""},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def test_the_first_step_is_the_warm_up_and_medians_are_of_the_rest():
    steps = [{"seconds": s, "tokens": 60, "update": s / 2} for s in (100.0, 2.0, 4.0, 3.0)]
    m = measured_from("ours", "float32", {"steps": steps, "peak_memory_gb": 1.5, "torch": "2"})
    assert (m.warm_up_seconds, m.seconds, m.tokens_per_second) == (100.0, 3.0, 20.0)
    assert m.parts == {"update": 1.5, "rest": 1.5}
    with pytest.raises(ValueError, match="behind the warm-up"):
        measured_from("ours", "float32", {"steps": steps[:1], "peak_memory_gb": 1.0})


def test_the_ratio_is_our_speed_over_theirs():
    assert speed_ratio(measured("ours", seconds=(2.0,)), measured("trl", seconds=(7.0, 8.0, 9.0))) == 4.0
    assert speed_ratio(measured("ours"), Measured("trl", "bfloat16", absent="no network")) is None
    assert speed_ratio(None, measured("trl")) is None


def test_ppo_is_compared_with_ppo_and_each_precision_with_its_own():
    found = [
        measured("ours"),
        measured("trl_grpo", seconds=(8.0,)),
        measured("ours", "float32", (4.0,)),
        measured("trl_grpo", "float32", (12.0,)),
        measured("ours_ppo", "float32", (5.0,)),
        measured("trl_ppo", "float32", (100.0,)),
    ]
    ratios = named_ratios(step.with_ratios(found), float32_only=["trl_ppo"])
    assert ratios == {"trl_grpo": 4.0, "trl_grpo/float32": 3.0, "trl_ppo": 20.0}
    assert named_ratios(step.with_ratios(found[2:4])) == {"trl_grpo/float32": 3.0}


def test_what_cannot_be_measured_is_a_reason_in_the_table():
    rows = [(measured("ours"), None), (Measured("trl_grpo", "bfloat16", absent="no network"), None)]
    lines = step_rows(rows, step.NAMES)
    assert lines[2].startswith("| textenv GRPO | bfloat16 | 2.00 |")
    assert lines[3].startswith("| TRL 1.16 GRPOTrainer | bfloat16 | absent: no network |")


def test_the_floor_is_the_useful_work_at_the_measured_rate():
    extra = {"useful_flops": 6e9, "matmul_flops_per_second": 1e10}
    ours = Measured("ours", "float32", ({"seconds": 1.2, "tokens": 64},), extra=extra)
    rows = update.with_ratios([ours])
    assert named_ratios(rows) == {"roofline/float32": 0.5}


def test_prompts_have_exactly_the_tokens_asked_for(tiny):
    prompts = make_prompts(tiny, 5, 13)
    tokenizer = load_tokenizer(str(tiny))
    assert [len(tokenizer.encode(prompt)) for prompt in prompts] == [13] * 5
    assert len({*prompts}) == 5
    with pytest.raises(ValueError, match="cannot be made"):
        make_prompts(tiny, 5, 0)


def test_a_synthetic_rollout_teaches_something_in_every_group():
    rollout = update.make_rollout(512, prompts=3, group=4, prompt_tokens=5, new=6)
    prompt, advantages = torch.tensor(rollout["prompt_ids"]), torch.tensor(rollout["advantages"])
    assert prompt.shape == (12, 5)
    assert bool((prompt.view(3, 4, 5) == prompt.view(3, 4, 5)[:, :1]).all())
    assert bool((advantages.view(3, 4).std(1, correction=0) - 1).abs().max() < 1e-5)
    assert bool((advantages != 0).all())


@pytest.mark.parametrize("agent", ["grpo", "ppo", "ppo with all models"])
def test_our_iterations_generate_exactly_the_tokens_asked_for(agent, tiny, tmp_path):
    settings = {"model": str(tiny), "device": "cpu", "precision": "float32", "agent": agent.split()[0]}
    whole = agent.endswith("all models")
    settings |= {"critic": "separate", "kl_coef": 0.05} if whole else {"critic": "shared", "kl_coef": 0.0}
    settings |= {"prompts": make_prompts(tiny, 4, 9), "num_prompts": 2, "group": 4, "new": 5, "epochs": 1}
    result = run_worker("ours_step", tmp_path, **settings, steps=2, learning_rate=1e-6, seed=0)
    assert [s["tokens"] for s in result["steps"]] == [2 * 4 * 5] * 2
    assert all(s["seconds"] >= s["collect"] + s["update"] - 1e-6 for s in result["steps"])
    assert result["peak_memory_gb"] > 0.01


def test_our_update_has_the_plain_gradient_and_its_work_is_counted(tiny, tmp_path):
    rollout = update.make_rollout(512, prompts=2, group=2, prompt_tokens=3, new=4)
    settings = {"model": str(tiny), "vocabulary": 512, "device": "cpu", "precision": "float32", "group": 2}
    settings |= {"rollout": rollout, "steps": 2, "learning_rate": 1e-6, "seed": 0}
    assert run_worker("ours_update", tmp_path, **settings, check=True)["relative_difference"] < update.TOLERANCE
    result = run_worker("ours_update", tmp_path, **settings)
    # A layer: q and o 64 x 64, k and v 64 x 32 (2 of 4 heads of 16), three times 64 x 128.
    body = 2 * (2 * 64 * 64 + 2 * 64 * 32 + 3 * 64 * 128)
    tokens = 2 * 3 + 4 * 3
    # Prompt tokens see 1 + 2 + 3 keys, the first three tokens of a completion 4 + 5 + 6.
    keys = 2 * 6 + 4 * 15
    attention = 2 * 2 * 4 * 16 * keys
    head = 64 * 512 * 4 * 4
    assert result["useful_flops"] == 6 * (body * tokens + attention + head)
    assert result["matmul_flops_per_second"] > 1e6

"""A run from the command line's point of view: what it leaves behind, how it goes on, how it ends."""

import json
import math
import os
import shutil
import signal
import subprocess
import sys
import time

import pytest
import torch
from killed import assert_same_run

from agents import checkpoint
from agents.metrics import read_metrics, read_records

SMALL = [
    "policy=tiny",
    "policy.tiny.hidden_size=16",
    "task=target",
    "task.length=3",
    "env.max_new_tokens=4",
    "agent.prompts=2",
    "agent.group_size=4",
    "agent.optim.learning_rate=3e-3",
    "agent.optim.decay=constant",
    "evaluation.samples=2",
    "evaluation.every=2",
    "threads=1",
]
LORA = ["policy.lora.rank=2"]
CHOICES = {
    "grpo": ["agent=grpo"],
    "ppo": ["agent=ppo"],
    "trpo": ["agent=trpo", "agent.conjugate_gradient_steps=3"],
    "grpo lora": ["agent=grpo", *LORA, "agent.kl_coef=0.1"],
    "ppo lora": ["agent=ppo", *LORA, "agent.kl_coef=0.1", "agent.critic=separate"],
}
MATTER = (
    "reward/mean",
    "reward/std",
    "rewards/right/mean",
    "entropy",
    "completions/mean_length",
    "finish/eos",
    "finish/budget",
    "grad_norm",
    "learning_rate",
    "policy_loss",
    "approx_kl",
    "clip_ratio",
    "ratio/first_minibatch_max",
    "tokens_per_second",
    "num_tokens",
    "memory/peak_gb",
)
OF_GRPO = ("groups/zero_variance_share",)
OF_PPO = ("value_loss", "explained_variance", "value/mean")
CLOCK = ("time/", "tokens_per_second", "memory/", "scoring/")


def curve(folder, names=None):
    """The metrics that do not depend on the clock."""
    records = read_metrics(folder / "metrics.jsonl")
    return [{k: v for k, v in record.items() if not k.startswith(CLOCK)} for record in records]


def same(a, b):
    """Equal records; NaN-free by construction."""
    assert len(a) == len(b)
    for x, y in zip(a, b, strict=True):
        assert x == pytest.approx(y, rel=1e-4, abs=1e-6)


@pytest.mark.parametrize("rows", ["null", "3"])
def test_scores_that_come_later_change_nothing_that_is_learned(run, tmp_path, rows):
    for name in ("immediate", "deferred"):
        words = [
            f"env.scoring={name}",
            f"env.rows={rows}",
            "env.propose_tokens=1",
            "iterations=2",
            "evaluation.every=0",
        ]
        assert run(*SMALL, "agent=grpo", f"name={name}", *words)[0] == 0
    folders = [tmp_path / "runs" / name for name in ("immediate", "deferred")]
    same(*map(curve, folders))
    lines = [(folder / "completions.jsonl").read_text() for folder in folders]
    assert lines[0] == lines[1]


def test_another_kind_of_scoring_is_refused_in_one_line(run, tmp_path):
    code, _, err = run(*SMALL, "agent=grpo", "env.scoring=later")
    assert code != 0
    assert "error: scoring must be one of immediate, deferred, got 'later'" in err
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(("agent", "names"), [("grpo", OF_GRPO), ("ppo", OF_PPO)])
def test_a_run_leaves_everything_that_it_promised(run, tmp_path, agent, names):
    code, out, _ = run(*SMALL, f"agent={agent}", "name=one", "iterations=3", "checkpoint_every=2", "seed=5")
    assert code == 0
    folder = tmp_path / "runs" / "one"
    summary = json.loads((folder / "summary.json").read_text())
    assert set(summary["accuracy"]) == {"before", "after"}
    assert all(0 <= x <= 1 for x in summary["accuracy"].values())
    assert summary["seed"] == 5
    assert summary["seconds"] > 0
    assert summary["tokens"] > 0
    assert summary["peak_memory_gb"] > 0
    assert summary["models_held"] == 1
    assert {"eval/pass@1", "eval/pass@2", "eval/sampled_accuracy"} <= set(summary["after"])

    held_out = json.loads((folder / "held_out.json").read_text())
    assert sum(held_out["correct"]) / len(held_out["correct"]) == summary["accuracy"]["after"]

    records = read_metrics(folder / "metrics.jsonl")
    assert [record["iteration"] for record in records] == [1, 2, 3]
    for record in records:
        assert set(MATTER + names) <= set(record)
    for metric in ("calls", "errors", "timeouts", "cached", "seconds_p50", "seconds_p95", "queue_seconds_p95"):
        assert [f"scoring/right/{metric}" in record for record in records] == [True] * 3
    assert "eval/accuracy" in records[1]
    assert records[-1]["num_tokens"] == summary["tokens"]

    lines = [json.loads(line) for line in (folder / "completions.jsonl").read_text().splitlines()]
    assert len(lines) == 3 * 8
    assert {"iteration", "problem", "prompt", "completion", "reward", "valid", "parts"} <= set(lines[0])
    first = [line["reward"] for line in lines if line["iteration"] == 1]
    assert sum(first) / 8 == pytest.approx(records[0]["reward/mean"])

    assert (folder / "curves.png").read_bytes().startswith(b"\x89PNG")
    assert any((folder / "tensorboard").iterdir())
    assert (folder / "config.yaml").is_file()
    assert checkpoint.iterations(folder)[-1] == 3
    for text in ("Held-out accuracy before", "summary.json", "curves.png", "agents.chat", "agents.export"):
        assert text in out
    code, _, err = run(*SMALL, "name=one", "iterations=3")
    assert code != 0
    assert "name=one is taken" in err
    assert "never overwritten" in err
    assert json.loads((folder / "summary.json").read_text()) == summary


def test_a_reference_and_a_separate_critic_are_counted(run, tmp_path):
    run(*SMALL, "agent=ppo", "agent.critic=separate", "agent.kl_coef=0.1", "name=one", "iterations=1")
    assert json.loads((tmp_path / "runs/one/summary.json").read_text())["models_held"] == 3
    assert "kl" in read_metrics(tmp_path / "runs/one/metrics.jsonl")[0]


def test_under_an_adapter_policy_reference_and_critic_are_one_model(run, tmp_path):
    run(*SMALL, *LORA, "agent=ppo", "agent.critic=separate", "agent.kl_coef=0.1", "name=one", "iterations=1")
    assert json.loads((tmp_path / "runs/one/summary.json").read_text())["models_held"] == 1
    assert "kl" in read_metrics(tmp_path / "runs/one/metrics.jsonl")[0]
    optimizer = checkpoint.load(tmp_path / "runs/one")[1]["agent"]["optimizer"]
    names = {*optimizer["actor"], *optimizer["critic"]}
    assert all(".lora_A." in name or ".lora_B." in name or name.startswith("value_head.") for name in names)


@pytest.mark.parametrize("agent", ["grpo", "ppo", "trpo", "grpo lora", "ppo lora"])
def test_a_resumed_run_goes_on_as_if_nothing_had_happened(run, tmp_path, agent):
    """Six iterations at once, and three and then three."""
    settings = [*SMALL, *CHOICES[agent], "checkpoint_every=2"]
    run(*settings, "name=whole", "iterations=6")
    run(*settings, "name=parts", "iterations=3")
    code, out, _ = run("resume=runs/parts", "iterations=6")
    assert code == 0
    assert "Continuing runs/parts after iteration 3" in out
    whole, parts = curve(tmp_path / "runs/whole"), curve(tmp_path / "runs/parts")
    assert [record["iteration"] for record in parts] == [1, 2, 3, 4, 5, 6]
    same(whole, parts)
    written = [(tmp_path / "runs" / name / "completions.jsonl").read_text() for name in ("whole", "parts")]
    assert [json.loads(x)["completion"] for x in written[0].splitlines()] == [
        json.loads(x)["completion"] for x in written[1].splitlines()
    ]


def test_the_number_of_rows_and_of_proposed_tokens_change_nothing(run, tmp_path):
    run(*SMALL, "name=wave", "iterations=3")
    run(*SMALL, "name=stream", "iterations=3", "env.rows=3", "env.propose_tokens=2")
    same(curve(tmp_path / "runs/wave"), curve(tmp_path / "runs/stream"))


def start(*arguments, cwd):
    """A real process."""
    env = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore"}
    return subprocess.Popen(
        [sys.executable, "-m", "agents.train", *arguments],
        cwd=cwd,
        env=env,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def wait_for_iteration(process, folder, iteration):
    """Until the metrics hold this many lines."""
    path = folder / "metrics.jsonl"
    until = time.monotonic() + 240
    while time.monotonic() < until and process.poll() is None:
        if path.exists() and path.read_bytes().count(b"\n") >= iteration:
            return
        time.sleep(0.02)
    process.kill()
    raise AssertionError(process.communicate()[0])


@pytest.mark.parametrize("agent", ["grpo", "ppo lora"])
def test_a_killed_run_loses_at_most_the_checkpoint_interval_and_an_interrupted_one_nothing(run, tmp_path, agent):
    settings = [
        *SMALL,
        *CHOICES[agent],
        "checkpoint_every=3",
        "iterations=100000",
        "evaluation.every=0",
        "logging.tensorboard=false",
    ]
    folder = tmp_path / "runs/long"
    killed = start(*settings, "name=long", cwd=tmp_path)
    wait_for_iteration(killed, folder, 5)
    killed.kill()
    killed.communicate()
    before = read_metrics(folder / "metrics.jsonl")
    saved = checkpoint.load(folder)[0]
    assert len(before) - 3 <= saved <= len(before)

    interrupted = start("resume=runs/long", cwd=tmp_path)
    wait_for_iteration(interrupted, folder, saved + 4)
    interrupted.send_signal(signal.SIGINT)
    out, _ = interrupted.communicate(timeout=240)
    assert interrupted.returncode == 0
    assert "Traceback" not in out
    assert f"Continuing runs/long after iteration {saved}" in out
    assert "Stopping after this iteration and saving" in out
    assert "resume=runs/long" in out
    stopped = len(read_metrics(folder / "metrics.jsonl"))
    assert checkpoint.load(folder)[0] == stopped

    run("resume=runs/long", f"iterations={stopped + 1}")
    run(*settings[:-3], "evaluation.every=0", "name=whole", f"iterations={stopped + 1}")
    assert_same_run(tmp_path / "runs/whole", folder)


def problems(path, *lines):
    path.write_text("".join(line + "\n" for line in lines))
    return path


BYTES = ["env.chat=null", "evaluation.samples=0"]
JSONL = ["policy=tiny", "task=jsonl", "task.path=data.jsonl", "task.test_path=test.jsonl", "name=bad", "iterations=1"]


@pytest.fixture
def data(tmp_path):
    problems(tmp_path / "data.jsonl", *(f'{{"question": "{k} + 1 =", "answer": "{k + 1}"}}' for k in range(8)))
    problems(tmp_path / "test.jsonl", '{"question": "9 + 1 =", "answer": "10"}')
    (tmp_path / "empty").mkdir()
    (tmp_path / "half").mkdir()
    (tmp_path / "half" / "config.json").write_text("{}")
    return tmp_path


MISTAKES = {
    "an unknown task": ([*SMALL, "task=nonsense"], "Could not find 'task/nonsense'"),
    "an unknown reward": ([*SMALL, "reward=nonsense"], "Could not find 'reward/nonsense'"),
    "an unknown agent": ([*SMALL, "agent=dpo"], "Could not find 'agent/dpo'"),
    "an unknown setting": ([*SMALL, "agent.clip=0.1"], "Key 'clip' not in 'GRPOConfig'"),
    "a number that is none": ([*SMALL, "agent.prompts=many"], "prompts"),
    "a value out of range": ([*SMALL, "agent.optim.epochs=0"], "agent.optim.epochs must be at least 1, got 0"),
    "a task that is no import path": ([*SMALL, "task._target_=no.such.Task"], "no.such.Task"),
    "a task's setting out of range": ([*SMALL, "task.length=0"], "length must be at least 1, got 0"),
    "a task's setting that it has not": ([*SMALL, "+task.size=3"], "size"),
    "a device that is not there": ([*SMALL, "policy.device=abacus"], "policy.device must be auto, cpu or cuda"),
    "an adapter of a negative rank": ([*SMALL, "policy.lora.rank=-1"], "policy.lora.rank must be at least 0"),
    "an adapter on a layer that is not there": (
        [*SMALL, "policy.lora.rank=2", "policy.lora.targets=[q_proj,c_attn]"],
        "policy.lora.targets must name linear layers, c_attn is none in LlamaForCausalLM; there are down_proj, ",
    ),
    "an adapter with dropout": (
        [*SMALL, "policy.lora.rank=2", "policy.lora.dropout=0.1"],
        "policy.lora.dropout must be 0",
    ),
    "a folder that is not there": ([*SMALL, "policy.model=./nowhere"], "there is no folder './nowhere'"),
    "a folder without a model": ([*SMALL, "policy.model=./empty"], "has no config.json"),
    "a model without weights": ([*SMALL, "policy.model=./half"], "has no weights"),
    "a hub model that cannot be had": ([*SMALL, "policy.model=nobody/nothing"], "nobody/nothing"),
    "a prompt longer than the limit": ([*JSONL, "env.max_prompt_tokens=3"], "max_prompt_tokens=3"),
    "a reward that asks for a column": (
        [*JSONL, "reward=function", "reward.function.fn._target_=small.wants_a_colour"],
        "asks for column 'colour'",
    ),
    "a reward without its function": ([*SMALL, "reward=function"], "reward.function.fn._target_"),
    "a reward that cannot be imported": ([*SMALL, "reward=function", "reward.function.fn._target_=no.such"], "no.such"),
    "a file that is not there": ([*JSONL, "task.path=missing.jsonl"], "missing.jsonl"),
    "a column that is not there": ([*JSONL, "task.columns.answer=solution"], "data.jsonl:1"),
    "no run at all": (["resume="], "resume must be a folder's name or null, got ''"),
    "a run that is not there": (["resume=runs/nowhere"], "runs/nowhere is not the folder of a run"),
}


@pytest.mark.parametrize(("arguments", "message"), MISTAKES.values(), ids=list(MISTAKES))
def test_a_mistake_ends_in_one_line_before_any_weight_is_loaded(run, data, monkeypatch, arguments, message):
    def no_weights(*_args, **_options):
        raise AssertionError("weights were loaded")

    monkeypatch.setattr("agents.run.build_policy", no_weights)
    code, out, err = run(*arguments, "name=bad")
    assert code not in (0, None)
    assert message in err
    assert "Traceback" not in out + err
    assert not (data / "runs").exists()


def test_a_line_that_does_not_parse_is_named_with_its_file_and_number(run, data):
    problems(data / "data.jsonl", '{"question": "1 =", "answer": "1"}', '{"question": ')
    code, _, err = run(*JSONL)
    assert code not in (0, None)
    assert "error: " in err
    assert "data.jsonl:2: a line must be one JSON object" in err


def test_a_corrupt_checkpoint_is_passed_over_or_named(run, tmp_path):
    run(*SMALL, "name=one", "iterations=4", "checkpoint_every=2", "keep_checkpoints=2", "evaluation.every=0")
    folder = tmp_path / "runs/one"
    there = checkpoint.iterations(folder)
    assert there[-2:] == [2, 4]

    def damage(iteration):
        state = folder / "checkpoints" / f"iteration_{iteration:06d}" / "state.pt"
        state.write_bytes(state.read_bytes()[:-7])

    damage(4)
    code, out, err = run("resume=runs/one", "iterations=5")
    assert code == 0
    assert "state.pt" in out + err
    assert [r["iteration"] for r in read_metrics(folder / "metrics.jsonl")] == [1, 2, 3, 4, 5]
    for iteration in checkpoint.iterations(folder):
        damage(iteration)
    code, out, err = run("resume=runs/one", "iterations=6")
    assert code not in (0, None)
    assert "no intact checkpoint" in err
    assert "Traceback" not in out + err


def test_half_of_a_surrogate_pair_in_a_reason_does_not_end_the_run(run, tmp_path):
    """A completion can make a reward that reads JSON say one."""
    reward = ["reward=function", "reward.function.fn._target_=odd_rewards.Half", "~reward.function.fn._partial_"]
    code, out, err = run(*SMALL, *reward, "name=one", "iterations=2", "env.max_invalid_share=0.6")
    assert (code, err) == (0, "")
    assert "50% of the completions could not be graded" in out
    records = read_records(tmp_path / "runs/one/completions.jsonl")
    assert {record["reason"].split("\n")[0][:30] for record in records if record["valid"]} == {"function: half: \ud800"}


def test_a_resumed_run_keeps_its_settings(run, tmp_path):
    run(*SMALL, "name=one", "iterations=1")
    code, _, err = run("resume=runs/one", "iterations=2", "agent.optim.learning_rate=0.5")
    assert code not in (0, None)
    assert "cannot change its settings: agent.optim.learning_rate: saved 0.003, now 0.5" in err
    assert "Traceback" not in err
    _, _, err = run("resume=runs/one", "agent=ppo", "task=arithmetic", "iterations=2")
    assert err == "error: resume=runs/one continues a run, whose choices are made: leave out agent=ppo, task=arithmetic"
    assert run("resume=runs/one", "iterations=2", "evaluation.samples=1")[0] == 0


def test_a_run_ends_at_its_limit_of_tokens(run, tmp_path):
    run(*SMALL, "name=one", "iterations=50", "max_tokens=100")
    summary = json.loads((tmp_path / "runs/one/summary.json").read_text())
    assert 100 <= summary["tokens"] < 100 + 8 * 4


def test_a_run_ends_at_its_limit_of_seconds(run, tmp_path):
    """Any iteration takes longer than this limit: the first one is the last."""
    code, out, _ = run(*SMALL, "name=one", "iterations=50", "max_seconds=1e-6")
    assert code == 0
    summary = json.loads((tmp_path / "runs/one/summary.json").read_text())
    assert summary["iterations"] == 1
    assert checkpoint.load(tmp_path / "runs/one")[0] == 1
    assert "summary.json" in out


@pytest.mark.parametrize("difference", [2e-3, math.nan])
def test_a_sampler_that_disagrees_with_the_update_ends_the_run(difference):
    from agents.run import SamplerMismatch, check_sampler

    with pytest.raises(SamplerMismatch, match=r"try policy\.precision=float32"):
        check_sampler(difference, torch.float32)
    check_sampler(5e-4, torch.float32)
    check_sampler(2e-3, torch.bfloat16)


def test_a_second_interrupt_leaves_at_once_and_keeps_what_was_saved(run, tmp_path, monkeypatch):
    """Both arrive inside the fourth iteration, which is lost; the checkpoint of the second is not."""
    from agents.run import Run

    iterate, before = Run.iterate, signal.getsignal(signal.SIGINT)

    def interrupted(self):
        if self.counters.iteration == 3:
            os.kill(os.getpid(), signal.SIGINT)
            os.kill(os.getpid(), signal.SIGINT)
        return iterate(self)

    monkeypatch.setattr(Run, "iterate", interrupted)
    code, _, err = run(*SMALL, "name=one", "iterations=50", "checkpoint_every=2")
    assert code not in (0, None)
    assert "Left at once. What was saved: resume=runs/one" in err
    assert checkpoint.load(tmp_path / "runs/one")[0] == 2
    assert signal.getsignal(signal.SIGINT) is before


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"),
        RuntimeError("[enforce fail at alloc_cpu.cpp:119] DefaultCPUAllocator: can't allocate memory: 9 bytes"),
        MemoryError("no more"),
    ],
    ids=["cuda", "torch on the cpu", "python"],
)
def test_too_little_memory_ends_in_a_message_that_names_the_settings(run, monkeypatch, error):
    from agents.run import Run

    def out_of_memory(_self):
        raise error

    monkeypatch.setattr(Run, "iterate", out_of_memory)
    code, out, err = run(*SMALL, "name=one", "iterations=2")
    assert code not in (0, None)
    assert err.startswith("error: out of memory")
    assert "agent.optim.microbatch_tokens" in err
    assert "Traceback" not in out + err


def test_another_runtime_error_is_not_taken_for_lack_of_memory(run, monkeypatch):
    from agents.run import Run

    def broken(_self):
        raise RuntimeError("a mistake in the program")

    monkeypatch.setattr(Run, "iterate", broken)
    code, _, err = run(*SMALL, "name=one", "iterations=2")
    assert code not in (0, None)
    assert "RuntimeError: a mistake in the program" in err
    assert "out of memory" not in err


def always_fails(completion: str) -> float:
    """What a grader with a mistake in it does."""
    raise KeyError("no such rubric")


@pytest.mark.parametrize("on_error", ["invalid", "raise"])
def test_a_grader_that_always_fails_ends_the_run_in_one_line(run, on_error):
    code, out, err = run(
        *SMALL,
        "reward=function",
        "reward.function.fn._target_=test_train.always_fails",
        f"env.on_error={on_error}",
        "name=one",
        "iterations=2",
    )
    assert code not in (0, None)
    assert err.startswith("error: ")
    assert "no such rubric" in err
    assert "resume=runs/one" in err
    assert "Traceback" not in out + err


def test_a_sweep_is_a_run_for_each_choice(run, tmp_path):
    code, _, _ = run("-m", *SMALL, "iterations=1", "evaluation.samples=0", "seed=0,1", "agent=grpo,ppo")
    assert code == 0
    summaries = [json.loads(path.read_text()) for path in sorted((tmp_path / "runs").glob("*/summary.json"))]
    assert sorted((s["agent"], s["seed"]) for s in summaries) == [("grpo", 0), ("grpo", 1), ("ppo", 0), ("ppo", 1)]


@pytest.mark.parametrize("agent", ["grpo", "ppo"])
def test_a_strict_run_repeats_bit_for_bit(run, tmp_path, agent):
    """Weights and every number that is no clock, in another process's place: a second run from the same command, with
    two threads, which may add in either order where nothing keeps them from it."""
    found, threads = [], torch.get_num_threads()
    try:
        for name in ("one", "two"):
            assert run(*SMALL, f"agent={agent}", "strict=true", "threads=2", "iterations=3", f"name={name}")[0] == 0
            assert torch.get_num_threads() == 2
            assert torch.are_deterministic_algorithms_enabled()
            state = checkpoint.load(tmp_path / "runs" / name)[1]["agent"]["optimizer"]
            metrics = [
                {k: x for k, x in record.items() if not k.startswith(CLOCK)}
                for record in read_metrics(tmp_path / "runs" / name / "metrics.jsonl")
            ]
            found.append((state, metrics))
    finally:
        torch.use_deterministic_algorithms(False)
        torch.set_num_threads(threads)
    (one, first), (two, second) = found
    assert first == second
    for part in ("actor", "critic"):
        assert one[part].keys() == two[part].keys()
        assert all(torch.equal(one[part][name], two[part][name]) for name in one[part])


def test_seeds_differ_and_repeat(run, tmp_path):
    for name, seed in (("a", 0), ("b", 1), ("c", 0)):
        run(*SMALL, f"name={name}", f"seed={seed}", "iterations=2", "evaluation.samples=0")
    a, b, c = (curve(tmp_path / "runs" / name) for name in "abc")
    same(a, c)
    assert a != b


def test_help_lists_the_groups_and_their_choices(run):
    code, out, _ = run("--help")
    assert "lora:\n" in out
    assert code in (0, None)
    for text in (
        "agent: grpo, ppo, trpo",
        "task: arithmetic",
        "reward: ",
        "policy: ",
        "experiment: ",
        "resume=runs/NAME",
    ):
        assert text in out


MY_REWARD = """
def my_reward(completion: str, answer: str, *, worth: float = 1.0) -> float:
    return worth * completion.count(answer[0])
"""


def test_a_function_of_the_users_is_plugged_in_from_the_command_line(tmp_path):
    """In a process of its own, with the module in the folder that it is started in."""
    (tmp_path / "my_module.py").write_text(MY_REWARD)
    process = start(
        *SMALL,
        "name=mine",
        "iterations=2",
        "evaluation.samples=0",
        "reward=function",
        "reward.function.fn._target_=my_module.my_reward",
        "+reward.function.fn.worth=3.0",
        cwd=tmp_path,
    )
    out, _ = process.communicate(timeout=240)
    assert process.returncode == 0, out
    lines = [json.loads(x) for x in (tmp_path / "runs/mine/completions.jsonl").read_text().splitlines()]
    letters = {line["completion"]: line["reward"] for line in lines}
    assert len(letters) > 4
    from textenv.tasks.target import Target

    first = Target(3).answer[0]
    for completion, reward in letters.items():
        assert reward == 3.0 * completion.count(first)
    assert "rewards/function/mean" in read_metrics(tmp_path / "runs/mine/metrics.jsonl")[0]


def test_the_rooms_import_only_what_lies_below_them():
    """import-linter, with the contracts of pyproject.toml."""
    tool = shutil.which("lint-imports", path=os.path.dirname(sys.executable))
    assert tool is not None
    root = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
    result = subprocess.run([tool, "--no-cache"], cwd=root, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout

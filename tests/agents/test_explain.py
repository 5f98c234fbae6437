"""What `--explain` says, against numbers worked out by hand."""

import re

import pytest
from finished_runs import save_chat_model

from agents.config import EnvConfig, PolicyConfig, TrainConfig
from agents.explain import Algebra, as_setting
from agents.explain.words import rate_in_words
from agents.grpo import GRPOConfig
from agents.optim import OptimConfig
from agents.ppo import PPOConfig

TINY = ["policy=tiny", "task=target", "--explain"]


def algebra(agent, *, iterations=10, **env):
    return Algebra.of(
        TrainConfig(agent, "target", policy=PolicyConfig("tiny"), env=EnvConfig(**env), iterations=iterations)
    )


def test_grpos_batch_by_hand():
    """32 prompts x 6 = 192 sequences of 24 tokens, in 100 rows (two waves), one step with all of them."""
    a = algebra(GRPOConfig(prompts=32, group_size=6), rows=100, max_new_tokens=24, propose_tokens=10)
    assert (a.sequences, a.tokens, a.rows, a.waves, a.rounds) == (192, 4608, 100, 2, 3)
    assert (a.epochs, a.minibatches, a.minibatch_rows, a.steps) == (1, 1, 192, 1)


def test_ppos_epochs_and_minibatches_of_whole_groups_by_hand():
    """Groups of 4 until 30 rows are there: 8 groups, 32 rows; 20 groups are 3 minibatches, the last of 4 groups."""
    optim = OptimConfig(epochs=4, minibatch_rows=30)
    a = algebra(PPOConfig(prompts=20, group_size=4, optim=optim))
    assert (a.minibatch_groups, a.minibatch_rows, a.minibatches, a.steps) == (8, 32, 3, 12)
    a = algebra(PPOConfig(prompts=2, group_size=4, optim=OptimConfig(minibatch_rows=1000)))
    assert (a.minibatch_groups, a.minibatch_rows, a.minibatches) == (2, 8, 1)


def test_the_algebra_is_what_the_optimizer_does(run, tmp_path):
    words = [
        "agent=ppo",
        "agent.prompts=5",
        "agent.group_size=4",
        "agent.optim.minibatch_rows=7",
        "agent.optim.epochs=2",
    ]
    small = [
        "policy=tiny",
        "task=target",
        "policy.tiny.hidden_size=16",
        "evaluation.samples=0",
        "logging.tensorboard=false",
    ]
    run(*small, *words, "iterations=1", "name=one", "env.max_new_tokens=3")
    line = (tmp_path / "runs/one/metrics.jsonl").read_text()
    done = float(re.search(r'"optimizer_steps": ([\d.]+)', line)[1])
    optim = OptimConfig(epochs=2, minibatch_rows=7)
    assert done == algebra(PPOConfig(prompts=5, group_size=4, optim=optim)).steps == 2 * 3
    code, out, _ = run("resume=runs/one", "iterations=4", "--explain")
    assert code == 0
    assert "4 iterations x 6 optimizer steps = 24 optimizer steps" in out
    assert (tmp_path / "runs/one/metrics.jsonl").read_text() == line


def test_learning_rates_in_words():
    """4e-5 over 3 steps: 1e-5 first. Of 20 iterations the last half decays: iteration 12 is the first that is lower,
    iteration 20 has 1/20 of the run to go, a tenth of the decay."""
    a = algebra(GRPOConfig(), iterations=20)
    optim = OptimConfig(learning_rate=4e-5, warmup_steps=3, decay="linear", decay_share=0.5)
    assert rate_in_words(4e-5, "linear", optim, a) == (
        "begins at 1e-05 and rises to 4e-05 over 3 optimizer steps, falls linearly from iteration 12 on, to 4e-06 in "
        "iteration 20"
    )
    assert rate_in_words(4e-5, "constant", OptimConfig(), a) == "4e-05 from the first step, and stays there"
    assert "as a cosine from iteration 2 on" in rate_in_words(1.0, "cosine", OptimConfig(decay_share=1.0), a)


def test_the_flag_is_a_setting_in_hydras_words():
    assert as_setting(["--explain", "seed=1", "--config-dir", "x"]) == ["explain=true", "seed=1", "--config-dir", "x"]


def test_grpo_with_a_tiny_model(run, tmp_path):
    settings = ["agent=grpo", "agent.prompts=8", "agent.group_size=4", "env.max_new_tokens=12", "iterations=30"]
    code, out, err = run(*TINY, *settings, "evaluation.every=10", "evaluation.samples=2", "env.rows=10")
    assert (code, err) == (0, "")
    for text in (
        "8 prompts x 4 completions = 32 sequences of at most 12 tokens = 384 tokens",
        "played in 10 rows of the environment, 4 waves; a full completion takes 1 proposal",
        "1 epoch x 1 minibatch = 1 optimizer step",
        "each step sees all 32 sequences (8 whole groups), at most 384 tokens; the ratio is exactly 1",
        "30 iterations x 1 optimizer step = 30 optimizer steps; 960 sequences, at most 11,520 tokens",
        # one held-out problem: before and after 1 + 2 completions, three times 1
        "1 problem: before and after with a greedy completion each and 2 sampled ones (pass@k); every 10 "
        "iterations, 3 times",
        "9 completions in all, at most 108 tokens",
        "right: weight 1, in the trainer",
        "1 set of language-model weights in all",
    ):
        assert text in out, text
    assert "reference" not in out
    assert not list(tmp_path.iterdir())  # no folder, no file


def test_ppo_with_a_critic_and_a_reference_of_their_own(run):
    code, out, _ = run(*TINY, "agent=ppo", "agent.critic=separate", "agent.kl_coef=0.1", "agent.optim.epochs=3")
    assert code == 0
    for text in (
        "32 prompts x 4 completions = 128 sequences",
        "3 epochs x 2 minibatches = 6 optimizer steps",  # minibatch_rows is 64
        "each step sees up to 64 sequences (16 whole groups)",
        "the ratio is 1 in the first, then new over old policy",
        "policy: begins at",
        "critic: begins at",
        "critic: a second model",
        "reference: a frozen copy of the actor",
        "3 sets of language-model weights in all",
    ):
        assert text in out, text


def test_trpo_takes_one_step_of_the_policy_and_the_critics_minibatches(run):
    """128 rows in minibatches of 64, twice, and the policy's step."""
    code, out, _ = run(*TINY, "agent=trpo", "iterations=10", "agent.optim.critic_learning_rate=3e-3")
    assert code == 0
    for text in (
        "policy: one step with all of them, as far as a KL of 0.01 nats a token allows",
        "critic: 2 epochs x 2 minibatches = 4 optimizer steps",
        "10 iterations x 5 optimizer steps = 50 optimizer steps",
        "policy: none, agent.max_kl sets the length of its steps",
        "critic: begins at 0.00075 and rises to 0.003 over 3 optimizer steps",
    ):
        assert text in out, text
    assert "the ratio is" not in out
    words = ["agent=trpo", "agent.optim.critic_learning_rate=0.02", "agent.optim.warmup_steps=0"]
    assert "critic: 0.02 from the first step" in run(*TINY, *words)[1]


def test_dynamic_sampling_may_generate_every_round_anew(run):
    """At most 1 + 2 times the 8 x 4 x 5 tokens."""
    words = ["agent.prompts=8", "agent.group_size=4", "env.max_new_tokens=5", "agent.resample_rounds=2"]
    code, out, _ = run(*TINY, *words)
    assert code == 0
    assert "replaced in up to 2 further rounds: at most 480 tokens are generated" in out


def test_memory_is_the_planners_arithmetic(run):
    """Ten letters, end and padding, read and written in 32 numbers; two layers of four matrices of 32 x 32, three of
    32 x 64 and two norms; a last norm. In float32 4 bytes each for weights, gradients and the copy to act with, 8 for
    AdamW."""
    weights = 2 * 12 * 32 + 2 * (4 * 32 * 32 + 3 * 32 * 64 + 2 * 32) + 32
    code, out, _ = run(*TINY, "policy.tiny.hidden_size=32")
    assert code == 0
    assert f"actor: tiny, {weights:,} weights, {weights:,} of them trained" in out
    for name, size in (("weights", 4), ("gradients", 4), ("AdamW", 8), ("weights laid out for acting", 4)):
        assert f"{name}: {size * weights / 1e3:.1f} kB" in out


def test_under_an_adapter_the_models_are_one(run):
    words = ["agent=ppo", "agent.critic=separate", "agent.kl_coef=0.1", "policy.lora.rank=2"]
    code, out, _ = run(*TINY, *words)
    assert code == 0
    assert "critic: the same weights under an adapter of its own" in out
    assert "reference: the same weights without the adapter" in out
    assert "1 set of language-model weights in all" in out


def test_where_rewards_run_and_what_is_only_watched(run):
    words = [
        "reward=function",
        "reward.function.fn._target_=small.moody",
        "reward.function.weight=0.5",
        "env.reward_workers=3",
    ]
    code, out, _ = run("policy=tiny", "task=target", *words, "env.scoring=deferred", "--explain")
    assert code == 0
    assert "function: weight 0.5, in 3 killable workers, at most 10 s a call" in out
    assert "computed while other rows decode" in out


def test_a_reward_model_that_has_yet_to_be_trained(run, tmp_path):
    code, out, err = run("experiment=rlhf", "--explain")
    assert (code, err) == (0, "")
    assert (
        "reward_model: weight 1, a reward model that is trained beforehand, on 2,000 rankings of 4 completions" in out
    )
    assert "listener: weight 0, only watched" in out
    assert not list(tmp_path.iterdir())


def test_a_judge_on_this_machine_is_added_to_what_is_held(run, tmp_path):
    """Bytes, end and padding, 264 of them, in 16 numbers; two layers of queries and outputs of 16 x 16, keys and values
    of 16 x 8, three matrices of 16 x 24 and two norms; a last norm. In float32, 4 bytes each; what says tokens is
    shared with the embedding."""
    save_chat_model(tmp_path / "judge")
    judge = ["reward=local_judge", "reward.judge.fn.backend.model=judge", "reward.judge.fn.backend.device=cpu"]
    size = 4 * (264 * 16 + 2 * (2 * 16 * 16 + 2 * 16 * 8 + 3 * 16 * 24 + 2 * 16) + 16)
    code, out, err = run(*TINY, "policy.device=cpu", *judge)
    assert (code, err) == (0, "")
    assert f"reward judge: a judge (judge), {size / 1e3:.1f} kB on cpu" in out
    assert "2 sets of language-model weights in all" in out
    assert f"models that reward: {size / 1e3:.1f} kB" in out
    assert total(out) - total(run(*TINY, "policy.device=cpu")[1]) == pytest.approx(size / 1e6, abs=0.11)
    code, out, _ = run(*TINY, *judge[:1], "reward.judge.fn.backend.model=nowhere")
    assert code == 0
    assert "reward judge: a judge (nowhere), of unknown size" in out


def total(out):
    """The sum of the estimate, in MB."""
    return float(re.search(r"about ([\d.]+) MB on cpu", out)[1])


def test_mistakes_are_one_line_as_ever(run, tmp_path):
    for words, message in (
        (["agent.group_size=1"], "agent.group_size must be at least 2"),
        (["agent.optim.epochs=0"], "agent.optim.epochs must be at least 1"),
        (["reward=code"], "asks for column 'tests'"),
    ):
        code, _, err = run(*TINY, *words)
        assert code not in (0, None)
        assert message in err
        assert err.count("\n") <= 1
    assert not list(tmp_path.iterdir())


@pytest.mark.model
def test_smollm2_is_explained_without_its_weights(run):
    """134,515,008 weights: in float32 4 bytes each, 4 of gradients, 8 of AdamW, 4 laid out for acting."""
    code, out, _ = run("policy.precision=float32", "policy.device=cpu", "--explain")
    assert code == 0
    assert "grpo on arithmetic, smollm2" in out
    assert "actor: smollm2, 134,515,008 weights, 134,515,008 of them trained" in out
    assert "weights: 538.1 MB" in out
    assert "AdamW: 1.1 GB" in out
    assert "falls linearly from iteration 29 on" in out


def test_a_run_that_does_not_fit_is_explained_and_then_refused(run, monkeypatch):
    from agents.explain import holdings

    monkeypatch.setattr(holdings, "TINY", "nothing is too tiny")
    monkeypatch.setattr(holdings, "free_bytes", lambda device: 10_000)
    code, out, err = run(*TINY)
    assert "about" in out
    assert "10.0 kB are free" in out
    assert code != 0
    assert "error: too little memory" in err


def test_the_help_says_how(run):
    code, out, _ = run("--help")
    assert code == 0
    assert "--explain" in out

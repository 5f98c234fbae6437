"""`collect`: one loop over the environment's own steps, the same Rollout however it is cut."""

from dataclasses import fields

import numpy as np
import pytest
import torch
from gymnasium.vector import AutoresetMode
from small import distance, weights_of

from agents.collect import collect
from agents.grpo import GRPO, GRPOConfig
from agents.observe import rollout_metrics
from agents.optim import OptimConfig, Optimizer
from agents.policy import Policy, Sampling, ValueHead
from agents.policy.loading import TinyConfig, tiny_model
from agents.ppo import PPO, PPOConfig
from agents.rollout import Rollout
from textenv import FinishReason, TextVectorEnv
from textenv.conversation import Reply
from textenv.types import Problem

ALPHABET = "abcdefgh?"
PROMPTS = ["?", "ab?", "hhhh?", "c?", "defgab?"]


class Letters:
    """Prompts of several lengths; pays a number that tells completions and problems apart."""

    name = "letters"
    columns = frozenset({"worth"})

    def split(self, name):
        return [Problem(prompt, {"worth": k}) for k, prompt in enumerate(PROMPTS)]

    def reward(self):
        return {"worth": Worth()}

    def tokenizer(self):
        from textenv.tokenizer import TinyTokenizer

        return TinyTokenizer(ALPHABET)


class Worth:
    execution = "inline"

    def __call__(self, completion, worth):
        return sum(map(ord, completion)) / 1000 + worth


class FailsOnE:
    """A grader that breaks where the completion holds an `e`."""

    execution = "inline"

    def __call__(self, completion, worth):
        if "e" in completion:
            raise RuntimeError("no e, please")
        return len(completion) / 10 + worth


def environment(rows=10, *, mode=AutoresetMode.DISABLED, **settings):
    return TextVectorEnv(rows, autoreset_mode=mode, task=Letters(), **{"max_new_tokens": 9} | settings)


def policy_of(*, sampling=None, critic=False, seed=0):
    model = tiny_model(len(ALPHABET) + 2, TinyConfig(16, 1, 2, 64), seed=seed, device=torch.device("cpu"))
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.mul_(12)  # far from uniform
    head = ValueHead(16, torch.device("cpu")) if critic else None
    return Policy(model, num_actions=len(ALPHABET) + 2, sampling=sampling, value_head=head)


QUEUE, GROUPS = np.repeat(np.arange(5), 2), np.repeat(np.arange(5), 2) + 40


def collected(env=None, policy=None, **options):
    return collect(env or environment(), policy or policy_of(), QUEUE, group_ids=GROUPS, **options)


def assert_equal(a: Rollout, b: Rollout):
    """All fields; log-probabilities and entropies up to rounding."""
    for field in fields(Rollout):
        x, y = getattr(a, field.name), getattr(b, field.name)
        if x is None or not x.is_floating_point():
            assert (x is None and y is None) or torch.equal(x, y), field.name
        else:
            torch.testing.assert_close(x, y, atol=1e-5, rtol=0)


@pytest.mark.parametrize("settings", [{}, {"stop_strings": ["ba", "g"]}, {"budget": "truncate"}], ids=str)
@pytest.mark.parametrize("max_tokens", [3, 8, 32])
def test_the_rollout_does_not_depend_on_how_many_tokens_are_proposed(max_tokens, settings):
    one = collected(environment(**settings), max_tokens=1).rollout
    many = collected(environment(**settings), max_tokens=max_tokens).rollout
    assert len(set(one.length.tolist())) > 3
    assert_equal(one, many)


def by_hand(env, policy):
    """The plain Gymnasium loop: one token a step, through `env.step`, one list of tokens and rewards an episode."""
    observation, infos = env.reset(options={"indices": QUEUE, "group_ids": GROUPS})
    live = np.ones(env.num_envs, bool)
    tokens = [[] for _ in QUEUE]
    rewards = [[] for _ in QUEUE]
    logprobs = [[] for _ in QUEUE]
    while live.any():
        action = policy.act(observation, episode=infos["episode_index"], live=live, max_tokens=1)
        lengths = np.where(live, 1, 0)
        if live.all():
            observation, reward, terminated, truncated, infos = env.step(action.token[:, 0])
        else:  # DISABLED: a finished row may not be stepped again
            observation, reward, terminated, truncated, infos, _ = env.step_many(action.token, lengths)
            reward = reward[:, 0]
        for row in np.flatnonzero(live):
            tokens[row].append(int(action.token[row, 0]))
            logprobs[row].append(float(action.logprob[row, 0]))
            rewards[row].append(float(reward[row]))
        live &= ~(terminated | truncated)
    return tokens, rewards, logprobs, infos


def test_it_is_the_plain_gymnasium_loop():
    tokens, rewards, logprobs, infos = by_hand(environment(), policy_of())
    rollout = collected().rollout
    for k in range(10):
        start, end = int(rollout.prompt_length[k]), int(rollout.length[k])
        size = end - start
        assert rollout.tokens[k, start:end].tolist() == tokens[k]
        assert rollout.mask[k].tolist() == [True] * size + [False] * (9 - size)
        assert rollout.reward[k, :size].tolist() == pytest.approx(rewards[k])
        assert rollout.sampled_logprob[k, :size].tolist() == pytest.approx(logprobs[k], abs=1e-5)
    assert rollout.finish_reason.tolist() == infos["finish_reason"].tolist()


class Recording:
    """An environment that writes down which of its members are used."""

    def __init__(self, env):
        self.env, self.used = env, set()

    @property
    def __class__(self):  # so that the check of types at run time takes it for one
        return TextVectorEnv

    def __getattr__(self, name):
        self.used.add(name)
        return getattr(self.env, name)


def test_it_knows_nothing_of_the_environment_but_its_public_verbs():
    env = Recording(environment())
    collected(env)
    assert {"reset", "step_many"} <= env.used
    assert env.used <= {"reset", "step_many", "scored", "num_envs", "autoreset_mode", "stop_spec", "reward_parts"}


STREAMS = [AutoresetMode.NEXT_STEP, AutoresetMode.SAME_STEP]


@pytest.mark.parametrize("mode", STREAMS)
@pytest.mark.parametrize("rows", [1, 3, 4, 9])
@pytest.mark.parametrize("max_tokens", [1, 5, 32])
def test_fewer_rows_than_problems_give_the_same_episodes_as_one_wave(rows, max_tokens, mode):
    wave = collected().rollout
    stream = collected(environment(rows, mode=mode), max_tokens=max_tokens).rollout
    assert_equal(wave, stream)


def test_no_tokens_at_a_time_are_refused():
    with pytest.raises(ValueError, match="max_tokens must be at least 1, got 0"):
        collected(max_tokens=0)


@pytest.mark.parametrize("mode", STREAMS)
def test_more_rows_than_problems_leave_rows_idle(mode):
    assert_equal(collected().rollout, collected(environment(13, mode=mode)).rollout)


def test_the_columns_are_those_of_the_budget_however_short_the_answers():
    rollout = collected(environment(stop_strings=list(ALPHABET))).rollout
    assert rollout.mask.shape == (10, 9)
    assert rollout.max_tokens == 9


def test_rows_are_the_positions_of_the_queue_with_their_groups_and_episodes():
    rollout = collected(first_episode=100).rollout
    assert rollout.problem.tolist() == GROUPS.tolist()
    assert rollout.episode.tolist() == list(range(100, 110))
    tokenizer = environment().tokenizer
    shown = [tokenizer.decode(rollout.tokens[k, :n].tolist()) for k, n in enumerate(rollout.prompt_length)]
    assert shown == [PROMPTS[i] for i in QUEUE]
    assert torch.equal(collect(environment(), policy_of(), QUEUE).rollout.problem, torch.arange(10))


def test_episodes_are_sampled_by_their_number():
    a, b = collected(first_episode=0).rollout, collected(first_episode=10).rollout
    assert not torch.equal(a.tokens, b.tokens)
    later = collect(environment(8), policy_of(), QUEUE[2:], group_ids=GROUPS[2:], first_episode=2).rollout
    for k in range(8):
        n = int(a.length[k + 2])
        assert later.tokens[k, :n].tolist() == a.tokens[k + 2, :n].tolist()


@pytest.mark.parametrize("max_tokens", [1, 4, 32])
def test_the_reward_stands_on_the_last_policy_token_and_is_the_environments(max_tokens):
    found = collected(max_tokens=max_tokens)
    for k, ended in enumerate(found.ended):
        text = ended.sample.completion
        expected = sum(map(ord, text)) / 1000 + QUEUE[k]
        paid = found.rollout.reward[k]
        last = int(found.rollout.mask[k].nonzero()[-1])
        assert float(paid[last]) == pytest.approx(expected) == pytest.approx(ended.verdict.value)
        assert float(paid.abs().sum()) == pytest.approx(expected)
        assert float(found.rollout.returns[k]) == pytest.approx(expected)
        assert ended.episode_index == k


@pytest.mark.parametrize("max_tokens", [1, 3, 32])
def test_a_stop_string_cuts_the_proposal(max_tokens):
    env = environment(stop_strings=["b", "dc"], max_new_tokens=20)
    found = collected(env, policy_of(sampling=Sampling(temperature=2.0)), max_tokens=max_tokens)
    stopped = 0
    for k, ended in enumerate(found.ended):
        rollout = found.rollout
        written = env.tokenizer.decode(rollout.tokens[k, rollout.prompt_length[k] : rollout.length[k]].tolist())
        if rollout.finish_reason[k] == FinishReason.STOP:
            stopped += 1
            assert written.endswith(("b", "dc"))
            assert written == ended.sample.completion + ("b" if written.endswith("b") else "dc")
        assert "b" not in written[:-1]
        assert "dc" not in written[:-1]
        assert not rollout.sampled_logprob[k, ~rollout.mask[k]].any()
    assert stopped >= 5


def test_a_spent_budget_is_truncated_only_when_it_is_called_so():
    assert not collected().rollout.truncated.any()
    truncated = collected(environment(budget="truncate")).rollout
    assert truncated.truncated.tolist() == (truncated.finish_reason == FinishReason.BUDGET).tolist()
    assert truncated.truncated.any()
    assert not truncated.truncated.all()


def test_the_sampling_can_be_another_than_the_policys():
    greedy = collected(sampling=Sampling(temperature=0)).rollout
    assert torch.equal(greedy.tokens[0::2], greedy.tokens[1::2])
    sampled = collected().rollout
    assert not torch.equal(sampled.tokens[0::2], sampled.tokens[1::2])


def test_progress_counts_finished_episodes():
    seen = []
    collected(on_step=lambda done, total: seen.append((done, total)), max_tokens=2)
    assert seen[-1] == (10, 10)
    assert [done for done, _ in seen] == sorted(done for done, _ in seen)


def test_weights_that_changed_between_two_collections_are_used():
    policy, env = policy_of(), environment()
    collected(env, policy)
    policy.load_state_dict(policy_of(seed=5).state_dict())
    assert_equal(collected(env, policy).rollout, collected(policy=policy_of(seed=5)).rollout)


def failing():
    """A rollout in which the grader failed on some rows, with what it was made of."""
    env, policy = environment(reward={"picky": FailsOnE()}, max_invalid_share=1.0), policy_of()
    policy.reset(seed=2)
    return collect(env, policy, QUEUE, group_ids=np.arange(10) // 5)


def test_a_failing_grader_makes_the_sample_invalid_and_nothing_else():
    found = failing()
    has_e = ["e" in ended.sample.completion for ended in found.ended]
    assert 2 <= sum(has_e) <= 8
    assert found.rollout.valid.tolist() == [not e for e in has_e]
    metrics = rollout_metrics(found)
    kept = [len(e.sample.completion) / 10 + QUEUE[k] for k, e in enumerate(found.ended) if not has_e[k]]
    assert metrics["reward/invalid_share"] == pytest.approx(sum(has_e) / 10)
    assert metrics["reward/mean"] == pytest.approx(np.mean(kept), rel=1e-5)
    assert metrics["reward/std"] == pytest.approx(np.std(kept), rel=1e-5)


@pytest.mark.parametrize("kind", ["grpo", "ppo"])
def test_an_agent_learns_from_the_rest(kind):
    """As if the invalid rows had never been there."""
    rollout = failing().rollout
    results = []
    for rows in (rollout, rollout[rollout.valid.nonzero()[:, 0]]):
        policy = policy_of(critic=kind == "ppo")
        optim = OptimConfig(learning_rate=1e-3)
        optimizer = Optimizer(policy, optim, total_iterations=1, seed=0)
        config = GRPOConfig(optim=optim, scale_advantages="batch") if kind == "grpo" else PPOConfig(optim=optim)
        before = weights_of(policy)
        (GRPO if kind == "grpo" else PPO)(config, policy, optimizer).update(rows)
        assert distance(before, weights_of(policy)) > 5e-4
        results.append(weights_of(policy))
    assert distance(*results) < 1e-6


def test_metrics_of_a_rollout_by_hand():
    """Lengths, finish reasons and entropy against the Rollout itself."""
    found = collected(environment(stop_strings=["g"]))
    rollout, metrics = found.rollout, rollout_metrics(found)
    length = (rollout.length - rollout.prompt_length).double()
    assert metrics["completions/mean_length"] == pytest.approx(float(length.mean()))
    assert metrics["completions/min_length"] == float(length.min())
    assert metrics["completions/max_length"] == float(length.max())
    shares = {r: float((rollout.finish_reason == r).float().mean()) for r in FinishReason}
    assert metrics["finish/eos"] == pytest.approx(shares[FinishReason.EOS])
    assert metrics["finish/stop"] == pytest.approx(shares[FinishReason.STOP])
    assert metrics["completions/clipped_ratio"] == pytest.approx(shares[FinishReason.BUDGET])
    assert rollout.entropy is None
    assert metrics["entropy"] == pytest.approx(float(-rollout.sampled_logprob[rollout.mask].mean()))
    assert metrics["rewards/worth/mean"] == pytest.approx(metrics["reward/mean"])


def test_entropies_are_recorded_on_request_and_their_mean_is_near_that_of_what_was_drawn():
    """About 300 tokens whose -log p has a spread of 1 or less: within 0.25 with room to spare."""
    asked, plain = collected(with_entropy=True), collected()
    assert torch.equal(asked.rollout.tokens, plain.rollout.tokens)
    exact = rollout_metrics(asked)["entropy"]
    assert exact == pytest.approx(float(asked.rollout.entropy[asked.rollout.mask].mean()))
    assert rollout_metrics(plain)["entropy"] == pytest.approx(exact, abs=0.25)
    metrics = rollout_metrics(plain)
    assert metrics["rewards/worth/mean"] == pytest.approx(metrics["reward/mean"])


class Echo(Letters):
    """Repeats what was said behind every `d` and pays a hundredth for it; the problems of odd worth cannot begin."""

    turn_ends = ("d",)
    max_injected_tokens = 12

    def __init__(self, *, fails=False):
        self.fails = fails

    def converse(self, problem):
        if self.fails and problem.row["worth"] % 2:
            raise RuntimeError("nobody there")
        return self

    def reply(self, text):
        return Reply(text[:2] + "?", reward=0.01)


def conversing(rows=10, *, fails=False, mode=AutoresetMode.DISABLED):
    return TextVectorEnv(rows, autoreset_mode=mode, task=Echo(fails=fails), max_new_tokens=9, max_invalid_share=1.0)


@pytest.mark.parametrize("max_tokens", [3, 32])
def test_a_conversation_gives_one_rollout_however_much_is_proposed(max_tokens):
    one = collected(conversing(), max_tokens=1).rollout
    many = collected(conversing(), max_tokens=max_tokens).rollout
    assert_equal(one, many)
    injected = one.length - one.prompt_length - one.mask.sum(1)
    assert (injected > 0).sum() >= 3
    assert (one.mask.sum(1) <= 9).all()
    assert one.mask.shape[1] > one.max_tokens == 9  # what a token weighs depends on nobody's replies


@pytest.mark.parametrize("mode", [AutoresetMode.NEXT_STEP, AutoresetMode.SAME_STEP])
def test_a_conversation_gives_one_rollout_however_many_rows_there_are(mode):
    assert_equal(collected(conversing()).rollout, collected(conversing(3, mode=mode)).rollout)


def test_injected_tokens_are_neither_sampled_nor_paid_nor_trained_on():
    """And what the policy wrote behind a reply was sampled with the reply in sight: `evaluate` agrees."""
    policy = policy_of()
    rollout = collected(conversing(), policy).rollout
    column = torch.arange(rollout.mask.shape[1])
    injected = ~rollout.mask & (column < (rollout.length - rollout.prompt_length)[:, None])
    assert injected.any()
    assert (rollout.reward[injected] == 0).all()
    assert (rollout.sampled_logprob[injected] == 0).all()
    with torch.no_grad():
        again = policy.evaluate(rollout).logprob
    torch.testing.assert_close(again[rollout.mask], rollout.sampled_logprob[rollout.mask], atol=1e-4, rtol=0)


def test_episodes_that_could_not_begin_are_in_the_rollout_and_not_valid():
    done = collected(conversing(3, fails=True, mode=AutoresetMode.SAME_STEP))
    worth = [ended.sample.row["worth"] for ended in done.ended]
    assert worth == QUEUE.tolist()
    assert done.rollout.valid.tolist() == [k % 2 == 0 for k in worth]
    failed = ~done.rollout.valid
    assert (done.rollout.mask[failed].sum(1) == 1).all()
    assert (done.rollout.finish_reason[failed] == FinishReason.TASK).all()
    assert (done.rollout.reward[failed] == 0).all()

"""GRPO's family: each member's advantages, losses and gradients by hand, and which settings go together."""

import math
import re

import pytest
import test_learning
import torch
from small import distance, make_rollout, prompts_of, small_policy, weights_of
from test_grpo import Given, agent_of, four_answers
from test_optim import seven_rows

from agents.credit import counted
from agents.grpo import GRPOConfig
from agents.optim import OptimConfig
from agents.policy import Policy
from agents.policy.loading import TinyConfig, tiny_model
from agents.rollout import Rollout
from textenv import FinishReason

SUM = {"aggregation": "sequence_mean"}
PARTS = torch.tensor([[1.0, 3.0], [0.0, 3.0], [0.5, 1.0], [0.0, 0.0], [1.0, 1.0], [0.0, 2.0], [0.2, 0.0]])
FAMILY = {
    "dr_grpo": {"scale_advantages": "none", "optim": {"aggregation": "constant"}},
    "dapo": {"clip_high": 0.28},
    "gspo": {"ratio": "sequence", "clip_low": 3e-4, "clip_high": 4e-4, "optim": SUM},
    "cispo": {"objective": "cispo", "clip_low": 1.0, "clip_high": 4.0},
    "cispo of rows": {"objective": "cispo", "ratio": "sequence"},
    "rloo": {"baseline": "leave_one_out", "scale_advantages": "none", "ratio": "product", "optim": SUM},
    "rloo of tokens": {
        "baseline": "leave_one_out",
        "scale_advantages": "none",
        "objective": "plain",
        "optim": {"aggregation": "sequence_sum"},
    },
    "reinforce++": {"baseline": "none", "scale_advantages": "none", "returns": "to_go", "whiten_advantages": True},
    "reinforce++ baseline": {"scale_advantages": "none", "whiten_advantages": True},
    "gdpo": {"normalize_each_reward": True},
    "two-sided": {"ratio_cap": 4.0},
    "batch": {"baseline": "batch", "scale_advantages": "batch"},
    "masked": {"truncation": "mask"},
}
every_member = pytest.mark.parametrize("settings", FAMILY.values(), ids=list(FAMILY))


def member(policy=None, *, optim=None, **settings):
    optim = {"learning_rate": 1e-3, "epochs": 2, "minibatch_rows": 4} | (optim or {})
    return agent_of(policy or small_policy(), optim=OptimConfig(**optim), **settings)


def rows(**fields):
    """Seven rows of three problems, one of which does not vary; some are cut off."""
    reasons = torch.tensor([1, 3, 1, 1, 1, 1, 5])
    returns = [1.0, 0.4, 0.5, 0.3, 0.3, 0.9, 0.2]
    rollout = seven_rows(returns=returns, finish_reason=reasons, **fields)
    weight = torch.tensor([1.0, 0.5]).expand(7, 2).contiguous()
    return rollout.with_(parts=PARTS, part_weight=weight, budget=torch.full((7,), rollout.mask.shape[1]))


def learned(rollout, settings, **optim):
    agent = member(**settings | {"optim": settings.get("optim", {}) | optim})
    with torch.no_grad():
        acted = agent.policy.evaluate(rollout).logprob
    metrics = agent.update(rollout.with_(sampled_logprob=acted))
    return weights_of(agent.policy), metrics


@every_member
def test_rows_that_teach_nothing_are_left_out_without_a_trace(settings, monkeypatch):
    """Their objective is 0 with a gradient of 0, so computing them gives the same weights."""
    fast, metrics = learned(rows(), settings)
    monkeypatch.setattr("agents.grpo.agent.teaches_nothing", lambda advantage: torch.zeros(7, dtype=torch.bool))
    whole, _ = learned(rows(), settings)
    assert distance(fast, weights_of(small_policy())) > 1e-4
    assert distance(fast, whole) < 2e-6
    assert metrics["optimizer_steps"] >= 2


@every_member
def test_neither_the_order_of_rows_nor_padding_nor_microbatches_change_what_is_learned(settings):
    one_step = {"epochs": 2, "minibatch_rows": None}
    expected, metrics = learned(rows(), settings, **one_step)
    order = torch.tensor([3, 6, 1, 0, 5, 2, 4])
    wide = rows()
    wide = wide.with_(
        **{
            name: torch.nn.functional.pad(getattr(wide, name), (0, 3))
            for name in ("tokens", "mask", "sampled_logprob", "entropy", "reward")
        }
    )
    for changed, optim in ((rows()[order], {}), (wide, {}), (rows(), {"microbatch_tokens": 1})):
        found, others = learned(changed, settings, **one_step, **optim)
        assert distance(found, expected) < 2e-5
        assert others == pytest.approx(metrics, abs=1e-4)


def advantages(rollout, **settings):
    return agent_of(small_policy(), **settings).advantages(rollout)


def test_reinforce_plus_plus_by_hand():
    """The KL to the reference (.5 nats a token in row 1, at .1 each) is paid per token, the score on the last one:
    row 1 is paid -.05 and .95, row 2, whose KL is 0, nothing. To go: .9, .95 and 0, standardized over the three."""
    prompt = prompts_of((3,))[0]
    reference = torch.tensor([[-1.5, -1.5], [-1.0, 0.0]])
    rollout = make_rollout(
        [prompt, prompt],
        [[9, 10], [11]],
        returns=[1.0, 0.0],
        sampled_logprob=torch.full((2, 2), -1.0),
        reference_logprob=reference,
    )
    agent = agent_of(small_policy(), small_policy(), **FAMILY["reinforce++"], kl_coef=0.1, kl_in="reward", group_size=1)
    mean = (0.9 + 0.95) / 3
    std = math.sqrt((0.9**2 + 0.95**2) / 3 - mean**2)
    found = agent.advantages(rollout)
    expected = torch.tensor([[(0.9 - mean) / std, (0.95 - mean) / std], [-mean / std, 0.0]])
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


def test_the_baseline_form_of_reinforce_plus_plus_by_hand():
    """Groups {1, 0} and {.5, .5}: .5, -.5, 0, 0, of 1, 3, 2 and 2 tokens. Over the eight tokens the mean is
    (.5 - 1.5) / 8 = -1/8 and the mean square 1/8."""
    a, b = prompts_of((3, 4))
    responses = prompts_of((1, 3, 2, 2), seed=1)
    rollout = make_rollout([a, a, b, b], responses, problem=[0, 0, 1, 1], returns=[1.0, 0.0, 0.5, 0.5])
    found = advantages(rollout, **FAMILY["reinforce++ baseline"])
    std = math.sqrt(1 / 8 - 1 / 64)
    expected = torch.tensor([0.5, -0.5, 0.0, 0.0])[:, None].expand(4, 3)
    torch.testing.assert_close(found, torch.where(rollout.mask, (expected + 1 / 8) / std, 0.0))


def test_a_token_is_credited_with_what_comes_after_it_less_the_groups_mean():
    """Turns that are paid .5 and then 1, beside a row that is paid .5 at its end: the mean is 1."""
    prompt = prompts_of((3,))[0]
    rollout = make_rollout([prompt] * 2, [[9, 10, 11], [12]], problem=[0, 0])
    rollout = rollout.with_(reward=torch.tensor([[0.5, 0.0, 1.0], [0.5, 0.0, 0.0]]))
    found = advantages(rollout, returns="to_go", scale_advantages="none")
    assert found.tolist() == [[0.5, 0.0, 0.0], [-0.5, 0.0, 0.0]]
    paid_at_the_end = four_answers()
    torch.testing.assert_close(
        advantages(paid_at_the_end, returns="to_go", scale_advantages="none")[:, 0],
        advantages(paid_at_the_end, scale_advantages="none"),
    )


def test_parts_that_nobody_collected_are_asked_for():
    with pytest.raises(ValueError, match=r"the rollout has no parts: agents\.collect"):
        advantages(four_answers(), normalize_each_reward=True)


def given_rows(moves):
    """One problem, a row of two tokens and a row of one, and a policy that has moved by `moves` from -1 each."""
    prompt = prompts_of((3,))[0]
    rollout = make_rollout([prompt] * 2, [[9, 10], [11]], problem=[0, 0], old_logprob=torch.full((2, 2), -1.0))
    return Given([[-1 + moves[0], -1 + moves[1]], [-1 + moves[2], -1.0]]), rollout


def test_gspo_clips_a_row_by_its_mean():
    """Moves of .3 and -.1: the row's ratio exp(.1) is above 1.05 with A = 1: clipped, no slope. The other row's exp(.2)
    with A = -1 is not."""
    policy, rollout = given_rows((0.3, -0.1, 0.2))
    settings = FAMILY["gspo"] | {"clip_low": 0.05, "clip_high": 0.05, "optim": OptimConfig(**SUM)}
    result = agent_of(policy, **settings).loss(rollout, torch.tensor([1.0, -1.0]))
    assert result.loss[0].tolist() == pytest.approx([-1.05, -1.05])
    result.loss.sum().backward()
    assert policy.logprob.grad.flatten().tolist() == pytest.approx([0, 0, math.exp(0.2), 0])
    assert result.report["clip_ratio/high"].tolist() == [[1, 1], [0, 0]]


def test_the_product_of_a_row_by_hand():
    policy, rollout = given_rows((0.3, -0.1, 0.2))
    settings = FAMILY["rloo"] | {"clip_low": 0.5, "clip_high": 0.5, "optim": OptimConfig(**SUM)}
    result = agent_of(policy, **settings).loss(rollout, torch.tensor([1.0, -1.0]))
    ratio = math.exp(0.2)  # .3 - .1, and .2
    assert result.loss[0].tolist() == pytest.approx([-ratio, -ratio])
    (result.loss[0].sum() / 2 + result.loss[1, 0]).backward()
    assert policy.logprob.grad.flatten().tolist() == pytest.approx([-ratio, -ratio, ratio, 0])


def test_cispo_keeps_the_gradient_of_what_the_clip_would_drop():
    policy, rollout = given_rows((2.0, -2.0, 0.0))
    advantage = torch.tensor([1.0, -1.0])
    result = agent_of(policy, **FAMILY["cispo"]).loss(rollout, advantage)
    result.loss.sum().backward()
    # weights min(exp(2), 5) and exp(-2)
    assert policy.logprob.grad.flatten().tolist() == pytest.approx([-5.0, -math.exp(-2), 1.0, 0])
    assert result.report["clip_ratio/high"].tolist() == [[1, 0], [0, 0]]
    clipped, rollout = given_rows((2.0, -2.0, 0.0))
    agent_of(clipped).loss(rollout, advantage).loss.sum().backward()
    assert clipped.logprob.grad[0, 0] == 0


def test_the_two_sided_clip_ends_at_the_cap():
    policy, rollout = given_rows((2.0, 1.0, 2.0))
    result = agent_of(policy, ratio_cap=4.0).loss(rollout, torch.tensor([-1.0, -1.0]))
    result.loss.sum().backward()
    # exp(2) = 7.4 is capped, exp(1) = 2.7 is not
    assert result.loss[0].tolist() == pytest.approx([4.0, math.exp(1)])
    assert policy.logprob.grad.flatten().tolist() == pytest.approx([0, math.exp(1), 0, 0])
    assert result.report["clip_ratio/cap"].tolist() == [[1, 0], [1, 0]]


def test_without_a_clip_the_ratio_is_free():
    policy, rollout = given_rows((2.0, -2.0, 0.0))
    agent_of(policy, objective="plain").loss(rollout, torch.tensor([1.0, -1.0])).loss.sum().backward()
    assert policy.logprob.grad.flatten().tolist() == pytest.approx([-math.exp(2), -math.exp(-2), 1.0, 0])


def test_a_wider_clip_above_is_the_plain_one_where_both_sides_are_equal():
    same, _ = learned(rows(), {"clip_high": 0.2})
    plain, _ = learned(rows(), {})
    assert distance(same, plain) == 0


def test_gspo_of_rows_of_one_token_is_grpo():
    prompt = prompts_of((3,))[0]
    rollout = make_rollout([prompt] * 4, [[9], [10], [11], [12]], problem=[0] * 4, returns=[1.0, 0.8, 0.4, 0.2])
    several = {"learning_rate": 0.05, "epochs": 4, "minibatch_rows": None}
    token, _ = learned(rollout, {"optim": SUM}, **several)
    row, metrics = learned(rollout, {"ratio": "sequence", "optim": SUM}, **several)
    assert distance(token, row) < 1e-6
    assert metrics["clip_ratio"] > 0


REASONS = torch.tensor([FinishReason.EOS, FinishReason.BUDGET, FinishReason.CONTEXT, FinishReason.STOP])


def test_completions_that_were_cut_off_carry_no_loss_and_stay_in_their_groups_mean():
    rollout = four_answers(finish_reason=REASONS)
    kept, masked = (agent_of(small_policy(), truncation=how) for how in ("keep", "mask"))
    assert masked.advantages(rollout).tolist() == kept.advantages(rollout).tolist()
    assert counted(rollout, kept.config.truncation).valid.tolist() == [True] * 4
    assert counted(rollout, masked.config.truncation).valid.tolist() == [True, False, False, True]
    seen = []
    inner = masked.loss
    masked.loss = lambda some, advantage: seen.extend(some.episode.tolist()) or inner(some, advantage)
    metrics = masked.update(rollout)
    assert sorted(seen) == [0, 3]
    assert metrics["optimizer_steps"] == 1


def test_masking_leaves_the_tokens_of_the_others_the_weight_of_all():
    """A mean over the tokens that carry loss: the step is that of the two rows alone, with the advantages of four."""
    policy = small_policy()
    agent = agent_of(policy, truncation="mask", optim=OptimConfig(learning_rate=1e-3))
    agent.update(four_answers(finish_reason=REASONS))
    alone = agent_of(small_policy(), optim=OptimConfig(learning_rate=1e-3))
    alone.advantages = lambda rollout: torch.tensor([1.264911, -1.264911])
    alone.update(four_answers(finish_reason=REASONS)[torch.tensor([0, 3])])
    assert distance(weights_of(policy), weights_of(alone.policy)) < 1e-6


@pytest.mark.parametrize("kl", [{}, {"kl_coef": 0.5}])
def test_a_minibatch_and_a_rollout_of_nothing_but_cut_completions_are_no_step(kl):
    cut = torch.full((4,), int(FinishReason.BUDGET))
    policy = small_policy()
    before = weights_of(policy)
    agent = agent_of(policy, small_policy(seed=3) if kl else None, truncation="mask", **kl)
    metrics = agent.update(four_answers(finish_reason=cut))
    assert distance(before, weights_of(policy)) == 0
    assert metrics["optimizer_steps"] == 0
    assert all(math.isfinite(x) for x in metrics.values())
    one_group_cut = rows().with_(finish_reason=torch.where(rows().problem == 0, 3, 1))
    _, metrics = learned(one_group_cut, {"truncation": "mask"}, epochs=1, minibatch_rows=1)
    assert metrics["optimizer_steps"] == 1  # problem 1; problem 0 is cut, problem 2 does not vary


def test_the_share_of_groups_without_variance_is_that_of_what_was_paid():
    """Also where the KL to a reference has made every return a little different."""
    policy = small_policy()
    agent = agent_of(policy, small_policy(seed=3), kl_coef=0.1, kl_in="reward", scale_advantages="none")
    assert agent.update(four_answers((0.5,) * 4))["groups/zero_variance_share"] == 1


NONSENSE = [
    ({"baseline": "mean"}, "agent.baseline must be one of group, leave_one_out, batch, none"),
    ({"objective": "spo"}, "agent.objective must be one of clip, cispo, plain"),
    ({"ratio": "row"}, "agent.ratio must be one of token, sequence, product"),
    ({"returns": "all"}, "agent.returns must be one of episode, to_go"),
    ({"truncation": "drop"}, "agent.truncation must be one of keep, mask"),
    ({"resample_rounds": -1}, "agent.resample_rounds must be at least 0"),
    ({"group_size": 1, "baseline": "leave_one_out"}, "agent.group_size must be at least 2"),
    (
        {"group_size": 1, "baseline": "none", "scale_advantages": "none", "resample_rounds": 2},
        "agent.group_size must be at least 2 with agent.resample_rounds=2",
    ),
    (
        {"group_size": 1, "prompts": 1, "baseline": "batch", "scale_advantages": "none"},
        "agent.prompts must be at least 2 with agent.group_size=1 (a completion is compared with the batch)",
    ),
    ({"resample_ignores": ["length"]}, "agent.resample_rounds must be at least 1 for agent.resample_ignores"),
    ({"baseline": "none"}, "agent.scale_advantages must be batch or none with agent.baseline=none"),
    ({"baseline": "batch"}, "agent.scale_advantages must be batch or none with agent.baseline=batch"),
    (
        {"scale_advantages": "batch", "whiten_advantages": True},
        "agent.scale_advantages must be group or none with agent.whiten_advantages=true",
    ),
    ({"returns": "to_go"}, "agent.scale_advantages must be none with agent.returns=to_go"),
    (
        {"returns": "to_go", "scale_advantages": "none", "ratio": "sequence"},
        "agent.ratio must be token with agent.returns=to_go",
    ),
    (
        {"normalize_each_reward": True, "scale_advantages": "none"},
        "agent.scale_advantages must be group with agent.normalize_each_reward=true",
    ),
    (
        {"normalize_each_reward": True, "whiten_advantages": True},
        "agent.whiten_advantages must be false with agent.normalize_each_reward=true",
    ),
    (
        {"normalize_each_reward": True, "kl_in": "reward", "kl_coef": 0.1},
        "agent.kl_in must be loss with agent.normalize_each_reward=true",
    ),
    (
        {"kl_in": "reward", "kl_coef": 0.1},
        "agent.scale_advantages must be batch or none with agent.kl_in=reward (where all of a group are paid the same",
    ),
    ({"kl_in": "both", "kl_coef": 0.1}, "agent.scale_advantages must be batch or none with agent.kl_in=both"),
    ({"ratio_cap": 4.0, "objective": "cispo"}, "agent.ratio_cap must be null with agent.objective=cispo"),
    ({"ratio_cap": 1.2}, "agent.ratio_cap must be above 1 + agent.clip_high = 1.2"),
    ({"ratio": "sequence", "sampler_correction": 2.0}, "agent.sampler_correction must be null with agent.ratio=seq"),
    ({"ratio": "product"}, "agent.optim.aggregation must be sequence_mean with agent.ratio=product"),
]


@pytest.mark.parametrize(("settings", "message"), NONSENSE, ids=lambda x: str(x)[:40])
def test_settings_that_do_not_go_together_are_refused_with_the_reason_and_the_value(settings, message):
    with pytest.raises(ValueError, match=f"^{re.escape(message)}.*got "):
        GRPOConfig(**settings)


def test_one_completion_a_problem_is_enough_where_nothing_is_compared_with_its_group():
    assert GRPOConfig(group_size=1, baseline="batch", scale_advantages="batch").group_size == 1


def test_cut_is_what_the_budget_or_the_context_ended():
    rollout: Rollout = four_answers(finish_reason=REASONS)
    assert rollout.cut.tolist() == [False, True, True, False]


# Mean reward of the first and of the last five of 40 iterations on a task that is learned from scratch (1.0 is
# perfect), two epochs of minibatches of 32, seeds 0 to 2:
# grpo .16-.99 .14-1.0 .13-1.0    dr_grpo .99 .98 .99    dapo .97 1.0 .99    gspo .97 .98 .99    cispo .82 1.0 1.0
# rloo .98 .99 .98    reinforce++ .99 .99 1.0    its baseline form 1.0 .99 1.0    gdpo .99 1.0 1.0
# two-sided .99 1.0 1.0    batch 1.0 1.0 1.0    masked .14 .20 .15: there every answer ends at the budget
@pytest.mark.parametrize("name", ["rloo", "reinforce++"])
def test_a_member_learns_to_repeat_a_digit(name, monkeypatch):
    def make_agent(kind, env, seed, lora):
        settings = dict(FAMILY[name])
        vocabulary = len(env.tokenizer)
        model = tiny_model(vocabulary, TinyConfig(32, 2, 4, 32), seed=seed, device=torch.device("cpu"))
        policy = Policy(model, num_actions=vocabulary)
        policy.reset(seed=seed)
        optim = {"learning_rate": 3e-3, "epochs": 2, "minibatch_rows": 32} | settings.pop("optim", {})
        return agent_of(policy, optim=OptimConfig(**optim), **settings)

    monkeypatch.setattr(test_learning, "make_agent", make_agent)
    monkeypatch.setattr(test_learning, "ITERATIONS", {"grpo": 25})
    before, after = test_learning.reward_after_training("grpo", 0)
    assert before < 0.3
    assert after > 0.7

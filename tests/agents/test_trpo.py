"""TRPO on tiny random policies: the Fisher matrix, the bound, what moves and what does not."""

import copy
import json
import math

import pytest
import torch
from finished_runs import finish_run
from small import distance, make_rollout, prompts_of, soiled, weights_of, widened, with_critic
from test_optim import seven_rows

from agents.chat import ChatConfig, build_chat, converse
from agents.config import PolicyConfig
from agents.evaluate import EvaluateConfig, evaluate
from agents.export import export
from agents.kl import k3
from agents.optim import OptimConfig, Optimizer, TokenLoss
from agents.policy.loading import TinyConfig
from agents.trpo import TRPO, TRPOConfig
from agents.trpo.agent import some_problems
from agents.trpo.trust_region import fisher_product, natural_step
from agents.trpo.weights import read, take_gradient, write
from rewards.preference.lora import LoraConfig

ACTIONS = 35


def agent_of(policy=None, *, optim=None, **settings):
    policy = policy or with_critic()
    optim = OptimConfig(**{"learning_rate": 0.01} | (optim or {}))
    config = TRPOConfig(optim=optim, **{"conjugate_gradient_steps": 4} | settings)
    return TRPO(config, policy, Optimizer(policy, optim, total_iterations=4, seed=0))


def judged(policy, rollout):
    """The rollout with its own policy's log-probabilities."""
    with torch.no_grad():
        return rollout.with_(old_logprob=policy.evaluate(rollout).logprob)


def every_action():
    """One prompt and every answer of one token."""
    return make_rollout(prompts_of((3,)) * ACTIONS, [[token] for token in range(ACTIONS)], problem=[0] * ACTIONS)


def scores_of(agent, rollout):
    """The gradient of each row's log-probability, one row each; first derivatives only."""

    def loss(rows):
        return TokenLoss(agent.policy.evaluate(rollout[rows]).logprob)

    parameters, found = agent.surface(rollout, rollout.reward).parameters, []
    for row in range(len(rollout)):
        agent.optimizer.accumulate(loss, rollout, torch.tensor([row]))
        found.append(take_gradient(parameters))
    return torch.stack(found)


def test_the_fisher_product_is_that_of_the_policy_with_all_its_actions_summed():
    """F = sum of p(a) s(a) s(a)' with the scores s: the KL of every action, weighted by its probability."""
    agent = agent_of()
    rollout = judged(agent.policy, every_action())
    mass = rollout.old_logprob.exp()
    assert float(mass.sum()) == pytest.approx(1, abs=1e-5)
    scores = scores_of(agent, rollout)
    matrix_root = scores * mass.sqrt()
    surface = agent.surface(rollout, rollout.reward)
    start = surface.here()

    def kl_gradient(weights):
        surface.put(weights)

        def loss(rows):
            return TokenLoss(
                agent.kl_loss(rollout[rows]).loss * mass[rows] * ACTIONS
            )  # the mean divides by their number

        agent.optimizer.accumulate(loss, rollout, torch.arange(ACTIONS))
        return take_gradient(surface.parameters)

    generator = torch.Generator().manual_seed(1)
    for vector in (scores[3], torch.randn(start.shape, generator=generator)):
        expected = matrix_root.T @ (matrix_root @ vector)
        found = fisher_product(kl_gradient, start, vector, radius=2e-3)
        assert float((found - expected).norm() / expected.norm()) < 5e-3


def test_the_fisher_product_of_a_rollout_is_the_mean_outer_product_of_its_scores():
    agent = agent_of(optim={"microbatch_tokens": 20})
    rollout = judged(agent.policy, make_rollout(prompts_of((3, 5, 4)), [[9], [10], [11]]))
    scores = scores_of(agent, rollout)
    surface = agent.surface(rollout, rollout.reward)
    start = surface.here()
    for vector in (scores[0], scores.sum(0)):
        expected = scores.T @ (scores @ vector) / 3
        found = fisher_product(surface.kl_gradient, start, vector, radius=2e-3)
        assert float((found - expected).norm() / expected.norm()) < 5e-3


def advantages_of(rollout):
    return torch.where(rollout.mask, torch.linspace(-1, 1, len(rollout))[:, None], 0.0)


def test_the_first_step_has_the_kl_of_the_bound_to_the_first_order():
    agent = agent_of()
    rollout = judged(agent.policy, seven_rows())
    surface = agent.surface(rollout, advantages_of(rollout))
    start, (gradient, _) = surface.here(), surface.ascent()
    for bound, tolerance in ((1e-3, 0.2), (1e-5, 0.05)):
        step, _ = natural_step(
            start,
            gradient,
            kl=surface.kl,
            kl_gradient=surface.kl_gradient,
            max_kl=bound,
            damping=0.1,
            steps=10,
            tolerance=1e-3,
        )
        assert surface.kl(start + step) == pytest.approx(bound, rel=tolerance)


def kl_between(rollout, before, policy):
    """Mean over the tokens, by the formula."""
    with torch.no_grad():
        new = policy.evaluate(rollout).logprob
    return float(k3(before, new)[rollout.trainable].mean())


@pytest.mark.parametrize(("bound", "separate"), [(1e-4, False), (1e-2, True), (1.0, False)])
def test_an_update_improves_the_surrogate_and_stays_within_the_bound(bound, separate):
    agent, rollout = agent_of(with_critic(separate=separate), max_kl=bound), seven_rows()
    before = judged(agent.policy, rollout).old_logprob
    metrics = agent.update(rollout)
    assert metrics["line_search/accepted"] == 1
    assert metrics["line_search/improvement"] > 0
    found = kl_between(rollout, before, agent.policy)
    assert bound / 10 < found <= bound * 1.001
    assert metrics["approx_kl"] == pytest.approx(found, rel=1e-2)
    assert metrics["conjugate_gradient/residual"] < 0.5


def moved_by(agent, rollout):
    before = weights_of(agent.policy)
    metrics = agent.update(rollout)
    after = weights_of(agent.policy)
    return {name.split(".")[0] for name in before if not torch.equal(before[name], after[name])}, metrics


class NeverBetter(TRPO):
    """Where the policy has moved, the surrogate is worse than where it was."""

    def loss(self, rollout, advantage):
        found, now = super().loss(rollout, advantage), read(list(self.optimizer.actor.masters.values()))
        self.start = getattr(self, "start", now)
        return TokenLoss(found.loss + 10.0 * (not torch.equal(now, self.start)), found.report, found.logprob)


@pytest.mark.parametrize("separate", [False, True])
def test_where_no_step_is_acceptable_the_policy_stays_bit_for_bit_and_the_critic_learns(separate):
    policy = with_critic(separate=separate)
    agent = agent_of(policy)
    agent = NeverBetter(agent.config, policy, agent.optimizer)
    moved, metrics = moved_by(agent, seven_rows())
    assert moved == ({"critic_model", "value_head"} if separate else {"value_head"})
    assert (metrics["line_search/accepted"], metrics["line_search/backtracks"], metrics["approx_kl"]) == (0, 10, 0)


def test_the_step_moves_the_policy_and_the_value_loss_the_critic():
    assert moved_by(agent_of(), seven_rows())[0] == {"model", "value_head"}
    assert moved_by(agent_of(with_critic(separate=True)), seven_rows())[0] == {"model", "critic_model", "value_head"}


def test_adam_keeps_nothing_of_the_actor():
    agent = agent_of(optim={"weight_decay": 0.1})
    agent.update(seven_rows())
    kept = {id(parameter) for parameter in agent.optimizer.adam.state}
    assert kept == {id(master) for master in agent.optimizer.critic.masters.values()}


def test_equal_advantages_and_no_valid_row_move_nothing():
    agent = agent_of(optim={"learning_rate": 0.0})
    moved, metrics = moved_by(agent, seven_rows(valid=torch.zeros(7, dtype=torch.bool)))
    assert (moved, metrics["line_search/accepted"], metrics["approx_kl"]) == (set(), 0, 0)


def test_neither_padding_nor_microbatches_nor_what_is_never_read_change_the_step():
    """Differences of gradients that lie close together amplify rounding, here to 2e-7."""

    def stepped(rollout, **optim):
        agent = agent_of(optim={"learning_rate": 0.0} | optim, conjugate_gradient_steps=2)
        start = weights_of(agent.policy)
        agent.update(soiled(rollout, agent.policy))
        return start, weights_of(agent.policy)

    start, expected = stepped(seven_rows())
    assert distance(start, expected) > 3e-3
    assert distance(stepped(widened(seven_rows(), 6))[1], expected) < 3e-6
    assert distance(stepped(seven_rows(), microbatch_tokens=20)[1], expected) < 3e-6


def test_the_curvature_may_be_measured_on_some_of_the_problems():
    problem = torch.tensor([0, 1, 0, 2, 2, 1, 0])
    assert some_problems(problem, 1.0).tolist() == [0, 1, 2, 3, 4, 5, 6]
    assert some_problems(problem, 0.5).tolist() == [0, 1, 2, 5, 6]
    assert some_problems(problem, 0.01).tolist() == [0, 2, 6]
    agent, seen = agent_of(fisher_share=0.3), []
    inner = agent.kl_loss
    agent.kl_loss = lambda rows: seen.extend(rows.problem.tolist()) or inner(rows)
    metrics = agent.update(seven_rows())
    assert set(seen) == {0}
    assert metrics["line_search/accepted"] == 1


def test_truncation_is_handled_as_in_ppo():
    rollout = seven_rows(finish_reason=torch.tensor([3, 1, 1, 1, 1, 1, 5]))
    rollout = rollout.with_(value=torch.zeros(7, 8), final_value=torch.zeros(7))
    plain = agent_of(whiten_advantages=False, lam=0.0).advantages(rollout)[1].sum(1)
    penalty = agent_of(whiten_advantages=False, lam=0.0, truncation="penalty", truncation_penalty=0.25)
    off = plain - penalty.advantages(rollout)[1].sum(1)
    assert off.tolist() == pytest.approx([0.25, 0, 0, 0, 0, 0, 0.25])
    masked = agent_of(whiten_advantages=False, lam=0.0, truncation="mask").advantages(rollout)[1].sum(1)
    assert masked.tolist() == pytest.approx([0, *plain[1:6].tolist(), 0])


def test_a_policy_in_bfloat16_is_refused_with_the_reason():
    policy = with_critic()
    optimizer = Optimizer(policy, OptimConfig(), total_iterations=1, seed=0, dtype=torch.bfloat16)
    with pytest.raises(ValueError, match=r"agent=trpo needs policy\.precision=float32 .*got bfloat16"):
        TRPO(TRPOConfig(), policy, optimizer)


def test_a_gradient_that_is_no_number_is_an_error_and_changes_no_weight():
    agent = agent_of()
    before = weights_of(agent.policy)
    inner = agent.loss
    agent.loss = lambda rows, advantage: TokenLoss(inner(rows, advantage).loss * math.nan)
    with pytest.raises(FloatingPointError, match=r"the loss of rows .* is nan"):
        agent.update(seven_rows())
    assert distance(before, weights_of(agent.policy)) == 0


def test_an_error_in_the_middle_of_a_step_leaves_the_old_weights():
    agent = agent_of()
    before = weights_of(agent.policy)
    inner = agent.kl_loss

    def broken(rows):
        found = inner(rows)
        return TokenLoss(found.loss * math.nan if found.loss.requires_grad else found.loss)

    agent.kl_loss = broken
    with pytest.raises(FloatingPointError, match=r"the loss of rows .* is nan"):
        agent.update(seven_rows())
    assert distance(before, weights_of(agent.policy)) == 0


def test_a_state_that_was_loaded_goes_on_as_if_nothing_had_happened():
    straight = agent_of()
    straight.update(seven_rows())
    state = copy.deepcopy(straight.state())
    expected = straight.update(seven_rows())
    resumed = agent_of()
    resumed.load(state)
    assert resumed.update(seven_rows()) == expected
    assert distance(weights_of(resumed.policy), weights_of(straight.policy)) == 0


def test_weights_are_written_bit_for_bit():
    parameters = [torch.nn.Parameter(torch.randn(shape)) for shape in ((2, 3), (4,), (1, 1))]
    flat = read(parameters)
    assert flat.shape == (11,)
    expected = [p.detach().clone() for p in parameters]
    write(parameters, flat * 3 + 1)
    assert not torch.equal(parameters[0], expected[0])
    write(parameters, flat)
    assert all(torch.equal(p, e) for p, e in zip(parameters, expected, strict=True))


def test_a_run_under_an_adapter_with_a_reference_is_examined_exported_and_talked_to(tmp_path):
    """The whole way; `precision=auto` is float32, whatever the machine could do."""
    tiny = TinyConfig(hidden_size=16, num_layers=1, num_heads=2)
    agent = TRPOConfig(prompts=2, group_size=4, kl_coef=0.1, conjugate_gradient_steps=3)
    run = finish_run(tmp_path, agent=agent, policy=PolicyConfig("tiny", tiny=tiny, lora=LoraConfig(rank=2)))
    records = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert any(record["line_search/accepted"] for record in records)
    assert all(record["approx_kl"] <= 0.01 for record in records)
    assert all("kl" in record for record in records)
    summary = json.loads((run / "summary.json").read_text())
    assert summary["precision"] == "float32"
    assert evaluate(EvaluateConfig(run=str(run), samples=0))[0]["accuracy"] == summary["accuracy"]["after"]
    assert "with TRPO on" in (export(str(run), str(tmp_path / "model"), say=str) / "README.md").read_text()
    written = []
    converse(build_chat(ChatConfig(run=str(run), seed=0, greedy=True), str), ["1="], written.append)
    assert written

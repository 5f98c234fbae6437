"""Every rule on a run that shows it, made by the real loop; and a healthy run, at which none is alarmed."""

import json
import sys
from dataclasses import replace
from statistics import fmean

import pytest
from finished_runs import finish_run

from agents.config import EnvConfig, EvaluationConfig, LoggingConfig, PolicyConfig
from agents.doctor import ALARM, NOTE, History, Setting, Watch, examine, lines_of
from agents.doctor.__main__ import main
from agents.doctor.folder import history_of
from agents.doctor.report import RULES
from agents.doctor.rewards import group_size_for, varied_share
from agents.grpo import GRPOConfig
from agents.optim import OptimConfig
from agents.policy.loading import TinyConfig
from agents.ppo import PPOConfig
from agents.trpo import TRPOConfig


def adam(learning_rate, **settings):
    return OptimConfig(learning_rate=learning_rate, **settings)


def grpo(prompts, group_size, learning_rate, **settings):
    return {"agent": GRPOConfig(prompts=prompts, group_size=group_size, optim=adam(learning_rate), **settings)}


def part(name, **settings):
    """A part of a reward out of `odd_rewards`."""
    return {"fn": {"_target_": f"odd_rewards.{name}", **settings}}


def every(iterations):
    return {"evaluation": EvaluationConfig(every=iterations, samples=0)}


def tokens(count, **settings):
    return {"env": EnvConfig(max_new_tokens=count, **settings)}


def history(tmp_path, *, iterations, **changes):
    """What the doctor reads of a run with these settings."""
    settings = {"checkpoint_every": 1000, "keep_checkpoints": 1, **every(0), "iterations": iterations, **changes}
    return history_of(str(finish_run(tmp_path, **settings)))


def found(history):
    """Rule -> what it says and advises, at the end."""
    return {finding.rule: f"{finding.says} -> {finding.advice}" for finding in examine(history)}


def ever(history, rule, level=ALARM):
    """Whether a rule spoke up after any of the iterations."""
    pasts = (History(history.records[:count], history.setting) for count in range(1, len(history.records) + 1))
    return any((finding.rule, finding.level) == (rule, level) for past in pasts for finding in examine(past))


def command(monkeypatch, *arguments):
    """`python -m agents.doctor` in this process: its exit status."""
    monkeypatch.setattr(sys, "argv", ["doctor", *arguments])
    with pytest.raises(SystemExit) as stop:
        main()
    return int(stop.value.code)


def test_a_healthy_run_alarms_no_rule_at_any_iteration(tmp_path):
    told = history(tmp_path, iterations=35, **grpo(4, 16, 2e-2), **every(5), **tokens(24))
    assert told.records[-1]["eval/accuracy"] == 1
    for count in range(1, len(told.records) + 1):
        alarms = [f for f in examine(History(told.records[:count], told.setting)) if f.level == ALARM]
        assert alarms == [], count
    assert ever(told, "solved", NOTE)
    assert ever(told, "loss_is_zero", NOTE)


def test_cut_answers(tmp_path):
    """A random policy over six characters and an end token: of three tokens six sevenths or more are cut."""
    told = history(
        tmp_path, iterations=8, task={"_target_": "small.Echo", "length": 3}, **grpo(2, 8, 1e-4), **tokens(1)
    )
    text = found(told)["truncated"]
    assert "% of the completions are truncated: the score is measured on cut answers (env.max_new_tokens=1)" in text
    assert "raise env.max_new_tokens" in text


def test_a_reward_that_is_always_0_and_one_that_is_constant(tmp_path):
    of = {value: {"constant": part("Constant", value=value)} for value in (0.0, 0.5)}
    told = history(tmp_path / "0", iterations=5, reward=of[0.0])
    assert "no completion of the last 5 iterations scored anything" in found(told)["nothing_scored"]
    assert {"constant_reward", "groups_alike", "hardly_moved"}.isdisjoint(found(told))
    told = history(tmp_path / "1", iterations=5, reward=of[0.5])
    assert "worth the same, 0.5" in found(told)["constant_reward"]
    assert {"nothing_scored", "groups_alike"}.isdisjoint(found(told))


def test_a_learning_rate_of_0_in_groups_of_two(tmp_path):
    """One in seven is right, so 1 - (1/7)^2 - (6/7)^2 = 24 % of the groups vary; of four 46, of five 54 %."""
    told = history(tmp_path, iterations=25, **grpo(8, 2, 0.0), **every(5))
    says = found(told)
    assert "learning rate was 0" in says["hardly_moved"]
    assert "has not moved in 6 examinations" in says["held_out_still"]
    assert "nor does the reward rise" in says["held_out_still"]
    rate = sum(record["reward/mean"] for record in told.records[-10:]) / 10
    alike = sum(record["groups/zero_variance_share"] for record in told.records[-10:]) / 10
    assert f"{alike:.0%} of the groups have no variance" in says["groups_alike"]
    assert (
        f"raise agent.group_size from 2 to {group_size_for(rate)} (at the measured success rate" in says["groups_alike"]
    )


def test_the_group_size_at_which_half_of_the_groups_vary():
    assert varied_share(1 / 7, 2) == pytest.approx(12 / 49)
    assert (varied_share(1 / 7, 4), varied_share(1 / 7, 5)) == pytest.approx((0.4598, 0.5373), abs=1e-4)
    assert group_size_for(1 / 7) == group_size_for(6 / 7) == 5


def test_a_policy_that_stays_where_it_was(tmp_path):
    told = history(tmp_path / "reference", iterations=10, **grpo(2, 8, 1e-9, kl_coef=0.1))
    assert "nats a token from where it began, after 10 iterations" in found(told)["hardly_moved"]
    slow = PPOConfig(prompts=2, group_size=8, optim=adam(1e-9, critic_learning_rate=1e-2, epochs=2))
    told = history(tmp_path / "old", iterations=10, agent=slow)
    assert "an update moves the policy by" in found(told)["hardly_moved"]
    assert "raise agent.optim.learning_rate (now 1e-09)" in found(told)["hardly_moved"]


def test_steps_that_are_far_too_long(tmp_path):
    optim = adam(0.3, critic_learning_rate=1.0, epochs=2, minibatch_rows=8, max_grad_norm=1e-3)
    agent = PPOConfig(prompts=4, group_size=8, optim=optim)
    told = history(tmp_path, iterations=12, agent=agent, **tokens(6))
    assert "agent.optim.max_grad_norm=0.001" in found(told)["gradient_clipped"]
    for rule in ("gradient_clipped", "clip_share_high", "steps_long", "critic_knows_nothing"):
        assert ever(told, rule), rule


def test_a_loss_that_is_not_finite(tmp_path):
    """The first step goes to where the next one's logits are no numbers any more."""
    agent = PPOConfig(prompts=2, group_size=4, optim=adam(1e25, max_grad_norm=1e30))
    with pytest.raises(FloatingPointError, match="the state and the rollout are in"):
        history(tmp_path, iterations=3, agent=agent, logging=LoggingConfig(tensorboard=False))
    told = history_of(str(tmp_path / "run"))
    assert "a loss or a gradient of iteration 2 was not finite" in found(told)["loss_not_finite"]
    later = [*told.records, {"iteration": 2}]  # resumed, and past it
    assert "loss_not_finite" not in found(History(later, told.setting))


def test_updates_that_are_all_ended_early(tmp_path):
    optim = adam(0.01, critic_learning_rate=1e-2, epochs=4, minibatch_rows=8)
    told = history(tmp_path, iterations=5, agent=PPOConfig(prompts=2, group_size=8, max_kl_old=1e-5, optim=optim))
    says = found(told)["ended_early"]
    assert "(agent.max_kl_old=1e-05) ended 100% of the updates, after 1.0 optimizer steps" in says
    assert "not every completion has been in one" in says  # of two minibatches the first
    assert ever(told, "ended_early")
    whole = History(told.records, replace(told.setting, epoch_steps=1))
    assert ever(whole, "ended_early", NOTE)
    assert not ever(whole, "ended_early")


def test_answers_that_all_have_the_budgets_length_are_no_alarm_and_partial_credit_comes_first(tmp_path):
    """Two right digits are rewarded one by one, and an answer needs neither its end nor more room; for 5 examinations
    no answer is right as a whole."""
    task = {"_target_": "small.Echo", "length": 2}
    told = history(tmp_path, iterations=24, task=task, **grpo(4, 8, 1e-2), **tokens(2), **every(5))
    cut = [record | {"completions/clipped_ratio": 0.991 + 0.001 * (i % 5)} for i, record in enumerate(told.records)]
    early = [record | {"eval/accuracy": 0.0} if "eval/accuracy" in record else record for record in cut]
    says = {finding.rule: finding for finding in examine(History(early, told.setting))}
    assert says["truncated"].level == NOTE
    assert says["truncated"].says == "nearly every completion ends with its budget (env.max_new_tokens=2)"
    assert says["held_out_still"].level == NOTE
    assert "still 0.00 while the reward rises" in says["held_out_still"].says


def test_lengths_that_collapse_or_explode_while_the_reward_stays(tmp_path):
    for sign, rule, words in (
        (-1, "length_collapsed", "Completions fell from"),
        (1, "length_exploded", "Completions grew"),
    ):
        reward = {"relative": part("Relative", sign=sign)}
        told = history(tmp_path / rule, iterations=16, reward=reward, **grpo(4, 8, 0.02, kl_coef=1e-6), **tokens(20))
        assert rule in found(told)
        assert any(words in line for line in lines_of(examine(told)))
        if sign == -1:  # to end at once is all that it does
            assert "the policy hardly tries anything new" in found(told)["entropy_fell"]
            assert ever(told, "kl_runs_away")


def test_a_reward_that_turns_against_what_is_examined_and_watched(tmp_path):
    """15 iterations of 64 completions are paid for right answers, the next for wrong ones, and better."""
    reward = {"turning": part("Turning", calls=960), "right": {"weight": 0, "fn": {"_target_": "small.ShareRight"}}}
    told = history(tmp_path, iterations=28, reward=reward, **grpo(4, 16, 0.02), **every(5), **tokens(1))
    says = found(told)
    assert "while held-out accuracy falls (1.00 at iteration" in says["over_optimized"]
    assert "checkpoint=best" in says["over_optimized"]
    assert "while 'right', which is only watched, falls" in says["watched_falls"]
    assert "held_out_still" not in says


def test_a_grader_that_is_slow_and_hangs(tmp_path):
    reward = {"dozing": {"execution": "process", **part("dozing", _partial_=True)}}
    limits = tokens(6, timeout_seconds=0.1, max_invalid_share=1.0)
    told = history(tmp_path, iterations=5, reward=reward, **grpo(2, 4, 1e-3), **limits)
    says = found(told)
    assert "part 'dozing' ran into its time limit of 0.1 s" in says["grader_timeouts"]
    assert "could not be graded and are left out; the run ends at 100%" in says["ungraded"]
    assert "rewards are being computed during" in says["waits_for_rewards"]
    assert "env.scoring=deferred" in says["waits_for_rewards"]
    # The same seconds beside decoding that takes no longer, so that it is waited for, and half as long again.
    for factor, waits in ((1.0, True), (1.5, False)):
        records = [record | {"time/collect": factor * record["scoring/seconds"]} for record in told.records[1:]]
        late = found(History(records, replace(told.setting, scoring="deferred")))
        assert ("waits_for_rewards" in late) is waits
        assert "env.scoring=deferred" not in late.get("waits_for_rewards", "")


def test_a_sampler_near_its_limit(tmp_path):
    """In bfloat16 sampler and update differ by 0.001 to 0.003 nats a token here: nothing, but for a limit as near."""
    policy = PolicyConfig("tiny", precision="bfloat16", tiny=TinyConfig(hidden_size=16, num_layers=1, num_heads=2))
    told = history(tmp_path, iterations=7, policy=policy, **grpo(4, 16, 0.1), **tokens(6))
    assert told.setting.mismatch_limit == 0.25
    assert "sampler_mismatch" not in found(told)
    difference = fmean(record["sampling/logprob_difference/mean"] for record in told.records[1:])
    assert difference > 1e-4
    near = replace(told.setting, mismatch_limit=1.5 * difference)
    says = found(History(told.records, near))["sampler_mismatch"]
    assert f"by {difference:.2g} nats a token; the run refuses to go on at {1.5 * difference:g}" in says


def test_a_line_search_that_refuses_most_steps(tmp_path):
    """One length to try, and a trust region in which the KL is nothing like a parabola any more."""
    agent = TRPOConfig(prompts=4, group_size=8, max_kl=20.0, line_search_steps=1, optim=adam(1e-2))
    told = history(tmp_path, iterations=8, agent=agent)
    refused = [1 - record["line_search/accepted"] for record in told.records[1:]]
    says = found(told)
    assert 0.5 <= fmean(refused) < 1
    assert f"refused {fmean(refused):.0%} of the steps" in says["steps_refused"]
    assert "lower agent.max_kl or raise agent.line_search_steps" in says["steps_refused"]
    assert says["steps_long"].endswith("lower agent.max_kl")  # it has no epochs, and no learning rate of the policy's


def test_groups_that_dynamic_sampling_replaces_until_its_rounds_are_spent(tmp_path):
    """Of pairs of which one in seven is right 24 % vary: 8 of them and a round more hold 4, and the rest is missing."""
    told = history(tmp_path, iterations=6, **grpo(8, 2, 0.0, resample_rounds=1), **tokens(1))
    recent = told.records[1:]
    assert {record["groups/rounds"] for record in recent} == {2.0}
    assert all(record["groups/zero_variance_share"] == 0 for record in recent)  # of those that are left
    dropped = fmean(record["groups/dropped_share"] for record in recent)
    assert dropped == pytest.approx(0.76, abs=0.15)
    says = found(told)["groups_alike"]
    assert f"{dropped:.0%} of the groups have no variance and are replaced" in says
    assert "raise agent.group_size from 2 to" in says


def test_groups_of_one_are_compared_with_the_batch_and_not_with_themselves(tmp_path):
    told = history(tmp_path, iterations=6, **grpo(16, 1, 1e-2, baseline="batch", scale_advantages="batch"))
    assert "groups_alike" not in found(told)
    assert "groups_alike" in found(History(told.records, replace(told.setting, compares_groups=True)))


def test_a_critic_that_is_warmed_up_holds_the_policy_still_on_purpose(tmp_path):
    agent = PPOConfig(prompts=2, group_size=8, critic_warmup=11, optim=adam(1e-2, critic_learning_rate=1e-2))
    told = history(tmp_path, iterations=12, agent=agent)
    assert [record["learning_rate"] for record in told.records[1:]] == [0.0] * 11 + [1e-2]
    warming = told.records[:-1]
    assert "hardly_moved" not in found(History(warming, told.setting))
    assert "hardly_moved" in found(History(warming, replace(told.setting, critic_warmup=0)))


def test_a_reference_that_is_renewed_is_near_however_far_the_policy_went(tmp_path):
    told = history(tmp_path, iterations=10, **grpo(2, 8, 1e-2, kl_coef=0.1, reference_every=1))
    assert max(abs(record["kl"]) for record in told.records[1:]) < 1e-9
    assert "hardly_moved" not in found(told)
    assert "hardly_moved" in found(History(told.records, replace(told.setting, reference_every=None)))


def test_a_learning_rate_that_has_decayed_moves_nothing_and_should_not(tmp_path):
    """The last 10 of 60 iterations have 10/60 to 1/60 of the rate, the update then goes a thousandth as far."""
    optim = adam(1e-4, critic_learning_rate=1e-2, epochs=2, decay="linear", decay_share=1.0)
    told = history(tmp_path, iterations=60, agent=PPOConfig(prompts=1, group_size=8, optim=optim), **tokens(1))
    assert abs(fmean(record["approx_kl"] for record in told.records[-10:])) < 1e-6
    assert "hardly_moved" not in found(told)


def test_groups_that_are_alike_because_the_problems_differ(tmp_path):
    """Half of the problems is always solved, the others never: larger groups would not help."""
    reward = {"half": part("solved_if_small", _partial_=True)}
    told = history(tmp_path, iterations=6, reward=reward, **grpo(4, 8, 1e-3))
    says = found(told)["groups_alike"]
    assert "100% of the groups have no variance" in says
    assert "the problems differ: at the measured success rate of 0.5 99% of groups of 8 would vary, were they" in says
    levels = []
    for rate in (0.5, 0.8):  # where most completions are right, most of these groups have been learned
        right = [{**record, "reward/mean": rate, "reward/std": (rate * (1 - rate)) ** 0.5} for record in told.records]
        levels += [f.level for f in examine(History(right, told.setting)) if f.rule == "groups_alike"]
    assert levels == [ALARM, NOTE]


@pytest.mark.parametrize("rule", RULES)
def test_a_rule_says_nothing_of_a_run_that_has_measured_nothing(rule):
    assert rule(History([{"iteration": 0}, *({"iteration": i} for i in range(1, 30))])) is None
    assert rule(History([])) is None


def test_a_finding_is_told_once_and_again_when_it_is_half_as_bad_again():
    watch = Watch(Setting())
    told = []
    for iteration in range(1, 61):
        share = 0.25 if iteration < 30 else 0.5
        told.append(watch(iteration, {"completions/clipped_ratio": share}))
    lines = [(place, line) for place, lines in enumerate(told, 1) for line in lines]
    assert [place for place, _ in lines] == [5, 35]
    assert lines[0][1].startswith("25% of the completions are truncated")
    assert lines[1][1].startswith("40% of" if "40%" in lines[1][1] else "50% of")


def test_the_folder_of_a_run_is_examined_by_the_command_and_by_its_end(tmp_path, monkeypatch, capsys):
    run = finish_run(tmp_path, iterations=5, reward={"constant": part("Constant", value=0.0)}, **every(0))
    findings = json.loads((run / "summary.json").read_text())["findings"]
    assert findings[0]["rule"] == "nothing_scored"
    assert findings[0]["level"] == "alarm"
    capsys.readouterr()
    assert command(monkeypatch, f"run={run}") == 1
    out = capsys.readouterr().out
    assert f"5 iterations, {len(findings)} of {len(RULES)} rules found something" in out
    assert "! No completion of the last 5 iterations scored anything" in out
    assert command(monkeypatch, f"run={tmp_path}") == 2
    assert "error:" in capsys.readouterr().err
    at_its_end = history_of(str(run)).records[-1]
    assert "eval/accuracy" in at_its_end
    with (run / "metrics.jsonl").open("a") as file:  # resumed, and not at its end again
        file.write('{"iteration": 6}\n')
    assert history_of(str(run)).records[-2:] == [
        {name: x for name, x in at_its_end.items() if not name.startswith("eval/")},
        {"iteration": 6},
    ]
    (run / "summary.json").unlink()  # as if it still went on
    assert "nothing_scored" in found(history_of(str(run)))
    (run / "metrics.jsonl").write_text("")
    with pytest.raises(ValueError, match="has no iteration yet"):
        history_of(str(run))
    with pytest.raises(ValueError, match="is not the folder of a run"):
        history_of(str(tmp_path))


def test_notes_appear_while_a_run_goes_on(tmp_path, capsys):
    finish_run(tmp_path, iterations=6, reward={"constant": part("Constant", value=0.0)}, **every(0))
    out = capsys.readouterr().out
    assert out.count("No completion of the last 5 iterations scored anything") == 1

"""Every rule on a run that shows it, made by the real loop; and a healthy run, at which none is alarmed."""

import json
import sys

import pytest
from finished_runs import finish_run

from agents.config import EnvConfig, EvaluationConfig
from agents.doctor import ALARM, NOTE, History, Setting, Watch, examine, lines_of
from agents.doctor.__main__ import main
from agents.doctor.folder import history_of
from agents.doctor.report import RULES
from agents.doctor.rewards import group_size_for, varied_share
from agents.grpo import GRPOConfig
from agents.optim import OptimConfig
from agents.ppo import PPOConfig


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


def test_updates_that_are_all_ended_early(tmp_path):
    optim = adam(0.01, critic_learning_rate=1e-2, epochs=4, minibatch_rows=8)
    told = history(tmp_path, iterations=5, agent=PPOConfig(prompts=2, group_size=8, max_kl_old=1e-5, optim=optim))
    assert "(agent.max_kl_old=1e-05) ended 100% of the updates, after 1.0 optimizer steps" in found(told)["ended_early"]


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


def test_a_sampler_near_its_limit():
    """The records of a real run in bfloat16 (SmolLM2), and a limit that they come near to."""
    records = [{"iteration": i, "sampling/logprob_difference/mean": x} for i, x in enumerate((0.016, 0.017, 0.015), 1)]
    records += [{"iteration": 3 + i, "sampling/logprob_difference/mean": x} for i, x in enumerate((0.016, 0.018), 1)]
    assert found(History(records, Setting(mismatch_limit=0.25))) == {}
    assert (
        "0.016 nats a token; the run refuses to go on at 0.03"
        in found(History(records, Setting(mismatch_limit=0.03)))["sampler_mismatch"]
    )


def test_a_line_search_that_refuses_most_steps():
    """What TRPO logs of rollouts whose step it did not take; one of five is taken, four are refused."""
    records = [
        {"iteration": i, "reward/std": 0.5, "line_search/accepted": float(i == 3), "approx_kl": 0.01 * (i == 3)}
        for i in range(1, 6)
    ]
    says = found(History(records, Setting()))["steps_refused"]
    assert "refused 80% of the steps" in says
    assert "agent.max_kl" in says


def test_groups_that_dynamic_sampling_replaces_and_groups_of_one():
    records = [
        {"iteration": i, "reward/mean": 0.1, "reward/std": 0.3, "groups/zero_variance_share": 0.0} for i in range(1, 6)
    ]
    replaced = [record | {"groups/dropped_share": 0.75} for record in records]
    says = found(History(replaced, Setting(group_size=4)))["groups_alike"]
    assert "75% of the groups have no variance and are replaced" in says
    assert "raise agent.group_size from 4 to 7" in says  # 1 - 0.1^7 - 0.9^7 = 0.52, of six 0.47
    ones = [record | {"groups/zero_variance_share": 1.0} for record in records]
    assert found(History(ones, Setting(group_size=1, compares_groups=False))) == {}


def test_a_critic_that_is_warmed_up_holds_the_policy_still_on_purpose():
    records = [{"iteration": i, "reward/std": 0.5, "learning_rate": 0.0} for i in range(1, 13)]
    assert "hardly_moved" in found(History(records, Setting()))
    assert found(History(records, Setting(critic_warmup=10))) == {}


def test_groups_that_are_alike_because_the_problems_differ():
    """A third of the problems is always solved, the others never: larger groups would not help."""
    records = [
        {"iteration": i, "reward/mean": 1 / 3, "reward/std": (2 / 9) ** 0.5, "groups/zero_variance_share": 0.9}
        for i in range(1, 6)
    ]
    says = found(History(records, Setting(group_size=8)))["groups_alike"]
    assert "the problems differ: at the measured success rate of 0.33 96% of groups of 8 would vary, were they" in says


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
    assert "5 iterations" in out
    assert "! No completion of the last 5 iterations scored anything" in out
    assert command(monkeypatch, f"run={tmp_path}") == 2
    assert "error:" in capsys.readouterr().err
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

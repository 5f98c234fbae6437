import json
import re

import numpy as np
import pytest

from benchmarks.equal_tokens import at_equal_tokens
from benchmarks.peer_run import compose_run, learning_rates, peer_settings, read_points, told
from benchmarks.peers.last_integer import last_integer
from benchmarks.time_to_accuracy import OURS, TRL, Curve, compare, kept, main, options_of, reach, table
from rewards.math import LastInteger

SMALL = ["policy=tiny", "policy.tiny.hidden_size=16", "policy.tiny.num_layers=1", "env.max_new_tokens=4", "threads=1"]
SMALL += [
    "evaluation.problems=20",
    "logging.completions=false",
    "agent.prompts=4",
    "agent.group_size=2",
    "iterations=2",
]


def curve(who=OURS, seed=0, accuracies=(0.1, 0.5, 0.9), seconds=100.0, stopped="end", settings="same"):
    """1,000 tokens and `seconds` between examinations, the first before training."""
    points = tuple(
        {"num_tokens": 1000.0 * i, "time/train_seconds": seconds * i, "eval/accuracy": accuracy}
        for i, accuracy in enumerate(accuracies)
    )
    last = points[-1]
    measured = {"date": "today", "machine": {}, "code": {"commit": "abc"}}
    total = last["time/train_seconds"], last["num_tokens"]
    return Curve(who, seed, settings, points, *total, stopped, 1.0, "python", measured)


@pytest.mark.parametrize(
    ("completion", "answer", "right"),
    [
        ("34 + 57 = 91", 91, 1.0),
        ("The answer is 91.", 91, 1.0),
        ("91.0", 91, 1.0),
        ("91.5", 91, 0.0),
        ("1,091", 1091, 1.0),
        ("It is 91, not 92", 91, 0.0),
        ("= -5", -5, 1.0),
        ("12-5", 5, 1.0),
        ("12-5", -5, 0.0),
        ("\u22127", -7, 1.0),
        ("no number", 0, 0.0),
        ("", 1, 0.0),
        ("\u0669\u0661", 91, 0.0),
        (".5", 0, 0.0),
        ("9" * 1001, 9, 0.0),
        ("007", 7, 1.0),
        ("3.14.15", 15, 1.0),
    ],
)
def test_the_peers_reward_is_ours(completion, answer, right):
    assert last_integer(completion, answer) == right
    assert LastInteger()(completion=completion, answer=answer).value == right


def test_the_peers_reward_is_ours_on_noise():
    generator = np.random.default_rng(0)
    ours, found = LastInteger(), 0
    for _ in range(2000):
        text = "".join(generator.choice(list("0011223-+.,() =\u2212"), 8))
        for answer in (-1, 0, 1, 2, 3, 10):
            assert last_integer(text, answer) == ours(completion=text, answer=answer).value, text
            found += int(last_integer(text, answer))
    assert found > 500


def test_the_target_is_reached_at_the_first_examination_at_or_above_it():
    assert reach(curve(), 0.5).seconds == 100
    assert reach(curve(), 0.51).tokens == 2000
    assert not reach(curve(), 0.9).censored


def test_a_run_that_ends_before_the_target_took_at_least_as_long():
    stopped = reach(curve(accuracies=(0.1, 0.4), stopped="limit"), 0.5)
    assert (stopped.seconds, stopped.tokens, stopped.censored) == (100, 1000, True)
    assert stopped.shown("tokens") == "more than 1,000"


def test_the_ratio_sums_over_the_seeds_that_both_have_run():
    ours = [curve(seed=0, accuracies=(0.1, 0.9)), curve(seed=1), curve(seed=2)]
    theirs = [curve(TRL, 0, seconds=600.0), curve(TRL, 1, seconds=300.0)]
    # Ours 100 + 200 seconds and 1,000 + 2,000 tokens; theirs 1,200 + 600 and 2,000 + 2,000.
    assert compare([*ours, *theirs], 0.85) == (6.0, False)
    assert compare([*ours, *theirs], 0.85, "tokens") == (pytest.approx(4 / 3), False)


def test_a_censored_peer_gives_a_lower_bound_and_a_censored_run_of_ours_nothing():
    censored = curve(TRL, accuracies=(0.1, 0.2), seconds=1000.0, stopped="limit")
    assert compare([curve(), censored], 0.85) == (5.0, True)
    assert compare([curve(accuracies=(0.1, 0.2)), censored], 0.85) == (None, True)
    assert compare([curve()], 0.85) == (None, False)


def points(*examinations):
    return [{"num_tokens": float(tokens), "eval/accuracy": accuracy} for tokens, accuracy in examinations]


def test_accuracies_are_compared_after_equal_tokens_and_only_as_far_as_both_went():
    """Ours has 0.5 after 1,000 and 0.9 after 2,000 tokens, so 0.7 after 1,500, and ends there, where theirs, on its way
    from 0.4 at 1,500 to 1.0 at 3,000, has 0.6."""
    ours = {0: points((0, 0.1), (1000, 0.5), (2000, 0.9)), 1: points((0, 0.1))}
    theirs = {0: points((0, 0.3), (1000, 0.2), (1500, 0.4), (3000, 1.0), (4000, 1.0)), 2: points((0, 0.1), (9, 0.2))}
    first, second, third, together = at_equal_tokens(ours, theirs)
    for row, tokens, mine, other in ((first, 1000, 0.5, 0.2), (second, 1500, 0.7, 0.4), (third, 2000, 0.9, 0.6)):
        assert (row.tokens, row.ours, row.theirs) == pytest.approx((tokens, mine, other))
        assert (row.difference.num_seeds, row.difference.p) == (1, None)
    assert (together.examination, together.ours, together.theirs) == (None, pytest.approx(0.7), pytest.approx(0.4))
    assert at_equal_tokens(ours, {2: theirs[2]}) == []


def test_the_difference_at_equal_tokens_is_paired_by_seed():
    """Differences -0.1, 0.0 and 0.4: mean 0.1, standard error sqrt(0.14 / 6) = 0.152753, t of 2 degrees 4.302653."""
    ours = {s: points((0, 0.0), (100, a)) for s, a in enumerate((0.3, 0.5, 0.8))}
    theirs = {s: points((0, 0.0), (100, a)) for s, a in enumerate((0.4, 0.5, 0.4))}
    row, together = at_equal_tokens(ours, theirs)
    found = row.difference
    assert (found.mean, found.error, found.num_seeds) == (pytest.approx(0.1), pytest.approx(0.152753, abs=1e-6), 3)
    assert (found.low, found.high) == (pytest.approx(0.1 - 0.657243, abs=1e-5), pytest.approx(0.1 + 0.657243, abs=1e-5))
    assert together.difference.mean == pytest.approx(0.1)
    assert row.cells() == ("1", "3", "100", "0.533", "0.433", "+0.100", "-0.557 to +0.757", "0.58")


def test_the_table_marks_a_lower_bound():
    about = {"machine": {"processor": "P", "cores": 2, "torch": "2", "accelerator": None}, "date": "today"}
    about |= {"code": {"commit": "abc", "changed_files": 0}, "command": "python"}
    text = table([curve(), curve(TRL, accuracies=(0.1, 0.2), seconds=1000.0)], options_of([]), about)
    assert "| textenv GRPO | 0 | 200 | 2,000 |" in text
    assert "| TRL 1.16 GRPOTrainer | 0 | more than 1,000 | more than 1,000 | 0.200 |" in text
    assert "TRL's seconds over ours: more than 5.00." in text
    assert "| 1 | 1 | 1,000 | 0.500 | 0.200 | +0.300 | - | - |" in text


def test_only_whole_runs_with_the_same_settings_are_kept(tmp_path):
    path = tmp_path / "run.json"
    assert kept(path, "same") is None
    for stopped, settings, found in (("limit", "same", True), ("limit", "other", False), ("trl failed", "same", False)):
        run = curve(TRL, stopped=stopped, settings=settings)
        path.write_text(json.dumps({name: getattr(run, name) for name in Curve.__slots__}))
        assert (kept(path, "same") == run) is found


def test_learning_rates_warm_up_are_held_and_decay_as_the_main_jobs():
    optim = compose_run(0, []).agent.optim
    rates = learning_rates(optim, 8)
    peak = optim.learning_rate
    expected = [peak / 4, peak / 2, peak * 3 / 4, peak, peak, peak * 3 / 4, peak / 2, peak / 4]
    assert rates == pytest.approx(expected)


def test_a_peer_refuses_what_it_would_do_differently():
    for setting in ("agent.kl_coef=0.1", "agent.optim.epochs=2", "policy.top_k=5", "reward=math"):
        with pytest.raises(ValueError, match="to be compared"):
            peer_settings(compose_run(0, [setting]), micro_batch=16)
    with pytest.raises(ValueError, match="tokenizer that the peer can read"):
        peer_settings(compose_run(0, ["policy=tiny"]), micro_batch=16)


@pytest.mark.model
def test_the_peer_is_given_the_environments_own_prompts_and_answers():
    config = compose_run(3, ["agent.prompts=2", "iterations=3", "evaluation.problems=5"])
    asked = peer_settings(config, micro_batch=16)
    assert len(asked["prompts"]) == len(asked["answers"]) == 6
    assert len(asked["held_out"]["prompts"]) == 5
    first = asked["prompts"][0]
    numbers = re.search(r"What is (\d+) \+ (\d+)\?", first)
    assert numbers is not None
    assert asked["answers"][0] == int(numbers[1]) + int(numbers[2])
    assert first.endswith("<|im_start|>assistant\n")
    assert asked["end_ids"] == [2]


def test_examinations_are_told_as_they_are_written(tmp_path):
    path, heard = tmp_path / "progress.jsonl", []
    with told(path, heard.append, seconds=0.01):
        path.write_text('{"eval/accuracy": 0.1}\n{"eval/acc')
        assert read_points(path) == [{"eval/accuracy": 0.1}]
        path.write_text('{"eval/accuracy": 0.1}\n{"eval/accuracy": 0.2}\n')
    assert [point["eval/accuracy"] for point in heard] == [0.1, 0.2]


def test_our_side_runs_is_kept_and_is_not_measured_twice(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    command = ["--who", "ours", "--seeds", "0", "--output", str(tmp_path / "out"), "--resume", "--", *SMALL]
    main(command)
    last = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert last == {"benchmark": "time_to_accuracy", "ratios": {}, "token_ratios": {}, "censored": False}
    results = json.loads((tmp_path / "out" / "results.json").read_text())
    assert [point["eval/accuracy"] >= 0 for point in results["runs"][0]["points"]] == [True] * 3
    assert (tmp_path / "out" / "curves_seconds.png").is_file()
    main(command)
    assert "kept from before" in capsys.readouterr().out
    assert len(list((tmp_path / "runs" / "time_to_accuracy").iterdir())) == 1

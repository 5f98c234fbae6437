"""`rewards.testing.check_reward` finds what is wrong with a reward."""

import time

import bad_rewards
import pytest

from rewards import RegexReward, Sample
from rewards.hostile import UNPAID
from rewards.testing import FAULTS, check_reward, hostile_samples, hostile_texts

ROWS = [{"prompt": "What is 2 + 2?", "completion": "4", "answer": 4}]


def faults_of(reward, rows=ROWS, **settings):
    with pytest.raises(AssertionError) as raised:
        check_reward(reward, rows, **{"timeout_seconds": 1.0, **settings})
    return str(raised.value)


@pytest.mark.parametrize(
    "reward",
    [
        bad_rewards.sound,
        "rewards.format.TagFormat",
        "rewards.math.LastInteger",
        "rewards.math.MathAnswer",
        "rewards.math.PartialCredit",
        "rewards.json_format.JsonFormat",
        "rewards.repetition.RepetitionPenalty",
        {"_target_": "rewards.json_format.JsonFormat", "schema": {"type": "object", "required": ["a"]}},
        {"_target_": "rewards.lengths.LengthPenalty", "max_length": 10},
        {"_target_": "rewards.lengths.SoftOverlong", "max_tokens": 10, "cache_tokens": 5},
        {"_target_": "rewards.lexicon.Lexicon", "words": ["please"]},
        {"_target_": "rewards.format.RegexReward", "pattern": r"^(\w+\s?)*$", "mode": "fullmatch", "max_chars": 100},
    ],
)
def test_what_this_package_ships_is_sound(reward):
    allow = []
    if isinstance(reward, dict) and reward["_target_"].endswith("RegexReward"):
        allow = ["rewards_empty"]  # the pattern says so
    lines = check_reward(reward, ROWS, allow=allow)
    assert len(lines) >= len(hostile_texts()) + 2


@pytest.mark.parametrize(
    ("reward", "kind", "told"),
    [
        (bad_rewards.raises, "raises on row 1", "RuntimeError: the judge is away, on completion '4'"),
        (bad_rewards.none, "no_number on row 1", "a reward must return a number or a Score, got NoneType 'None'"),
        (bad_rewards.text, "no_number on row 1", "a reward must return a number or a Score, got str 'good'"),
        (bad_rewards.nan, "not_finite on hostile nul", "a score must be a finite number, got nan"),
        (bad_rewards.dies, "dies on hostile empty", "its worker process died (exit status 3)"),
        (bad_rewards.leaves, "dies on hostile empty", "SystemExit: 0"),
        (bad_rewards.brief, "rewards_empty on hostile empty", "1 for ''"),
        (bad_rewards.echo, "rewards_echo on hostile echo", "1 for 'What is 2 + 2?'"),
        (bad_rewards.forgets, "unrepeatable on the first row again", "for '4'"),
        (bad_rewards.fragile, "raises on hostile surrogate", "UnicodeEncodeError"),
        (bad_rewards.OneScore(), "wrong_length on 2 rows at once", "one score per sample, got 1 for 2"),
        (bad_rewards.late, "hangs on row 1", "no answer within 1 s"),
    ],
)
def test_each_fault_is_named_with_the_sample(reward, kind, told):
    message = faults_of({"mine": reward})
    assert f"mine {kind}: " in message
    assert told in message


def test_at_most_five_lines_of_a_traceback_are_told():
    message = faults_of({"mine": bad_rewards.raises}, hostile=False)
    first = message.split("mine unrepeatable")[0].splitlines()
    assert first[-1] == "RuntimeError: the judge is away"
    assert len(first) == 2 + 5  # how many faults, the fault, and its lines


def test_what_holds_the_interpreter_is_killed_and_named_a_few_times_only():
    started = time.monotonic()
    rows = [{"completion": "a" * 40 + "!"}] * 6
    message = faults_of({"mine": bad_rewards.holds_the_interpreter}, rows, timeout_seconds=0.5)
    assert message.count("mine hangs on row") == 3
    assert "mine not_tried on row 4: not tried: it hung 3 times" in message
    assert time.monotonic() - started < 30


def test_a_function_that_no_process_can_import_is_not_waited_for():
    started = time.monotonic()

    def local(completion):
        while completion == "4":
            time.sleep(0.01)
        return 0.0

    message = faults_of({"mine": local}, timeout_seconds=0.2)
    assert "mine hangs on row 1: no answer within 0.2 s" in message
    assert time.monotonic() - started < 30


def test_a_fault_may_be_allowed():
    check_reward(bad_rewards.brief, ROWS, allow=["rewards_empty", "rewards_echo"])
    with pytest.raises(ValueError, match=r"allow must be some of raises, hangs, .*got 'everything'"):
        check_reward(bad_rewards.brief, ROWS, allow=["everything"])


def test_a_gate_or_a_penalty_does_not_pay_for_nothing():
    gate = {"fn": bad_rewards.brief, "gate": True}
    check_reward({"mine": bad_rewards.sound, "short": gate, "cost": {"fn": bad_rewards.brief, "weight": -1.0}}, ROWS)


def test_rows_come_back_with_their_scores_reasons_and_times():
    row, *_ = check_reward({"mine": bad_rewards.sound, "form": "rewards.format.TagFormat"}, ROWS)
    assert (row.where, row.total) == ("row 1", 1.0)
    assert row.scores["mine"].value == 1.0
    assert row.reasons["form"] == "<think> is missing"
    assert row.seconds["mine"] > 0


def test_a_column_that_the_rows_lack_is_named():
    with pytest.raises(ValueError, match=r"reward\.math_answer asks for column 'answer'"):
        check_reward("rewards.math.MathAnswer", [{"completion": "4"}])


def test_the_limit_of_a_reward_that_bounds_itself_is_its_own():
    reward = RegexReward(r"(.*?,){15}P", timeout_seconds=0.2)
    (line, *_) = check_reward({"pattern": reward}, [{"completion": "1," * 26}], hostile=False)
    assert (line.total, line.reasons["pattern"]) == (0.0, "timed out")


def test_the_hostile_set_has_what_the_issue_names():
    texts = hostile_texts("Why?")
    assert texts["empty"] == ""
    assert texts["echo"] == "Why?"
    assert len(texts["huge_word"]) == 1_000_000
    assert set(UNPAID) <= set(texts)
    assert set(UNPAID.values()) <= set(FAULTS)
    assert any("\x00" in text for text in texts.values())
    assert any(text.count("(") >= 2_000 for text in texts.values())
    with pytest.raises(UnicodeEncodeError):
        texts["surrogate"].encode()


def test_hostile_samples_carry_the_prompt_and_the_columns():
    samples = hostile_samples("Why?", row={"answer": 4}, messages=[{"role": "user", "content": "Why?"}])
    assert len({bad.name for bad in samples}) == len(samples) >= 40
    assert all(bad.sample.row == {"answer": 4} and bad.sample.messages for bad in samples)
    assert next(bad for bad in samples if bad.name == "echo").sample == Sample(
        "Why?", "Why?", ({"role": "user", "content": "Why?"},), row={"answer": 4}
    )

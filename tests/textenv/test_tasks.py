import json
from fractions import Fraction
from pathlib import Path
from types import SimpleNamespace

import pytest
from omegaconf import OmegaConf

from textenv import TextEnv
from textenv.tasks import load_task
from textenv.tasks.arithmetic import Arithmetic
from textenv.tasks.countdown import Countdown, CountdownAnswer, evaluate, is_for_testing
from textenv.tasks.data import jsonl_task
from textenv.tasks.target import Target
from textenv.tasks.text import Problems
from textenv.types import Problem, as_problem

CONF = Path(__file__).parents[2] / "conf" / "task"


@pytest.mark.parametrize("operation", ["+", "-", "*"])
def test_arithmetic_splits_by_unordered_pair(operation):
    task = Arithmetic(operation, low=10, high=40)
    train, test = (
        {frozenset((p.row["a"], p.row["b"])) for p in (split[i] for i in range(len(split)))}
        for split in (task.split("train"), task.split("test"))
    )
    assert not train & test
    assert len(test) == 100
    assert len(train | test) == 31 * 32 // 2
    assert len(task.split("train")) + len(task.split("test")) == 31 * 31


def test_arithmetic_problems_are_right_and_stay_the_same():
    problem = Arithmetic("-").split("test")[7]
    a, b = problem.row["a"], problem.row["b"]
    assert problem == Problem(f"What is {a} - {b}?", {"answer": a - b, "a": a, "b": b})
    assert Arithmetic("-").split("test")[7] == problem
    assert Arithmetic("-", seed=1).split("test")[7] != problem
    with pytest.raises(IndexError):
        Arithmetic().split("test")[10_000]


def test_sums_up_to_20():
    task = Arithmetic(low=0, high=20, max_sum=20, test_size=30)
    rows = [problem.row for problem in task.split("train")]
    assert max(row["answer"] for row in rows) == 20
    assert len(rows) + len(task.split("test")) == 21 * 22 // 2


def test_arithmetic_in_the_users_own_words():
    assert Arithmetic(template="{a}+{b}=").split("train")[0].prompt == "44+91="


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"operation": "/"}, r"operation must be one of \+, -, \*, got '/'"),
        ({"low": 5, "high": 4}, "0 <= low <= high, got 5 and 4"),
        ({"template": "{a} and {c}"}, "template must contain {a} and {b}"),
        ({"low": 1, "high": 3, "test_size": 6}, r"test_size must be from 1 to 5 .* got 6"),
    ],
)
def test_arithmetic_names_a_wrong_setting(settings, message):
    with pytest.raises(ValueError, match=message):
        Arithmetic(**settings)


def test_countdown_is_solvable_disjoint_and_deterministic():
    task = Countdown()
    for name in ("train", "test"):
        problems = [task.split(name)[i] for i in range(60)]
        assert problems == [Countdown().split(name)[i] for i in range(60)]
        for problem in problems:
            assert is_for_testing(list(problem.row["numbers"])) == (name == "test")
            assert solutions(list(map(Fraction, problem.row["numbers"])), problem.row["target"])


def solutions(values, target):
    """Whether some expression over all values makes the target, by trying them all."""
    if len(values) == 1:
        return values[0] == target
    for i in range(len(values)):
        for j in range(len(values)):
            if i != j:
                rest = [value for k, value in enumerate(values) if k not in (i, j)]
                a, b = values[i], values[j]
                results = [a + b, a - b, a * b, *([a / b] if b else [])]
                if any(solutions([*rest, result], target) for result in results):
                    return True
    return False


@pytest.mark.parametrize(
    ("completion", "value"),
    [
        ("(2 + 3) * 4", 1.0),
        ("First 2 + 3.\n4*(3+2) = 20", 1.0),
        ("<answer>2*3+4</answer> so <answer>(3+2)*4</answer> it is", 1.0),
        ("2 + 3 + 4", 0.5),
        ("4 * 5", 0.0),
        ("(2 + 3) * 4 * 1", 0.0),
        ("2 ** 3 + 4", 0.0),
        ("4 / (2 - 2) + 3", 0.0),
        ("(2 + 3 * 4", 0.0),
        ("__import__('os')", 0.0),
        ("(" * 5000, 0.0),
        ("9" * 5000, 0.0),
        ("", 0.0),
    ],
)
def test_countdown_answer(completion, value):
    assert CountdownAnswer(partial=0.5)(completion=completion, numbers=(2, 3, 4), target=20).value == value


def test_evaluate_is_exact():
    assert evaluate("1 / 3 + 1 / 6 - 2 * (3 - 1)") == (Fraction(-7, 2), [1, 3, 1, 6, 2, 3, 1])


def test_target_pays_the_share_of_right_places():
    task = Target()
    (part,) = task.reward().values()
    assert len(task.answer) == 10
    assert float(part(completion=task.answer, answer=task.answer)) == 1.0
    assert float(part(completion=task.answer[:4], answer=task.answer)) == 0.4
    (dense,) = Target(dense=True).reward().values()
    score = dense(completion=task.answer[:4], answer=task.answer)
    assert (score.value, float(score)) == (0.0, pytest.approx(0.4))
    assert score.spans[3] == (3, 4, 0.1)


def test_problems_in_place():
    task = Problems([{"prompt": "a", "answer": 1, "level": 2}, {"prompt": "b", "answer": 2}], test=["c"], reward="x.y")
    assert task.columns == frozenset()
    assert task.reward() == "x.y"
    assert [problem.prompt for problem in task.split("test")] == ["c"]
    assert Problems([{"prompt": "a", "answer": 1}]).columns == {"answer"}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"problems": []}, "at least one problem"),
        ({"problems": [{"answer": 1}]}, r"problems\[0\]: a problem must have a prompt"),
        ({"problems": ["a"], "test": ["b", 3]}, r"test\[1\]: a prompt must be text or a list of messages"),
        ({"problems": ["a"], "test": ["a"]}, "test must not hold a prompt of problems, got 'a' in both"),
    ],
)
def test_wrong_problems_are_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        Problems(**arguments)


def test_a_task_without_a_reward_says_so():
    with pytest.raises(ValueError, match="reward must be given: task 'text' has no column 'answer'"):
        Problems(["a"]).reward()


def test_messages_are_checked():
    chat = [{"role": "user", "content": "hi"}]
    assert as_problem({"prompt": chat, "answer": 1}) == Problem(tuple(chat), {"answer": 1})
    for wrong in ([{"role": "user"}], [], [{"role": "user", "content": 3}]):
        with pytest.raises(ValueError, match="messages with role and content"):
            as_problem(wrong)


@pytest.fixture
def write(tmp_path):
    def write(name, *lines):
        path = tmp_path / name
        path.write_text("\n".join(line if isinstance(line, str) else json.dumps(line) for line in lines))
        return path

    return write


def test_jsonl_maps_columns(write):
    path = write("a.jsonl", {"q": "one", "solution": 1, "x": 0}, "", {"q": "two", "solution": 2})
    task = jsonl_task(path, prompt="q", columns={"answer": "solution"}, test_share=0)
    assert [task.split("train")[i] for i in range(2)] == [
        Problem("one", {"answer": 1}),
        Problem("two", {"answer": 2}),
    ]
    assert task.columns == {"answer"}
    assert len(jsonl_task(path, prompt="q", columns={}, test_share=0, limit=1).split("train")) == 1


def test_jsonl_keeps_all_columns_by_default_and_takes_chats(write):
    chat = [{"role": "user", "content": "hi"}]
    task = jsonl_task(write("a.jsonl", {"question": chat, "answer": 1, "level": 2}), test_share=0)
    assert task.split("train")[0] == Problem(tuple(chat), {"answer": 1, "level": 2})


def test_jsonl_splits_by_prompt_whatever_the_order(write):
    rows = [{"question": f"question {i % 150}", "answer": i} for i in range(200)]
    splits = []
    for name, lines in (("a.jsonl", rows), ("b.jsonl", rows[::-1])):
        task = jsonl_task(write(name, *lines), test_share=0.3)
        train, test = ({problem.prompt for problem in task.split(name)} for name in ("train", "test"))
        assert not train & test
        splits.append(test)
        assert len(task.split("train")) + len(task.split("test")) == 200
    assert splits[0] == splits[1]
    assert 20 < len(splits[0]) < 70


def test_jsonl_test_file_takes_its_prompts_out_of_train(write):
    path = write("a.jsonl", *({"question": q, "answer": 1} for q in "abc"))
    test = write("b.jsonl", *({"question": q, "answer": 1} for q in "cd"))
    task = jsonl_task(path, test_path=test)
    assert [problem.prompt for problem in task.split("train")] == ["a", "b"]
    assert [problem.prompt for problem in task.split("test")] == ["c", "d"]


GOOD = {"question": "a", "answer": 1}


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ([GOOD, "{not json"], r"a\.jsonl:2: a line must be one JSON object"),
        ([GOOD, "", "[1, 2]"], r"a\.jsonl:3: a line must be one JSON object, got list"),
        ([GOOD, {"question": "b"}], r"a\.jsonl:2: a row must have the column 'answer', it has \['question'\]"),
        ([{"prompt": "b"}], r"a\.jsonl:1: a row must have the column 'question', it has \['prompt'\]"),
        ([GOOD, {"question": 7, "answer": 1}], r"a\.jsonl:2: column 'question': a prompt must be text"),
        (["", ""], "jsonl:a.jsonl must hold at least one problem"),
    ],
)
def test_a_wrong_line_is_named_by_file_and_number(write, lines, message):
    with pytest.raises(ValueError, match=message):
        jsonl_task(write("a.jsonl", *lines))


def test_jsonl_names_a_wrong_setting(write):
    with pytest.raises(ValueError, match=r"path must be a JSON-lines file, got 'no\.jsonl'"):
        jsonl_task("no.jsonl")
    for setting, value in (("test_share", 1.0), ("limit", 0)):
        with pytest.raises(ValueError, match=f"{setting} must be .* got {value}"):
            jsonl_task(write("a.jsonl", GOOD), **{setting: value})


def test_load_task_takes_names_paths_targets_and_objects():
    assert load_task("countdown").name == "countdown"
    assert load_task("textenv.tasks.target.Target").name == "target"
    assert load_task({"_target_": "arithmetic", "low": 1, "high": 30}).split("test")[0].row["a"] <= 30
    task = Target()
    assert load_task(task) is task


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("sums", "task must be one of arithmetic, .* or an import path, got 'sums'"),
        ("no.such.Task", r"task 'no\.such\.Task' cannot be imported"),
        ({"_target_": "arithmetic", "lowest": 1}, r"task 'arithmetic' cannot be built from \['lowest'\]"),
        ({"low": 1}, "task must have a _target_"),
        (Arithmetic, "got the class Arithmetic: construct it first"),
        (3, "task must have name, columns, split"),
    ],
)
def test_a_wrong_task_is_named(spec, message):
    with pytest.raises(ValueError, match=message):
        load_task(spec)


def one(completion):
    return 1.0


def bare(**members):
    """A task with something wrong."""
    reward = {"one": {"fn": one, "execution": "inline"}}
    sound = {"name": "bare", "columns": (), "split": lambda name: ["a"], "reward": lambda: reward}
    return SimpleNamespace(**{name: value for name, value in (sound | members).items() if value != "missing"})


@pytest.mark.parametrize(
    ("members", "message"),
    [
        ({"columns": "missing"}, r"has no columns"),
        ({"columns": None}, r"columns of task 'bare' must be a set of names, got None"),
        ({"split": lambda name: (x for x in "ab")}, r"split\('train'\) of task 'bare' must be a sequence.*generator"),
        ({"split": lambda name: [3]}, r"a prompt must be text or a list of messages with role and content, got 3"),
        ({"reward": lambda: None}, r"reward must be given: task 'bare' has none of its own"),
    ],
)
def test_a_task_that_is_none_says_what_it_lacks(members, message):
    with pytest.raises(ValueError, match=message):
        TextEnv(task=bare(**members))


def test_problems_may_be_plain_texts_and_mappings():
    env = TextEnv(task=bare(split=lambda name: ["a", {"prompt": "b", "answer": 1}]))
    env.reset(options={"index": 1})
    assert env.prompt == "b"
    with pytest.raises(TypeError, match=r"a setting must be one of task, reward, .*, got 'color'"):
        TextEnv(color="red")


@pytest.mark.parametrize("path", sorted(CONF.glob("*.yaml")), ids=lambda path: path.stem)
def test_every_task_yaml_builds_its_task_and_says_what_it_is(path, write, tmp_path):
    assert path.read_text().startswith("# ")
    config = OmegaConf.load(path)
    rows = [{"question": f"q{i}", "answer": i} for i in range(50)]
    if path.stem == "jsonl":
        config.path = str(write("a.jsonl", *rows))
    if path.stem == "parquet":
        config.path = str(tmp_path / "a.parquet")
        pytest.importorskip("pandas").DataFrame(rows).to_parquet(config.path)
    if path.stem == "dataset":
        config.path = str(tmp_path / "saved")
        pytest.importorskip("datasets").Dataset.from_list(rows).save_to_disk(config.path)
    if path.stem == "own":
        config._target_ = "digits"
    if path.stem == "turns":
        pytest.importorskip("gem")
        config.make._target_ = "gem.envs.game_env.guess_the_number.GuessTheNumberEnv"
    task = load_task(OmegaConf.to_container(config))
    train, test = task.split("train"), task.split("test")
    assert set(train[0].row) >= task.columns
    with pytest.raises(ValueError, match="split must be one of train, test, got 'exam'"):
        task.split("exam")
    if path.stem not in ("target", "guess", "turns"):  # the last two hide what tells their problems apart
        prompts = [{split[i].prompt for i in range(len(split))} for split in (train, test)]
        assert not prompts[0] & prompts[1]
    if path.stem == "arithmetic":
        assert len(test) >= 100


def test_a_long_list_of_problems_is_measured_whole():
    problems = [{"prompt": "a", "answer": 1}] * 999
    problems[1] = {"prompt": "a" * 50, "answer": 1}
    env = TextEnv(task=Problems(problems))
    observation, _ = env.reset(options={"index": 1})
    assert observation["length"][0] == 51


def test_the_same_chat_in_train_and_test_is_refused():
    chat = [{"role": "user", "content": "hello"}]
    with pytest.raises(ValueError, match="test must not hold a prompt of problems"):
        Problems([{"prompt": chat, "answer": 1}], test=[{"prompt": chat, "answer": 1}])
    with pytest.raises(ValueError, match="problems must be a list of problems, got 'abc'"):
        Problems("abc")


def test_a_data_set_whose_generator_fails_for_some_seeds_draws_again():
    task = load_task({"_target_": "reasoning_gym", "dataset": "codeio"})
    assert task.split("train")[733].prompt

import io
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from rich.console import Console

from rewards.preference.config import LabelConfig
from rewards.preference.data import Preference, read_preferences
from rewards.preference.label import Completions, label, parse_ranking, ranking_line, shuffled

ROOT = Path(__file__).resolve().parents[3]
ROWS = [{"prompt": f"question {number}", "completions": ["apple", "banana", "cherry"]} for number in range(3)]


@pytest.fixture
def config(tmp_path):
    (tmp_path / "completions.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    return LabelConfig(data=str(tmp_path / "completions.jsonl"), output=str(tmp_path / "out" / "rankings.jsonl"))


def answer(config, *answers):
    """Counts and what was shown; an exception among the answers is raised where it is asked for."""
    queue, screen = list(answers), io.StringIO()

    def ask(_):
        if not queue:
            raise EOFError
        if isinstance(queue[0], BaseException):
            raise queue.pop(0)
        return queue.pop(0)

    return label(config, ask=ask, console=Console(file=screen, width=100)), screen.getvalue()


def shown_order(row):
    return shuffled(Completions(row["prompt"], tuple(row["completions"])), seed=0).completions


def test_a_ranking_is_read_from_best_to_worst():
    assert parse_ranking("2 1 3", 3) == ((1,), (0,), (2,))
    assert parse_ranking(" 3 = 1,2", 3) == ((2, 0), (1,))
    assert parse_ranking("2 > 1", 2) == ((1,), (0,))


@pytest.mark.parametrize("text", ["", "1", "1 1 2", "1 2 4", "0 1 2", "a b c", "1=2=", "1 2 3 4", "²  1 3"])
def test_what_is_no_ranking_of_three_is_refused(text):
    with pytest.raises(ValueError, match="a ranking"):
        parse_ranking(text, 3)


def test_a_ranking_is_written_as_training_reads_it(tmp_path):
    row = Completions(({"role": "user", "content": "hé"},), ("a", "b", "c"))
    (tmp_path / "rankings.jsonl").write_text(
        ranking_line(row, ((1,), (0,), (2,))) + "\n" + ranking_line(row, ((1, 0), (2,)))
    )
    assert read_preferences(tmp_path / "rankings.jsonl", ties="half") == [
        Preference(row.prompt, ("b", "a", "c"), (0, 1, 2), (0.0, 0.0, 0.0)),
        Preference(row.prompt, ("b", "a", "c"), (0, 0, 1), (0.0, 0.0, 0.0)),
    ]


def test_what_a_person_says_becomes_rankings_that_training_reads(config):
    counts, screen = answer(config, "2 1 3", "nonsense", "1=2 3", "s")
    first, second = shown_order(ROWS[0]), shown_order(ROWS[1])
    assert read_preferences(config.output, ties="half") == [
        Preference("question 0", (first[1], first[0], first[2]), (0, 1, 2), (0.0, 0.0, 0.0)),
        Preference("question 1", (second[0], second[1], second[2]), (0, 0, 1), (0.0, 0.0, 0.0)),
    ]
    assert counts == {"ranked": 2, "skipped": 1, "labelled earlier": 0}
    assert "a ranking is numbers" in screen


def test_pairs_of_an_earlier_time_count_as_labelled(config):
    Path(config.output).parent.mkdir()
    Path(config.output).write_text(json.dumps({"prompt": "question 1", "chosen": "apple", "rejected": "cherry"}))
    assert answer(config, "1 2 3", "1 2 3")[0] == {"ranked": 2, "skipped": 0, "labelled earlier": 1}
    assert len(read_preferences(config.output)) == 3


@pytest.mark.parametrize("end", ["q", KeyboardInterrupt(), EOFError()])
def test_leaving_loses_nothing_and_the_next_call_goes_on(config, end):
    assert answer(config, "1 2 3", end)[0] == {"ranked": 1, "skipped": 0, "labelled earlier": 0}
    assert len(read_preferences(config.output)) == 1
    counts, screen = answer(config, "1 2 3", "s")
    assert counts == {"ranked": 1, "skipped": 1, "labelled earlier": 1}
    assert "question 0" not in screen
    assert len(read_preferences(config.output)) == 2


def test_a_ranking_is_on_disk_before_the_next_question(config):
    seen = []

    def ask(_):
        seen.append(len(Path(config.output).read_text().splitlines()) if Path(config.output).exists() else 0)
        return "1 2 3"

    label(config, ask=ask, console=Console(file=io.StringIO()))
    assert seen == [0, 1, 2]


def test_an_output_without_a_last_newline_is_continued_on_a_new_line(config):
    answer(config, "1 2 3")
    path = Path(config.output)
    path.write_text(path.read_text().rstrip("\n"))
    answer(config, "1 2 3")
    assert len(read_preferences(path)) == 2


def test_the_order_shown_depends_on_seed_and_row_but_not_on_the_file():
    orders = {
        shuffled(Completions(f"q{number}", ("a", "b", "c")), seed=seed).completions
        for number in range(20)
        for seed in range(2)
    }
    assert len(orders) == 6
    assert shuffled(Completions("q", ("a", "b", "c")), seed=1) == shuffled(Completions("q", ("c", "a", "b")), seed=1)


def test_control_characters_and_markup_are_shown_as_text(config):
    row = {"prompt": [{"role": "user", "content": "hi"}], "completions": ["\x1b[2J", "[bold]x", "[bold]x"]}
    Path(config.data).write_text(json.dumps(row))
    _, screen = answer(config, "1 2")
    assert "\x1b" not in screen
    assert "\\x1b[2J" in screen
    assert "[bold]x" in screen
    assert len(read_preferences(config.output)) == 1


@pytest.mark.parametrize(
    ("row", "rule"),
    [
        ({"prompt": "p"}, "completions must be a list"),
        ({"prompt": "p", "completions": ["a"]}, "completions must hold at least 2 different texts, got 1"),
        ({"prompt": "p", "completions": ["a", "a"]}, "completions must hold at least 2 different texts, got 1"),
        ({"prompt": "p", "completions": ["a", 1]}, r"completions\[1\]: completion must be text"),
        ({"completions": ["a", "b"]}, "prompt is missing"),
    ],
)
def test_a_wrong_line_is_named_before_the_first_question(config, row, rule):
    with open(config.data, "a") as lines:
        lines.write(json.dumps(row) + "\n")
    with pytest.raises(ValueError, match=rf"completions\.jsonl, line 4: {rule}"):
        answer(config, AssertionError("asked"))


def test_output_must_not_be_the_data(config):
    with pytest.raises(ValueError, match="output must be another file than data"):
        answer(LabelConfig(data=config.data, output=config.data))


def test_the_command_is_driven_by_stdin_from_any_folder(config, tmp_path):
    run = subprocess.run(
        [sys.executable, "-m", "rewards.preference.label", f"data={config.data}", "output=rankings.jsonl"],
        input="3 2 1\nq\n",
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        timeout=120,
    )
    assert run.returncode == 0, run.stderr
    assert "1 ranked, 0 skipped, 0 labelled earlier: rankings.jsonl" in run.stdout
    assert len(read_preferences(tmp_path / "rankings.jsonl")) == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["completions.jsonl", "rankings.jsonl"]

"""The two tools for people: `python -m textenv.play` and `python -m textenv.tasks`."""

import subprocess
import sys

import pytest

from textenv import play
from textenv.settings_text import parse_settings
from textenv.tasks import BUILT_IN
from textenv.tasks import __main__ as listing


def typed(monkeypatch, *lines):
    """A person who types these lines and then ends the input."""
    waiting = iter(lines)

    def read(prompt=""):
        try:
            return next(waiting)
        except StopIteration:
            raise EOFError from None

    monkeypatch.setattr("builtins.input", read)


def test_a_person_answers_and_sees_the_score_in_parts(monkeypatch, capsys):
    typed(monkeypatch, "It is", "135", "", "no idea", "")
    play.main(["task=arithmetic", "index=0"])
    out = capsys.readouterr().out
    assert "What is 44 + 91?" in out
    assert out.index("reward: 1") < out.index("reward: 0")
    assert "correct: 1" in out
    assert "ended: eos" in out
    assert out.endswith("Goodbye.\n")


def test_a_game_is_played_turn_by_turn(monkeypatch, capsys):
    typed(monkeypatch, "0", "", "21", "", "something", "")
    play.main(["task=guess", "task.low=1", "task.high=20", "task.max_turns=3", "index=0"])
    out = capsys.readouterr().out
    assert out.index("Higher.") < out.index("Lower.") < out.index("ended: task") < out.index("found: 0")


def test_a_tool_answers_in_the_middle(monkeypatch, capsys):
    typed(monkeypatch, "<calc>2*3</calc> and more", "", "6", "")
    play.main(["task=calculator"])
    out = capsys.readouterr().out
    assert out.index("(not read: ' and more')") < out.index("<result>6</result>")
    assert "ended: task" in out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["task=nothing"], "task must be one of arithmetic"),
        (["nonsense"], "a setting must be key=value, got 'nonsense'"),
        (["task.low=1"], "task must be chosen before its settings"),
        (["colour=red"], "colour"),
        (["budget=later"], "budget must be one of terminate, truncate, got 'later'"),
        (["index=1000000000"], "must be from 0 to"),
        (["obs_mode=packed"], "obs_mode must be dict to play, got 'packed'"),
    ],
)
def test_a_mistake_is_one_line(words, message):
    with pytest.raises(SystemExit) as stopped:
        play.main(words)
    assert str(stopped.value).startswith("error: ")
    assert message in str(stopped.value)


def test_help(capsys):
    play.main(["--help"])
    assert "python -m textenv.play task=arithmetic" in capsys.readouterr().out


def test_every_task_is_listed_with_an_example(capsys):
    listing.main([])
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == list(BUILT_IN)
    shown = {line.split()[0]: line for line in lines}
    assert "What is 44 + 91?" in shown["arithmetic"]
    assert "path=problems.jsonl" in shown["jsonl"]


def test_one_task_is_shown_whole(capsys):
    listing.main(["guess", "high=9", "test_share=0.34"])
    out = capsys.readouterr().out
    assert out.startswith("guess: 6 train, 3 test; columns secret")
    assert "from 1 to 9" in out
    with pytest.raises(SystemExit):
        listing.main(["guess", "high=0"])
    assert "low must be below high" in capsys.readouterr().err


def test_a_name_that_gets_settings_becomes_their_target():
    assert parse_settings(["task=guess", "task.high=9"]) == {"task": {"_target_": "guess", "high": 9}}
    with pytest.raises(ValueError, match="index already has the value 3"):
        parse_settings(["index=3", "index.of=4"])


def test_they_run_as_programs_without_torch():
    code = (
        "import sys, runpy; sys.argv = ['tasks', 'guess']; runpy.run_module('textenv.tasks', run_name='__main__'); "
        "assert 'torch' not in sys.modules"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert out.returncode == 0, out.stderr
    assert "guess" in out.stdout

import io
import math

from rich.console import Console

from agents.progress import QUIET_SECONDS, Progress, printable, sparkline

METRICS = {"reward/mean": 0.5, "eval/accuracy": 0.25, "kl": 0.001, "explained_variance": math.nan, "other": 1.0}


def shown(terminal, act, num_iterations=10):
    console = Console(file=io.StringIO(), force_terminal=terminal, width=100, color_system=None, legacy_windows=False)
    with Progress(num_iterations, title="GRPO", console=console) as progress:
        act(progress)
    return console.file.getvalue()


def test_without_a_terminal_every_iteration_is_one_plain_line():
    def act(progress):
        progress.note("loading [the model]")
        progress.update(1, METRICS, ("prompt", "completion", 1.0))
        progress.update(2, {"reward/mean": 0.75})

    first, second, third = shown(False, act).splitlines()
    assert first == "loading [the model]"
    assert second.startswith("iteration  1/10  reward 0.500  held-out accuracy 0.250  KL 0.0010  left 0:0")
    assert third.startswith("iteration  2/10  reward 0.750  left")


def test_a_terminal_gets_a_panel_with_the_sample_and_what_was_measured():
    def act(progress):
        progress.update(3, METRICS, ("What is 1 + 1?", "[b]2[/b]\x1b[2J", 1.0))
        progress.update(4, {"reward/mean": 0.75})

    text = shown(True, act)
    last = text[text.rindex("╭") :]
    for part in (
        "GRPO",
        "4/10",
        "reward",
        "0.750",
        "▁█",
        "held-out accuracy",
        "0.250",
        "1 + 1?",
        "[b]2[/b]·[2J",
        "score",
    ):
        assert part in last
    assert "explained" not in text
    assert "\x1b[2J" not in text


def test_the_panel_lives_through_runs_without_iterations_or_metrics():
    assert "0/0" in shown(True, lambda progress: None, num_iterations=0)
    assert "1/1" in shown(True, lambda progress: progress.update(1, {}), num_iterations=1)


def test_sparkline_of_equal_and_of_many_numbers():
    assert sparkline([0.3, 0.3]) == "▁▁"
    line = sparkline([float(x) for x in range(1000)])
    assert len(line) == 32
    assert line == "".join(sorted(line))


def test_long_samples_are_cut():
    assert printable("a\n\n\nb") == "a\nb"
    assert printable("x\n" * 50).endswith("x …")
    assert len(printable("y" * 5000)) < 410


def test_a_long_iteration_says_what_it_is_doing():
    """In a panel at once, until the iteration is over; as a line only where nothing was said for a while."""

    def act(progress):
        progress.update(1, {"reward/mean": 0.5})
        progress.busy("20 of 32 groups vary, round 3 of 11")

    assert "20 of 32 groups vary, round 3 of 11" in shown(True, act)
    assert shown(False, act).count("\n") == 1

    def act_slowly(progress):
        act(progress)
        progress._said -= QUIET_SECONDS
        progress.busy("27 of 32 groups vary, round 4 of 11")
        progress.busy("31 of 32 groups vary, round 5 of 11")

    assert shown(False, act_slowly).splitlines()[1:] == ["iteration 2: 27 of 32 groups vary, round 4 of 11"]

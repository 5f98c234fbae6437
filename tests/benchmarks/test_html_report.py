import json
import re
from html.parser import HTMLParser

import pytest
from runs_of_agents import contender, noisy, results, run_result

from benchmarks.contest_results import Failure
from benchmarks.contest_table import table
from benchmarks.html_report import report
from benchmarks.svg import Interval, Line, curves, intervals, ticks

VOID = {"meta", "line", "circle"}
LOADS = {"script", "link", "img", "iframe", "object", "embed", "audio", "video", "source", "image", "use", "base"}


class Page(HTMLParser):
    """Counts what is opened and closed."""

    def __init__(self):
        super().__init__()
        self.open, self.seen, self.attributes, self.text = [], [], [], []

    def handle_starttag(self, tag, attrs):
        self.seen.append(tag)
        self.attributes += attrs
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.seen.append(tag)
        self.attributes += attrs

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text.append(data)


def parsed(page):
    reader = Page()
    reader.feed(page)
    reader.close()
    assert reader.open == []
    return reader


@pytest.fixture
def three():
    runs = noisy("ppo", 0.9) + noisy("grpo", 0.9, slow=2.0) + noisy("<slow>", 0.1)
    failure = Failure("ppo", 7, "python -m agents.train ended with 1:\nerror: out of <memory>")
    names = ["ppo", "grpo", "<slow>"]
    found = [contender(name, env={"max_new_tokens": 8 if name == "grpo" else 4}) for name in names]
    return results(runs, names, [failure], contenders=found)


def test_the_report_is_whole_and_says_what_the_table_says(three):
    page = parsed(report(three))
    text = " ".join("".join(page.text).split())
    assert page.seen.count("svg") == 7
    assert "ppo is better than <slow> in held-out accuracy" in text
    assert "No significant difference between ppo and grpo in held-out accuracy" in text
    assert "ppo, seed 7, broke off and is left out, which flatters it: error: out of <memory>" in text
    assert "Not the agent's and not equal: env.max_new_tokens (ppo 4, grpo 8, <slow> 4)." in text
    for part in ("abc", "python -m benchmarks.ppo_vs_grpo", "clip_low", "5 seeds (0, 1, 2, 3, 4)", "P, 2 cores"):
        assert part in text


def test_the_report_loads_nothing(three):
    page = report(three)
    reader = parsed(page)
    assert not LOADS & set(reader.seen)
    assert not {"src", "href", "xlink:href", "srcset", "background"} & {name for name, _ in reader.attributes}
    assert not re.search(r"https?:|//|@import|url\(", re.sub(r"<pre>.*?</pre>", "", page, flags=re.DOTALL))
    assert "default-src 'none'" in page


def test_the_report_has_colours_for_light_and_dark(three):
    style = report(three).partition("<style>")[2].partition("</style>")[0]
    dark = style.partition("prefers-color-scheme: dark")[2]
    for name in ("--page", "--text", "--c0", "--c6"):
        assert style.count(f"{name}: #") == 2
        assert f"{name}: #" in dark
    assert "LIGHT" not in style


def test_the_report_is_made_of_what_the_json_holds(three):
    assert report(json.loads(json.dumps(three))) == report(three)


@pytest.mark.parametrize("seeds", [1, 2])
def test_few_seeds_one_agent_or_no_samples_still_make_a_report(seeds):
    one = [run_result("ppo", s, samples=0, num_correct=[]) for s in range(seeds)]
    two = [run_result(name, s) for name in ("ppo", "grpo") for s in range(seeds)]
    for made in (results(one, ["ppo"]), results(two, ["ppo", "grpo"])):
        parsed(report(made))
        assert "held-out accuracy at the end" in table(made)


def test_the_table_tells_verdicts_numbers_and_what_was_censored():
    runs = [run_result("ppo", s, (0.2, 0.6, 1.0)) for s in range(3)]
    runs += [run_result("grpo", s, (0.2, 0.3, 0.4 + 0.3 * s)) for s in range(3)]
    text = table(results(runs, ["ppo", "grpo"], target=0.9, tokens=300))
    assert (
        "| tokens to 0.9 (median, range) | 300 (300 to 300) | more than 300 (300 to more than 300); 2 of 3 never |"
        in text
    )
    assert "| the same, each seed | 1.000, 1.000, 1.000 | 0.400, 0.700, 1.000 |" in text
    assert "| after 50% of the tokens (lowest to highest seed) | 0.400 | 0.250 |" in text
    assert "| of these collecting / updating | 75% / 25% | 75% / 25% |" in text
    assert "| tokens to 0.9 | `grpo` / `ppo` | at least 1.00 (1.00 to 1.00) |" in text
    assert "grpo: `python -m agents.train agent=grpo seed=0`" in text


def test_settings_that_are_not_equal_are_told_group_by_group():
    rewards = [None, {"a": 1, "b": 2}]
    found = [contender(name, reward=reward) for name, reward in zip("xy", rewards, strict=True)]
    text = table(results(noisy("x", 0.5) + noisy("y", 0.5), "xy", contenders=found))
    assert "2 settings of reward, among them reward.a (x None, y 1)" in text


def test_a_curve_stands_where_its_numbers_are():
    """x from 0 to 10 lies between the pixels 52 and 546, y from 0 to 1 between 260 and 30."""
    picture = curves([Line("a", [0, 10], [0, 1], [0, 1], [0, 1])], title="t", x_label="x", y_range=(0.0, 1.0))
    assert 'points="52,260 546,30"' in picture


def test_an_interval_stands_where_its_numbers_are():
    picture = intervals([Interval("a", 0.0, -1.0, 1.0, 2)], title="t", x_label="x")
    bar = re.search(r'class="bar c2" x1="([\d.]+)" x2="([\d.]+)"', picture)
    dot = re.search(r'class="dot c2" cx="([\d.]+)"', picture)
    assert float(dot[1]) == pytest.approx((float(bar[1]) + float(bar[2])) / 2)
    assert float(bar[1]) < float(dot[1])


def test_long_names_leave_room_for_their_intervals():
    """60 letters are 404 wide, and 260 more are for intervals and numbers: the line at 0 stands right of the label."""
    picture = intervals([Interval("a" * 60, 0.0, -1.0, 1.0, 2)], title="t", x_label="x")
    assert 'viewBox="0 0 664 ' in picture
    assert float(re.search(r'class="zero" x1="([\d.]+)"', picture)[1]) > 404


def test_ticks_are_round_numbers_inside_of_the_axis():
    assert ticks(-0.13, 0.31) == [-0.1, 0.0, 0.1, 0.2, 0.3]
    assert ticks(0, 7) == [0, 2, 4, 6]

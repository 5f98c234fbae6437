import glob
import os
import tempfile
import time

import pytest

from rewards import Sample, Scorer
from rewards.code import UnitTests
from rewards.code.plain_data import from_line, to_line

TESTS = "assert add(1, 2) == 3\nassert add(2, 2) == 4"


def run(program, tests=TESTS, *, timeout_seconds=2.0, **arguments):
    reward = UnitTests(timeout_seconds=timeout_seconds, memory_mb=256)
    return reward(completion=f"Here it is:\n```python\n{program}\n```\nDone.", tests=tests, **arguments)


def test_a_right_program_passes():
    score = run("def add(a, b):\n    return a + b")
    assert (score.value, score.info) == (1.0, {"reason": "passed", "passed": 2, "total": 2})


def test_a_wrong_program_fails_and_says_where():
    score = run("def add(a, b):\n    return 3")
    assert (score.value, score.info) == (0.0, {"reason": "test 2 of 2: AssertionError", "passed": 1, "total": 2})


def test_partial_gives_the_share_that_passed():
    reward = UnitTests(partial=True)
    assert reward(completion="def f(x): return x", tests=["assert f(1) == 1", "assert f(2) == 3"]).value == 0.5


def test_check_of_a_candidate_is_called_with_the_entry_point():
    tests = "def check(candidate):\n    assert candidate([3, 1]) == [1, 3]\n"
    assert run("def order(xs):\n    return sorted(xs)", tests, entry_point="order").value == 1.0
    assert run("def order(xs):\n    return xs", tests, entry_point="order").value == 0.0


def test_trusted_helpers_of_the_tests_come_from_setup():
    setup = "def double(x):\n    return 2 * x"
    tests = "def check(candidate):\n    assert candidate(double(2)) == 2"
    program = "def half(x):\n    return x // 2\ndef double(x):\n    return 0"
    assert run(program, tests, entry_point="half", setup=setup).value == 1.0


def test_changes_to_mutable_arguments_come_back():
    assert run("def f(xs):\n    xs.append(1)", "a = [0]\nf(a)\nassert a == [0, 1]").value == 1.0


def test_an_expected_exception_can_be_tested():
    tests = "try:\n    f(-1)\nexcept ValueError:\n    ok = True\nassert ok"
    assert run("def f(x):\n    raise ValueError('negative')", tests).value == 1.0


FORGERIES = {
    "sys.exit at import": "import sys\nsys.exit(0)",
    "os._exit at import": "import os\nos._exit(0)",
    "sys.exit in a call": "import sys\ndef add(a, b): sys.exit(0)",
    "os._exit in a call": "import os\ndef add(a, b): os._exit(0)",
    "exit from a thread": "import os, threading\nthreading.Timer(0.05, os._exit, (0,)).start()\ndef add(a, b): 0",
    "printed marker": "print('passed')\nprint('OK')\ndef add(a, b):\n    print('passed')\n    return 0",
    "marker on all descriptors": (
        "import os\ndef add(a, b):\n"
        '    for n in range(64):\n        try: os.write(n, b\'""\\n""\\n\')\n        except OSError: pass'
    ),
    "always equal": "class E:\n    def __eq__(self, other): return True\ndef add(a, b): return E()",
    "equal integer": "class I(int):\n    def __eq__(self, other): return True\ndef add(a, b): return I(0)",
    "frames": (
        "import sys\ndef add(a, b):\n    frame = sys._getframe()\n"
        "    while frame.f_back: frame = frame.f_back\n    frame.f_globals['ok'] = 1\n    return 0"
    ),
    "patched builtins": "import builtins\nbuiltins.all = lambda xs: True\ndef add(a, b): return 0",
    "signal to the parent": "import os, signal\ndef add(a, b):\n    os.kill(os.getpid(), signal.SIGKILL)",
    "wrong name": "def sub(a, b): return a - b",
    "syntax error": "def add(a, b) return",
    "deep nesting": "(" * 5000,
    "deep result": "def add(a, b):\n    r = []\n    for _ in range(10**5): r = [r]\n    return r",
    "large result": "def add(a, b): return 'x' * 2**21",
    "memory bomb": "def add(a, b): return len([0] * 10**9)",
    "recursion": "def add(a, b): return add(a, b)",
    "nan": "def add(a, b): return float('nan')",
    "segmentation fault": "import ctypes\ndef add(a, b): ctypes.string_at(0)",
}


@pytest.mark.parametrize("program", FORGERIES.values(), ids=FORGERIES)
def test_no_trick_makes_a_wrong_program_pass(program):
    score = run(program)
    assert score.value == 0.0
    assert score.info["passed"] == 0
    assert score.info["reason"]


def test_a_programs_all_does_not_replace_the_tests_all():
    program = "def all(xs): return True\ndef add(a, b): return 0"
    assert run(program, "assert all(add(n, n) == 2 * n for n in (1, 2))").value == 0.0


@pytest.mark.parametrize(
    "program",
    [
        "while True: pass",
        "def add(a, b):\n    while True: pass",
        "def add(a, b):\n    while 1:\n        try:\n            while 1: pass\n        except BaseException: pass",
        "def add(a, b):\n    while True: print('x' * 100000)",
        "import signal\nsignal.signal(signal.SIGTERM, signal.SIG_IGN)\ndef add(a, b):\n    while True: pass",
        "import time\ndef add(a, b): time.sleep(600)",
    ],
)
def test_what_never_ends_is_a_zero_at_the_deadline(program):
    started = time.monotonic()
    score = run(program, timeout_seconds=0.5)
    assert (score.value, score.info["reason"]) == (0.0, "timed out")
    assert time.monotonic() - started < 3.0


def test_a_fork_is_killed_with_the_program(tmp_path):
    mark = tmp_path / "alive"
    program = (
        "import os, time\n"
        f"if os.fork() == 0:\n    time.sleep(1.0)\n    open({str(mark)!r}, 'w')\n    os._exit(0)\n"
        "def add(a, b): return a + b"
    )
    assert run(program).value == 1.0
    time.sleep(1.3)
    assert not mark.exists()


def test_the_environment_is_empty_and_the_folder_is_removed(monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "secret")
    before = set(glob.glob(os.path.join(tempfile.gettempdir(), "textenv-code-*")))
    program = (
        "import os\nopen('file', 'w').write('x')\n"
        "def look(): return [k for k in os.environ if 'TOKEN' in k], os.listdir('.'), 'textenv-code' in os.getcwd()"
    )
    assert run(program, "assert look() == ([], ['file'], True)").value == 1.0
    assert set(glob.glob(os.path.join(tempfile.gettempdir(), "textenv-code-*"))) <= before


@pytest.mark.parametrize(
    ("completion", "value"),
    [
        ("def f(): return 1", 1.0),
        ("```\ndef f(): return 1\n```", 1.0),
        ("```python\ndef f(): return 2\n```\nbetter:\n```python\ndef f(): return 1\n```", 1.0),
        ("```python\ndef f(): return 1\n```\nIt prints\n```text\n1\n```", 1.0),
        ("```python\ndef f(): return 1", 1.0),
        ("<think>```python\ndef f(): return 1\n```</think>```python\ndef f(): return 2\n```", 0.0),
        ("```bash\nls\n```", 0.0),
        ("", 0.0),
    ],
)
def test_the_last_python_block_is_the_program(completion, value):
    assert UnitTests()(completion=completion, tests="assert f() == 1").value == value


def test_a_batch_scores_in_order_and_a_row_without_tests_is_invalid():
    good, bad = "def add(a, b): return a + b", "def add(a, b): return a"
    samples = [Sample("", text, row={"tests": TESTS}) for text in (good, bad, good)] + [Sample("", good)]
    with Scorer(UnitTests()) as scorer:
        scorer.require(["tests"])
        verdicts = scorer.score(samples)
    assert [(v.value, v.valid) for v in verdicts] == [(1.0, True), (0.0, True), (1.0, True), (0.0, False)]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"tests": "assert ("}, "tests must be Python source"),
        ({"tests": ""}, "tests must hold at least one statement, got none"),
        ({"tests": "def check(candidate): pass"}, "must come with entry_point"),
        ({"tests": TESTS, "setup": "1 / 0"}, "setup must run before the tests, got setup: ZeroDivisionError"),
    ],
)
def test_a_broken_test_is_the_data_sets_error(arguments, message):
    with pytest.raises(ValueError, match=message):
        UnitTests()(completion="def add(a, b): return 1", **arguments)


@pytest.mark.parametrize(
    "value", [None, True, 3, -1.5, "a\n", b"\x00", 1j, [1, (2, {3}), frozenset({4})], {(1, 2): [None]}]
)
def test_plain_data_survives_the_way(value):
    assert from_line(to_line(value)) == value


@pytest.mark.parametrize("line", [b"[1]", b"{}", b'{"list": 3}', b'{"eval": "1"}', b"[" * 100_000, b"\xff"])
def test_lines_that_are_no_plain_data_are_refused(line):
    with pytest.raises(ValueError):
        from_line(line)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"timeout_seconds": 0}, "timeout_seconds must be above 0, got 0"),
        ({"memory_mb": 8}, "memory_mb must be at least 64, got 8"),
        ({"concurrency": 0}, "concurrency must be at least 1, got 0"),
    ],
)
def test_a_wrong_setting_is_named(settings, message):
    with pytest.raises(ValueError, match=message):
        UnitTests(**settings)

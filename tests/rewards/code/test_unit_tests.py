import glob
import os
import tempfile
import time

import pytest
from attacks import TESTS as ADDITION
from attacks import VERDICT

from rewards import Sample, Scorer
from rewards.code import UnitTests, sandbox
from rewards.code.plain_data import from_line, to_line
from rewards.code.program import program_of

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


@pytest.mark.parametrize("program", VERDICT.values(), ids=VERDICT)
def test_no_trick_makes_a_wrong_program_pass(program):
    """Whatever layers this machine has: the two processes alone see to it."""
    score = run(program, ADDITION)
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


def test_the_environment_is_empty_and_the_folder_is_removed(monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "secret")
    program = (
        "import os\nopen('file', 'w').write('x')\n"
        "def look(): return [k for k in os.environ if 'TOKEN' in k], os.listdir('.'), 'textenv-code' in os.getcwd()"
    )
    assert run(program, "assert look() == ([], ['file'], True)").value == 1.0
    assert run("import os\ndef look(): return os.listdir('.')", "assert look() == []").value == 1.0
    sandbox.close()
    assert not glob.glob(os.path.join(tempfile.gettempdir(), f"textenv-code-{os.getpid()}-*"))


SUM = "a, b = map(int, input().split())\nprint(a + b)"


@pytest.mark.parametrize(
    ("program", "reason"),
    [
        (SUM, "passed"),
        ("import sys\nprint(sum(map(int, sys.stdin.read().split())), end='  \\n\\n')", "passed"),
        ("import sys\nsys.stdout.buffer.write(b'3')\nsys.exit()", "passed"),
        ("import os\nos.write(1, b'3')\nos._exit(0)", "passed"),
        ("import atexit\natexit.register(print, 3)", "passed"),
        ("import threading, time\nthreading.Timer(0.1, print, (3,)).start()", "passed"),
        ("if __name__ == '__main__':\n    print(3)", "passed"),
        ("print(' 3')", "test 1 of 1: printed ' 3\\n'"),
        ("print('3\\n4')", "test 1 of 1: printed '3\\n4\\n'"),
        ("", "a program must have from 1 to 100000 characters"),
        ("print(3)\n1 / 0", "test 1 of 1: exit status 1: ZeroDivisionError: division by zero"),
        ("print(3)\nraise SystemExit('wrong')", "test 1 of 1: exit status 1"),
        ("print(3, flush=True)\nimport os\nos.abort()", "test 1 of 1: killed by signal"),
        ("print(", "test 1 of 1: exit status 1: SyntaxError: '(' was never closed (<program>, line 1)"),
        ("input()\ninput()", "test 1 of 1: exit status 1: EOFError: EOF when reading a line"),
        ("while True: print('x' * 10000)", "test 1 of 1: timed out"),
        ("import time\nprint(3, flush=True)\ntime.sleep(9)", "test 1 of 1: timed out"),
        ("print('x' * 2000000)", "test 1 of 1: it printed more than may be kept"),
        (
            "import sys\nclass E(str):\n    def __eq__(self, other): return True\nprint(E('4'))",
            "test 1 of 1: printed '4\\n'",
        ),
    ],
)
def test_a_script_is_judged_by_what_it_prints(program, reason):
    score = UnitTests(timeout_seconds=1.0)(f"```python\n{program}\n```", [{"input": "1 2\n", "output": "3\n"}])
    assert score.info["reason"].startswith(reason)
    assert score.value == float(reason == "passed")


def test_each_case_of_a_script_is_a_run_of_its_own():
    program = "import os\nprint(len(os.listdir('.')))\nopen('mark', 'w').close()\nprint(input())"
    tests = {"inputs": ["a", "b", "c"], "outputs": ["0\na", "0\nb", "0\nx"]}
    score = UnitTests(partial=True)(program, tests)
    assert (score.value, score.info["reason"]) == (2 / 3, "test 3 of 3: printed '0\\nc\\n'")


def test_a_script_need_not_read_its_input_and_may_read_much():
    assert UnitTests()("print(1)", [{"input": "x" * 3_000_000, "output": "1"}]).value == 1.0
    program = "import sys\nprint(len(sys.stdin.read()))"
    assert UnitTests()(program, [{"input": "é\n" * 500_000, "output": "1000000"}]).value == 1.0


def test_time_left_over_is_for_the_next_cases():
    score = UnitTests(timeout_seconds=0.5, partial=True)(
        "import time\ntime.sleep(0.3)", [{"input": "", "output": ""}] * 3
    )
    assert (score.value, score.info["reason"]) == (1 / 3, "test 2 of 3: timed out")


CLASSES = (
    "class Stack:\n    def __init__(self): self.items = []\n    def push(self, x): self.items.append(x); return self"
)


def test_classes_are_tested_in_the_same_process_only():
    tests = ["assert Stack().push(3).items == [3]", "assert Stack().items == [0]", "assert Stack().items == []"]
    score = UnitTests(same_process=True, partial=True)(CLASSES, tests)
    assert (score.value, score.info["reason"]) == (2 / 3, "test 2 of 3: AssertionError")
    apart = UnitTests()(CLASSES, tests)
    assert apart.value == 0.0
    assert "no plain data (TypeError: a Stack is no plain data)" in apart.info["reason"]


def test_the_same_process_has_the_setup_and_calls_check():
    tests = "def check(candidate):\n    assert candidate(double(1)) == 1\n    assert next(iter(make())) == 1"
    setup = "def double(x): return 2 * x"
    program = "from __future__ import annotations\ndef half(x): return x // 2\ndef make(): yield 1"
    assert UnitTests(same_process=True)(program, tests, entry_point="half", setup=setup).value == 1.0


def test_what_leaves_the_same_process_is_a_zero():
    for leave in ("import os\nos._exit(0)", "import os\nclass Stack:\n    def __init__(self): os._exit(0)"):
        score = UnitTests(same_process=True)(leave, "assert Stack().items == []")
        assert (score.value, score.info["passed"]) == (0.0, 0)


def test_a_value_that_is_no_plain_data_is_not_the_error_that_a_test_waits_for():
    tests = "try:\n    f()\nexcept TypeError:\n    ok = True\nassert ok"
    assert run("def f(): return object()", tests).value == 0.0
    assert run("def f(): raise TypeError", tests).value == 1.0


def test_integers_of_any_length_come_back():
    assert run("def f(n): return 7 ** n", "assert f(20_000) == 7 ** 20_000\nassert f(1) == 7").value == 1.0
    assert run("def f(n): return -(1 << n)", "assert f(63) == -(2 ** 63)\nassert f(64) == -(2 ** 64)").value == 1.0


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


def test_functions_in_the_manner_of_pytest_are_called():
    tests = "def test_one():\n    assert f(1) == 1\ndef test_two():\n    assert f(2) == 3\ndef helper(): assert False"
    score = UnitTests(partial=True)("def f(x): return x", tests)
    assert (score.info["passed"], score.info["reason"]) == (1, "test 2 of 2: AssertionError")
    assert UnitTests()("def f(x): return x", ["def test_two():\n    assert f(2) == 3"]).value == 0.0


UNITTEST = "import unittest\nclass T(unittest.TestCase):\n    def test(self): self.assertEqual(f(), 1)"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"tests": "assert ("}, "tests must be Python source"),
        ({"tests": ""}, "tests must hold at least one test, got none"),
        ({"tests": []}, "tests must hold at least one test, got none"),
        ({"tests": "# nothing"}, "tests must check something, got ''"),
        ({"tests": ["assert True", "x = 1"]}, "tests must check something, got 'x = 1'"),
        ({"tests": [3]}, r"tests\[0\] must be Python source, got 3"),
        ({"tests": ["assert f()", ["assert g()"]]}, r"tests\[1\] must be Python source, got \['assert g"),
        ({"tests": b"assert f()"}, r"tests\[0\] must be Python source, got 97"),
        ({"tests": UNITTEST}, "tests must run what they define, got the class T, which nobody runs"),
        ({"tests": None}, "tests must be Python source, a list of sources, or input and output, got None"),
        ({"tests": "def check(candidate): pass"}, "must come with entry_point"),
        ({"tests": TESTS, "setup": "1 / 0"}, "setup must run before the tests, got ZeroDivisionError"),
        ({"tests": [{"input": "1"}]}, r"tests\[0\] must have texts input and output, got {'input': '1'}"),
        ({"tests": [{"input": "1", "output": "1"}, "x"]}, r"tests\[1\] must have texts input and output, got 'x'"),
        ({"tests": {"inputs": ["1"], "outputs": []}}, "lists inputs and outputs of equal length above 0"),
        ({"tests": {"inputs": "1", "outputs": "1"}}, "lists inputs and outputs of equal length above 0"),
    ],
)
def test_a_broken_test_is_the_data_sets_error(arguments, message):
    with pytest.raises(ValueError, match=message):
        UnitTests()(completion="def add(a, b): return 1", **arguments)


def test_a_row_without_tests_says_what_it_has():
    (failure,) = UnitTests().score_batch([Sample("", "def f(): 1", row={"answer": "3", "test": "x"})])
    assert failure.reason == "ValueError: the row must have a column 'tests', got ['answer', 'test']"


VALUES = [None, True, 3, -1.5, "a\n\ud800", b"\x00", 1j, [1, (2, {3}), frozenset({4})], {(1, 2): [None]}, {1: True}]
VALUES += [float("inf"), 2**63 - 1, -(2**63), 10**5000, -(10**5000)]


@pytest.mark.parametrize("value", VALUES, ids=map(str, range(len(VALUES))))
def test_plain_data_survives_the_way(value):
    assert repr_of(from_line(to_line(value))) == repr_of(value)


def repr_of(value):
    """With types: True is not 1. Integers in hexadecimal, where Python has no limit of digits."""
    return hex(value) if type(value) is int else repr(value)


@pytest.mark.parametrize("value", [object(), Ellipsis, range(3), iter([]), int, len, {1: object()}, bytearray(b"x")])
def test_what_behaves_is_no_plain_data(value):
    with pytest.raises(TypeError, match="is no plain data"):
        to_line(value)


def test_depth_and_size_are_bounded():
    deep, wide = [], "x" * (1 << 20)
    for _ in range(100_000):
        deep = [deep]
    with pytest.raises(ValueError, match="nested 40 deep"):
        to_line(deep)
    with pytest.raises(ValueError, match="may take 1048576 bytes"):
        to_line(wide)
    assert from_line(to_line([[[[[[[[[[1]]]]]]]]]])) == [[[[[[[[[[1]]]]]]]]]]


LINES = [b"[1]", b"{}", b'{"list": 3}', b'{"eval": "1"}', b"[" * 100_000, b"\xff", b'{"int": "x"}', b'{"int": 3}']
LINES += [b"1" * 5000, b'{"set": [{"list": []}]}', b'{"dict": [[1]]}', b'{"list": [], "set": []}', b'{"bytes": "0"}']


@pytest.mark.parametrize("line", LINES)
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


def test_an_answer_that_ends_a_loop_of_the_tests_is_no_pass():
    program = "def f(x): raise StopIteration"
    for test in ("assert all(map(f, [1, 2]))", "for got, want in zip(map(f, [1]), [2]):\n    assert got == want"):
        assert UnitTests()(completion=program, tests=[test + "\nassert True or f"]).value == 0.0


def test_what_a_program_prints_is_not_taken_for_it():
    text = "```python\ndef add(a, b): return a + b\n```\nOutput:\n```\n5\n```\n"
    assert program_of(text) == "def add(a, b): return a + b"
    assert program_of("```\nx = 1\n```\n```\nx = 2\n```") == "x = 2"


def test_a_long_line_behind_a_fence_is_looked_at_once():
    """Each of the two parts of it would otherwise be tried at every length: minutes for 200 kB."""
    started = time.monotonic()
    assert program_of("```" + "a" * 200_000 + "`") == "```" + "a" * 200_000 + "`"
    assert time.monotonic() - started < 10


def test_what_the_tests_cannot_import_is_the_datas_fault():
    with pytest.raises(ValueError, match="the tests' own import: ModuleNotFoundError: No module named"):
        UnitTests()(completion="def f(): return 1", tests="import no_such_module\nassert f() == 1")
    assert UnitTests()(completion="def f(): return 1", tests="import math\nassert f() == math.floor(1.5)").value == 1.0


def test_tests_of_a_name_that_python_has_need_an_entry_point():
    program, tests = "def sum(a, b): return a + b", "assert sum(10, 15) == 25"
    with pytest.raises(ValueError, match="a name of the program alone, or come with entry_point"):
        UnitTests()(completion=program, tests=tests)
    assert UnitTests()(completion=program, tests=tests, entry_point="sum").value == 1.0

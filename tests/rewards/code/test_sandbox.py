import json
import multiprocessing
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path

import pytest

from rewards import Sample
from rewards.code import UnitTests, sandbox, server
from rewards.code.folders import remove_tree
from rewards.code.layers import LAYERS
from rewards.errors import Failure

ROOT = Path(__file__).resolve().parents[3]
TESTS = "assert add(1, 2) == 3"
RIGHT = "def add(a, b): return a + b"
SLOW = "import time\ndef add(a, b):\n    time.sleep(1.0)\n    return a + b"


def server_pid():
    return sandbox._server(sandbox.Settings()).pid


def alive(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def wait_until(holds, seconds=5.0):
    deadline = time.monotonic() + seconds
    while not holds() and time.monotonic() < deadline:
        time.sleep(0.02)
    return holds()


def test_a_killed_server_is_replaced_and_the_caller_goes_on():
    reward = UnitTests()
    assert reward(RIGHT, TESTS).value == 1.0
    first = server_pid()
    os.kill(first, signal.SIGKILL)
    assert reward(RIGHT, TESTS).value == 1.0
    assert server_pid() != first


def test_a_server_killed_under_a_program_is_replaced_and_the_program_graded_again():
    reward = UnitTests(timeout_seconds=5)
    reward(RIGHT, TESTS)
    first, folder = server_pid(), told_folder()
    timer = threading.Timer(0.4, os.kill, (first, signal.SIGKILL))
    timer.start()
    assert reward(SLOW, TESTS).value == 1.0
    timer.join()
    assert server_pid() != first
    assert not os.path.exists(folder)


def told_folder():
    """Of this process's server: others, of tests beside this one, have theirs in the same place."""
    own = Path(f"/proc/{server_pid()}/root/tmp").glob(f"textenv-code-{os.getpid()}-*")
    return str(max(own, key=os.path.getctime)).partition("root")[2]


def test_a_server_that_dies_each_time_is_the_graders_failure(monkeypatch):
    reward = UnitTests()
    kept = server.Server.ask

    def dying(self, request, job):
        os.kill(self.pid, signal.SIGKILL)
        return kept(self, request, job)

    monkeypatch.setattr(server.Server, "ask", dying)
    (outcome,) = reward.score_batch([Sample("", RIGHT, row={"tests": TESTS})])
    assert isinstance(outcome, Failure)
    assert outcome.reason == "SandboxError: the fork server died 3 times under a program"


def test_programs_and_processes_end_with_the_server():
    reward = UnitTests(timeout_seconds=20)
    reward(RIGHT, TESTS)
    server = server_pid()
    thread = threading.Thread(target=lambda: reward(SLOW, TESTS))
    thread.start()
    assert wait_until(lambda: len(children(server)) == 2)
    started = children(server)
    os.kill(server, signal.SIGKILL)
    assert wait_until(lambda: not any(alive(pid) for pid in started))
    thread.join()


def children(pid):
    try:
        return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except OSError:
        return []


def grade_in_child(pipe):
    pipe.send((UnitTests()(RIGHT, TESTS).value, server_pid()))
    pipe.close()


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_a_fork_of_the_trainer_starts_a_server_of_its_own():
    UnitTests()(RIGHT, TESTS)
    before = server_pid()
    ours, theirs = multiprocessing.Pipe()
    child = multiprocessing.get_context("fork").Process(target=grade_in_child, args=(theirs,))
    child.start()
    assert ours.poll(30)
    value, its_server = ours.recv()
    child.join()
    assert (value, server_pid()) == (1.0, before)
    assert its_server != before
    assert wait_until(lambda: not alive(its_server))
    assert UnitTests()(RIGHT, TESTS).value == 1.0


def test_a_server_leaves_when_its_trainer_is_killed():
    script = textwrap.dedent(f"""
        import os, signal
        from rewards.code import UnitTests, sandbox
        assert UnitTests()({RIGHT!r}, {TESTS!r}).value == 1.0
        print(sandbox._server(sandbox.Settings()).pid, flush=True)
        os.kill(os.getpid(), signal.SIGKILL)
    """)
    done = subprocess.run([sys.executable, "-c", script], stdout=subprocess.PIPE, cwd=ROOT)
    assert done.returncode == -signal.SIGKILL
    assert wait_until(lambda: not alive(int(done.stdout)))


def test_threads_share_a_server():
    reward = UnitTests(concurrency=4)
    samples = [Sample("", RIGHT if n % 2 else "def add(a, b): return 0", row={"tests": TESTS}) for n in range(12)]
    reward(RIGHT, TESTS)
    before = server_pid()
    assert [score.value for score in reward.score_batch(samples)] == [0.0, 1.0] * 6
    assert server_pid() == before


def test_programs_run_side_by_side():
    reward = UnitTests(concurrency=4)
    reward(RIGHT, TESTS)
    started = time.monotonic()
    assert [s.value for s in reward.score_batch([Sample("", SLOW, row={"tests": TESTS})] * 4)] == [1.0] * 4
    assert time.monotonic() - started < 3.0


def test_every_layer_is_told_of():
    found = UnitTests().layers()
    assert list(found) == list(LAYERS)
    assert all(layer.detail for layer in found.values())
    assert not found["bubblewrap"].active


def test_the_layers_are_printed(capsys):
    sandbox.main([])
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == list(LAYERS)
    assert {line.split()[1] for line in lines} <= {"active", "INACTIVE"}
    sandbox.main(["--json"])
    assert json.loads(capsys.readouterr().out).keys() == LAYERS.keys()


def test_a_layer_left_out_is_inactive_and_its_rule_not_in_force():
    program = (
        "import os\ndef add(a, b):\n    pid = os.fork()\n    if pid == 0: os._exit(0)\n    return os.waitpid(pid, 0)[1]"
    )
    tests = "assert add(1, 2) == 0"
    assert UnitTests(without=["seccomp"])(program, tests).value == 1.0
    found = UnitTests(without=["seccomp"]).layers()["seccomp"]
    assert (found.active, found.detail) == (False, "left out on request")
    if UnitTests().layers()["seccomp"].active:
        assert (
            UnitTests()(program, tests).info["reason"]
            == "test 1 of 1: PermissionError: [Errno 1] Operation not permitted"
        )


def test_a_required_layer_that_is_not_there_is_refused_with_its_reason():
    with pytest.raises(
        ValueError, match=r"require must name layers that hold .*, got bubblewrap \(the backend is fork_"
    ):
        UnitTests(require=["bubblewrap"])


def test_required_layers_that_hold_are_accepted():
    active = [name for name, layer in UnitTests().layers().items() if layer.active]
    assert active
    assert UnitTests(require=active)(RIGHT, TESTS).value == 1.0


def test_a_confinement_that_fails_is_the_graders_failure(monkeypatch):
    broken = "import sys; sys.path.insert(0, {root!r}); import rewards.code.confinement as c; c.prctl = None; "
    monkeypatch.setattr(server, "_BOOT", broken + server._BOOT)
    reward = UnitTests(without=["bubblewrap"])  # settings of its own, so a server of its own
    (outcome,) = reward.score_batch([Sample("", RIGHT, row={"tests": TESTS})])
    sandbox.close()
    assert isinstance(outcome, Failure)
    assert outcome.reason == "SandboxError: the sandbox could not be set up (it ended)"


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"require": ["landlok"]}, r"require must name layers of \[.*\], got 'landlok'"),
        ({"require": "landlock"}, "require must be a list of layers, got the text 'landlock'"),
        ({"without": ["walls"]}, r"without must name layers of \[.*\], got 'walls'"),
        ({"require": ["seccomp"], "without": ["seccomp"]}, r"without leaves out, got \['seccomp'\]"),
        ({"backend": "docker"}, r"backend must be one of \('fork_server', 'bubblewrap'\), got 'docker'"),
    ],
)
def test_a_wrong_setting_is_named(settings, message):
    with pytest.raises(ValueError, match=message):
        UnitTests(**settings)


def test_bubblewrap_that_is_not_installed_is_named(monkeypatch):
    monkeypatch.setattr("shutil.which", lambda *_, **__: None)
    monkeypatch.setattr("importlib.util.find_spec", lambda *_, **__: None)
    with pytest.raises(ValueError, match="backend bubblewrap needs the program bwrap on the PATH"):
        UnitTests(backend="bubblewrap")


def test_the_standard_library_can_be_imported_after_all_rights_are_gone():
    program = "def f(name):\n    return __import__(name, fromlist=['x']).__name__"
    names = [
        "sqlite3",
        "xml.etree.ElementTree",
        "concurrent.futures.thread",
        "zoneinfo",
        "tomllib",
        "unittest",
        "asyncio",
    ]
    tests = [f"assert f({name!r}) == {name!r}" for name in names]
    assert UnitTests(timeout_seconds=10)(program, tests).info == {"reason": "passed", "passed": 7, "total": 7}


def test_the_private_folder_can_be_used_and_is_empty_for_the_next():
    program = (
        "import os, tempfile\ndef f():\n    before = os.listdir('.')\n    os.makedirs('a/b')\n"
        "    with open('a/b/c', 'w') as file: file.write('x')\n    os.symlink('a', 'link')\n"
        "    with tempfile.TemporaryFile() as file: file.write(b'x')\n"
        "    return before, os.getcwd() == os.environ['HOME'] == tempfile.gettempdir()"
    )
    for _ in range(2):
        assert UnitTests()(program, "assert f() == ([], True)").info["reason"] == "passed"


def test_a_folder_is_removed_however_deep_wide_or_locked(tmp_path):
    top = tmp_path / "top"
    top.mkdir()
    here = os.getcwd()
    try:
        os.chdir(top)
        for _ in range(1000):  # far longer than a path may be
            os.mkdir("x" * 100)
            os.chdir("x" * 100)
    finally:
        os.chdir(here)
    for number in range(300):
        (top / f"file{number}\n").write_text("x")
    (top / "locked").mkdir()
    (top / "locked" / "file").write_text("x")
    (top / "locked").chmod(0)
    kept = tmp_path / "kept"
    kept.write_text("x")
    (top / "link").symlink_to(kept)
    (top / "folder").symlink_to(tmp_path)
    assert remove_tree(str(top), most=50) is False
    assert top.exists()
    assert remove_tree(str(top)) is True
    assert not top.exists()
    assert kept.read_text() == "x"

import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import user_rewards

from rewards import Sample, Scorer
from rewards.environment import worker_environment
from rewards.errors import Failure, RewardError
from rewards.workers import Pool

LIMIT = 30.0
linux_only = pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads /proc")


@pytest.fixture
def pool():
    pool = Pool({"act": user_rewards.act, "unpicklable": user_rewards.unpicklable})
    yield pool
    pool.close()


def ask(pool, *calls, timeout_seconds=LIMIT):
    return pool.run("act", calls, timeout_seconds=timeout_seconds)


def is_running(process_id):
    try:
        return Path(f"/proc/{process_id}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def await_end(*process_ids):
    deadline = time.monotonic() + 10.0
    while any(map(is_running, process_ids)) and time.monotonic() < deadline:
        time.sleep(0.02)
    return [process_id for process_id in process_ids if is_running(process_id)]


def test_a_worker_is_forked_from_a_server_that_is_no_fork_of_this_process(pool):
    (worker,) = ask(pool, "family")
    assert worker["parent"] != os.getpid()
    assert worker["grandparent"] == os.getpid()
    assert worker["first module"] == "rewards.worker_process"  # started by exec: none of our modules
    assert not worker["pytest is imported"]


def test_a_worker_in_place_of_a_killed_one_does_not_import_again(pool):
    """The rewards are imported once, by the server; `imported_at` is when."""
    before, lost, after = ask(pool, "imported_at", "hang", "imported_at", timeout_seconds=0.5)
    assert isinstance(lost, Failure)
    assert before == after


@linux_only
def test_a_call_that_overruns_is_killed_with_everything_that_it_started(pool):
    (child,) = ask(pool, "start a child")
    assert is_running(child)
    (lost,) = ask(pool, "hang", timeout_seconds=0.3)
    assert lost.timed_out
    assert not await_end(child)


@linux_only
def test_a_server_that_is_killed_is_replaced_and_takes_its_workers_with_it(pool):
    (worker,) = ask(pool, "family")
    os.kill(worker["parent"], signal.SIGKILL)
    assert not await_end(worker["parent"], worker["own"])
    assert ask(pool, "family")[0]["parent"] != worker["parent"]


def test_an_idle_worker_that_is_killed_costs_no_call(pool):
    (worker,) = ask(pool, "family")
    os.kill(worker["own"], signal.SIGKILL)
    await_end(worker["own"])
    time.sleep(0.05)
    (other,) = ask(pool, "family")
    assert other["own"] != worker["own"]


@linux_only
def test_closing_a_pool_leaves_no_process(pool):
    (worker,) = ask(pool, "family")
    pool.close()
    assert not await_end(worker["own"], worker["parent"])


@linux_only
def test_workers_leave_with_a_trainer_that_is_killed_even_while_they_hang(tmp_path):
    """The pattern holds the interpreter, so that no thread of the worker could notice anything."""
    script = (
        "import user_rewards\nfrom rewards.workers import Pool\n"
        "pool = Pool({'act': user_rewards.act})\n"
        "worker = pool.run('act', ['family'], timeout_seconds=30)[0]\n"
        "print(worker['own'], worker['parent'], flush=True)\n"
        "pool.run('act', ['hold the interpreter'], timeout_seconds=600)\n"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(Path(__file__).parent), *filter(None, sys.path)])}
    trainer = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True, env=environment)
    with trainer:
        own, parent = map(int, trainer.stdout.readline().split())
        time.sleep(0.3)
        assert is_running(own)
        trainer.kill()
    assert not await_end(own, parent)


def test_what_cannot_be_pickled_on_its_way_back_is_that_calls_failure(pool):
    first, second = pool.run("unpicklable", ["a", "b"], timeout_seconds=LIMIT)
    assert "pickle" in first.reason
    assert "pickle" in second.reason


def test_a_reward_whose_import_starts_threads_is_imported_by_each_worker():
    import threaded_reward

    pool = Pool({"mine": threaded_reward.mine})
    try:
        assert pool.run("mine", [1, 2], timeout_seconds=LIMIT) == [2, 3]
        assert not pool._server.imports
    finally:
        pool.close()


def test_a_memory_limit_bounds_a_call_and_not_the_run():
    pool = Pool({"act": user_rewards.act}, memory_mb=512)
    try:
        lost, after = ask(pool, "take a gigabyte", "family")
        assert "MemoryError" in lost.reason
        assert after["own"]
    finally:
        pool.close()


def test_a_worker_that_cannot_even_hold_its_call_says_that_it_was_its_memory():
    pool = Pool({"act": user_rewards.act}, memory_mb=128)
    try:
        too_large, after = ask(pool, "x" * (100 << 20), "family")
        assert (too_large.reason, too_large.out_of_memory) == ("its worker process died (out of memory)", True)
        assert after["own"]
    finally:
        pool.close()


def test_a_worker_that_is_killed_was_not_out_of_its_memory(pool):
    (lost,) = ask(pool, "die")
    assert (lost.reason, lost.out_of_memory) == ("its worker process died (exit status 3)", False)


def test_secrets_are_kept_from_workers_unless_named(monkeypatch, pool):
    monkeypatch.setenv("MY_API_KEY", "sesame")
    monkeypatch.setenv("MY_SETTING", "open")
    assert ask(pool, "environment MY_API_KEY", "environment MY_SETTING") == [None, "open"]
    assert worker_environment(["MY_API_KEY"])["MY_API_KEY"] == "sesame"


def test_a_worker_that_cannot_import_the_reward_says_so(pool):
    pool._server._functions["act"] = b"cno_such_module\nno_such_name\n."
    with pytest.raises(RewardError, match=r"could not import \['act', 'unpicklable'\]: ModuleNotFoundError"):
        ask(pool, "family")


def scored(scorer):
    with scorer:
        return [verdict.value for verdict in scorer.score([Sample("", "x" * n) for n in (1, 2, 3)])]


def test_rewards_work_in_a_thread():
    found = []
    thread = threading.Thread(target=lambda: found.append(scored(Scorer(user_rewards.length))))
    thread.start()
    thread.join()
    assert found == [[1.0, 2.0, 3.0]]


@pytest.mark.parametrize("method", ["fork", "spawn"])
@pytest.mark.parametrize("daemon", [True, False])
@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
def test_rewards_work_in_worker_processes_such_as_a_data_loaders(method, daemon):
    """Also with a scorer whose workers run already here: the copy starts its own and leaves ours alone."""
    context = multiprocessing.get_context(method)
    with Scorer(user_rewards.length) as scorer:
        scorer.score([Sample("", "warm")])
        results = context.Queue()
        if method == "fork":  # as where another thread was in the midst of scoring
            scorer._executor._pool._lock.acquire()
        child = context.Process(target=user_rewards.put_lengths, args=(scorer, results), daemon=daemon)
        child.start()
        assert results.get(timeout=60) == [1.0, 2.0, 3.0]
        child.join(30)
        if method == "fork":
            scorer._executor._pool._lock.release()
        assert scorer.score([Sample("", "four")])[0].value == 4.0

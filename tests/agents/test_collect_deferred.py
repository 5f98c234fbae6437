"""Scores that come behind the steps make the same Rollout, and are computed while other rows decode."""

import signal
import threading
from dataclasses import fields

import numpy as np
import pytest
import slow_rewards
import torch
from gymnasium.vector import AutoresetMode
from slow_rewards import appears
from test_collect import GROUPS, QUEUE, Echo, Letters, Recording, policy_of

from agents.collect import collect
from agents.observe import completion_lines, rollout_metrics
from agents.rollout import Rollout
from rewards import RewardError
from textenv import TextVectorEnv
from textenv.deferred import THREAD_NAME

WAVE = (10, AutoresetMode.DISABLED)
SHAPES = [WAVE, (10, AutoresetMode.SAME_STEP), (1, AutoresetMode.NEXT_STEP), (3, AutoresetMode.SAME_STEP)]
SHAPES += [(4, AutoresetMode.NEXT_STEP), (13, AutoresetMode.NEXT_STEP)]


@pytest.fixture(autouse=True)
def no_thread_is_left():
    yield
    left = [thread for thread in threading.enumerate() if thread.name == THREAD_NAME]
    for thread in left:
        thread.join(5.0)
    assert not any(thread.is_alive() for thread in left)


def environment(scoring, shape=WAVE, **settings):
    rows, mode = shape
    given = {"task": Letters(), "max_new_tokens": 9, "max_invalid_share": 1.0}
    return TextVectorEnv(rows, autoreset_mode=mode, scoring=scoring, **(given | settings))


def both(shape=WAVE, *, max_tokens=3, **settings):
    """What is collected with immediate and with deferred scoring."""
    found = []
    for scoring in ("immediate", "deferred"):
        env = environment(scoring, shape, **settings)
        try:
            found.append(collect(env, policy_of(), QUEUE, group_ids=GROUPS, max_tokens=max_tokens, first_episode=20))
        finally:
            env.close()
    return found


def assert_equal(a, b):
    """Every field to the last bit, every text, verdict and reason, and all that is logged of them."""
    for field in fields(Rollout):
        x, y = getattr(a.rollout, field.name), getattr(b.rollout, field.name)
        assert (x is None and y is None) or torch.equal(x, y), field.name
    assert a.ended == b.ended
    assert rollout_metrics(a) == rollout_metrics(b)
    assert list(completion_lines(1, a)) == list(completion_lines(1, b))


@pytest.mark.parametrize("max_tokens", [1, 4, 32])
@pytest.mark.parametrize("shape", SHAPES, ids=lambda shape: f"{shape[0]}-{shape[1].name}")
def test_the_rollout_is_equal_for_any_rows_and_any_number_of_tokens_proposed(shape, max_tokens):
    immediate, deferred = both(shape, max_tokens=max_tokens, stop_strings=["ba"])
    assert_equal(immediate, deferred)
    assert len(set(immediate.rollout.returns.tolist())) > 5


@pytest.mark.parametrize("shape", SHAPES, ids=lambda shape: f"{shape[0]}-{shape[1].name}")
@pytest.mark.parametrize("fails", [False, True])
def test_so_it_is_in_conversations_and_where_some_cannot_begin(fails, shape):
    immediate, deferred = both(shape, task=Echo(fails=fails))
    assert_equal(immediate, deferred)
    assert (immediate.rollout.reward != 0).sum() > 5 + 5 * (not fails)
    assert immediate.rollout.valid.all() == (not fails)


def test_it_knows_nothing_of_the_environment_but_its_public_verbs():
    env = Recording(environment("deferred"))
    collect(env, policy_of(), QUEUE)
    assert env.used == {"reset", "step_many", "scores", "num_envs", "autoreset_mode", "stop_spec", "reward_parts"}


REWARDS = {
    "in a worker": ("slow_rewards.worth_of", {}),
    "batched": ({"ranks": {"_target_": "slow_rewards.Ranks"}}, {}),
    "async": ({"judge": {"fn": slow_rewards.judges, "execution": "inline"}}, {}),
    "async in a worker": ("slow_rewards.judges", {}),
    "spans": ({"letters": {"fn": slow_rewards.per_letter, "execution": "inline"}}, {}),
    "failing": ("slow_rewards.fails_on_e", {}),
    "failing at a price": ({"picky": {"fn": slow_rewards.fails_on_e, "execution": "inline"}}, {"on_error": -0.25}),
    "all together": (
        {
            "worth": {"fn": slow_rewards.worth_of, "execution": "inline", "weight": 0.3},
            "picky": slow_rewards.fails_on_e,
            "judge": {"fn": slow_rewards.judges, "execution": "inline"},
            "ranks": {"fn": {"_target_": "slow_rewards.Ranks"}, "gate": True},
        },
        {},
    ),
}


@pytest.mark.parametrize(("reward", "settings"), REWARDS.values(), ids=REWARDS)
@pytest.mark.parametrize("shape", [WAVE, (3, AutoresetMode.NEXT_STEP)], ids=["wave", "stream"])
def test_so_it_is_for_every_kind_of_reward(shape, reward, settings):
    immediate, deferred = both(shape, reward=reward, **settings)
    assert_equal(immediate, deferred)
    if "fails_on_e" in str(reward):
        assert any("no e, please" in ended.verdict.reason for ended in immediate.ended)


@pytest.mark.parametrize("kind", [slow_rewards.Waits, slow_rewards.WaitsInline], ids=["in a worker", "in a thread"])
@pytest.mark.parametrize("shape", [WAVE, (3, AutoresetMode.SAME_STEP)], ids=["wave", "stream"])
def test_what_ended_is_scored_while_others_decode(tmp_path, shape, kind):
    """The first score has begun before the last row ends, and the last row ends before the first score is there: with
    immediate scoring the reward would wait forever."""
    rounds = []

    def on_step(finished, total):
        rounds.append(finished)
        if 0 < finished < total:
            appears(tmp_path / "begun")
        if finished == total:
            (tmp_path / "let").touch()

    env = environment("deferred", shape, reward=kind(tmp_path), timeout_seconds=60.0)
    try:
        found = collect(env, policy_of(), QUEUE, max_tokens=1, on_step=on_step)
    finally:
        env.close()
    assert any(0 < finished < 10 for finished in rounds)
    assert found.rollout.returns.tolist() == [1.0] * 10


def test_an_error_that_shall_be_raised_is():
    for scoring in ("immediate", "deferred"):
        env = environment(scoring, reward="slow_rewards.fails_on_e", on_error="raise")
        try:
            with pytest.raises(RewardError, match=r"fails_on_e failed: RuntimeError: no e, please"):
                collect(env, policy_of(), QUEUE)
        finally:
            env.close()


def test_too_many_invalid_samples_end_the_run():
    reward = {"picky": {"fn": slow_rewards.fails_on_e, "execution": "inline"}}
    queue, messages = np.repeat(np.arange(5), 30), []
    for scoring in ("immediate", "deferred"):
        env = environment(scoring, (6, AutoresetMode.NEXT_STEP), reward=reward, max_invalid_share=0.05)
        with pytest.raises(RewardError, match=r"samples could not be scored, max_invalid_share is 5%") as caught:
            collect(env, policy_of(), queue)
        messages.append(str(caught.value))
        env.close()
    assert messages[0] == messages[1]


class Leaves(Exception):
    pass


@pytest.mark.parametrize("error", [Leaves, KeyboardInterrupt])
def test_after_an_interruption_the_next_rollout_has_nothing_of_the_last(tmp_path, error):
    """Scores that nobody waited for are neither delivered nor in the way."""
    env = environment("deferred", (3, AutoresetMode.NEXT_STEP), reward=slow_rewards.WaitsInline(tmp_path))

    def on_step(finished, total):
        if finished >= 4:
            raise error

    with pytest.raises(error):
        collect(env, policy_of(), QUEUE, max_tokens=1, on_step=on_step)
    (tmp_path / "let").touch()
    again = collect(env, policy_of(), QUEUE[::-1], max_tokens=1)
    assert again.rollout.returns.tolist() == [1.0] * 10
    assert [ended.sample.row["worth"] for ended in again.ended] == QUEUE[::-1].tolist()
    env.close()


def test_ctrl_c_reaches_who_waits_for_scores(tmp_path):
    """And closing breaks off the worker, which would never have answered."""
    env = environment("deferred", reward=slow_rewards.Waits(tmp_path), timeout_seconds=300.0)
    main = threading.main_thread()
    if threading.current_thread() is not main:
        pytest.skip("signals are for the main thread")

    def on_step(finished, total):
        if finished == total:
            appears(tmp_path / "begun")
            threading.Timer(0.1, signal.pthread_kill, (main.ident, signal.SIGINT)).start()

    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs ignore it
    try:
        with pytest.raises(KeyboardInterrupt):
            collect(env, policy_of(), QUEUE, on_step=on_step)
    finally:
        signal.signal(signal.SIGINT, before)
        env.close()
    assert not [thread for thread in threading.enumerate() if thread.name == THREAD_NAME]

"""Deferred scoring: the step pays nothing, `scores` delivers what it would have paid."""

import copy
import functools
import pickle
import threading

import cloudpickle
import numpy as np
import pytest
from gymnasium.utils.env_checker import data_equivalence
from gymnasium.vector import AutoresetMode, SyncVectorEnv

from rewards.errors import RewardError
from textenv import TextEnv, TextVectorEnv
from textenv.conversation import Reply
from textenv.deferred import THREAD_NAME
from textenv.testing import check_vector_env
from textenv.types import Problem

ROWS, END = 4, 257
MODES = ["NextStep", "SameStep", "Disabled"]
LATER = ("valid", "reward")
"""Infos that say nothing before the score is there begin with these words."""


@pytest.fixture(autouse=True)
def no_thread_is_left():
    yield
    left = [thread for thread in threading.enumerate() if thread.name == THREAD_NAME]
    for thread in left:
        thread.join(5.0)
    assert not any(thread.is_alive() for thread in left)


class Gated:
    """Scores the length of a completion, but not before it is let."""

    execution = "inline"

    def __init__(self):
        self.started, self.let = threading.Event(), threading.Event()

    def __call__(self, completion):
        self.started.set()
        assert self.let.wait(30)
        return float(len(completion))

    def __deepcopy__(self, memo):
        return Length()

    def __reduce__(self):
        return Length, ()


class Length:
    execution = "inline"

    def __call__(self, completion):
        return float(len(completion))


class Fails:
    """Breaks on completions with an `x` in them."""

    execution = "inline"

    def __call__(self, completion):
        if "x" in completion:
            raise RuntimeError("no x, please")
        return float(len(completion))


def environment(mode="NextStep", rows=ROWS, **settings):
    given = {"task": "arithmetic", "tokenizer": "byte", "max_new_tokens": 6, "reward": Length(), "scoring": "deferred"}
    return TextVectorEnv(rows, autoreset_mode=mode, **(given | settings))


def play(env, steps=60):
    """Random tokens and ends; in DISABLED rows that are over are reset by mask. Results, and (row, episode) ended."""
    generator, results, ended = np.random.default_rng(0), [env.reset(seed=1)], []
    episode = results[0][1]["episode_index"]
    for _ in range(steps):
        actions = np.where(generator.random(ROWS) < 0.2, END, 48 + generator.integers(10, size=ROWS))
        results.append(env.step(actions))
        _, _, terminated, truncated, infos = results[-1]
        over = terminated | truncated
        ended += [(int(row), int(episode[row])) for row in np.flatnonzero(over)]
        episode = infos["episode_index"]
        if env.autoreset_mode is AutoresetMode.DISABLED and over.any():
            results.append(env.reset(options={"reset_mask": over}))
            episode = np.where(over, results[-1][1]["episode_index"], episode)
    return results, ended


def known_at_once(infos):
    infos = {k: v for k, v in infos.items() if not k.removeprefix("_").startswith(LATER)}
    return infos | ({"final_info": known_at_once(infos["final_info"])} if "final_info" in infos else {})


class Talks:
    """A partner who pays a tenth for each turn that a 7 ends, and has enough when there was an 8 in it."""

    name, columns = "talks", frozenset()
    turn_ends, max_injected_tokens = ("7",), 8

    def split(self, name):
        return [Problem("ab"), Problem("c")]

    def reward(self):
        return Length()

    def converse(self, problem):
        return self

    def reply(self, text):
        return Reply("so?", done="8" in text, reward=0.1)


@pytest.mark.parametrize("task", ["arithmetic", Talks()], ids=["arithmetic", "talks"])
@pytest.mark.parametrize("mode", MODES)
def test_what_scores_delivers_is_what_immediate_scoring_pays(mode, task):
    """The partner's pay included: what a deferred step withholds comes back, and everything else is equal."""
    late, env = environment(mode, task=task), environment(mode, task=task, scoring="immediate")
    (results, ended), (expected, _) = play(late), play(env)
    rewards = []
    for a, b in zip(results, expected, strict=True):
        assert data_equivalence(a[0], b[0])
        assert data_equivalence(known_at_once(a[-1]), known_at_once(b[-1]))
        if len(a) == 5:
            over = a[2] | a[3]
            assert data_equivalence(a[2:4], b[2:4])
            assert (a[1][over] == 0).all()
            assert np.array_equal(a[1][~over], b[1][~over])
            rewards += b[1][over].tolist()
    scores = late.scores()
    assert [(one.row, one.ended.episode_index) for one in scores] == ended
    assert [one.reward for one in scores] == rewards
    assert len(ended) > 20
    assert any(rewards)
    assert late.scores() == []


@pytest.mark.parametrize("mode", MODES)
def test_a_pending_reward_is_told_until_the_next_episode_begins(mode):
    env = environment(mode)
    keys = set(env.reset(seed=0)[1])
    assert {"reward_pending", "_reward_pending"} <= keys
    *_, infos = env.step([END, 48, 48, 48])
    if mode == "SameStep":
        assert infos["final_info"]["reward_pending"].tolist() == [True, False, False, False]
        assert not infos["reward_pending"].any()
        keys |= {"final_obs", "_final_obs", "final_info", "_final_info"}
    else:
        assert infos["reward_pending"].tolist() == [True, False, False, False]
        env.scores()
        nothing = env.step_many(np.zeros((ROWS, 1), int), np.zeros(ROWS, int)).infos
        assert nothing["reward_pending"].tolist() == [True, False, False, False]
    assert set(infos) == keys
    assert infos["reward_pending"].dtype == np.bool_
    _, infos = env.reset(options={"reset_mask": np.array([True, False, False, False])})
    assert not infos["reward_pending"].any()


def test_immediate_scoring_knows_nothing_of_it():
    env = environment(scoring="immediate")
    assert "reward_pending" not in env.reset()[1]
    with pytest.raises(ValueError, match=r"scoring must be deferred for scores\(\), got 'immediate'"):
        env.scores()


@pytest.mark.parametrize("settings", [{}, {"task": "guess", "reward": None, "obs_mode": "packed"}], ids=str)
def test_the_contract_of_a_vector_environment_holds(settings):
    given = {"task": "arithmetic", "tokenizer": "byte", "max_new_tokens": 6, "scoring": "deferred", "reward": Length()}
    given |= settings
    report = check_vector_env(
        lambda mode: SyncVectorEnv([functools.partial(TextEnv, **given)] * ROWS, autoreset_mode=mode),
        lambda mode: TextVectorEnv(ROWS, autoreset_mode=mode, **given),
        actions=lambda generator: np.where(generator.random(ROWS) < 0.2, END, 97),
        num_steps=90,
    )
    assert report.modes == tuple(AutoresetMode)
    assert report.num_episodes > 100


def test_a_poll_gives_what_is_there_and_never_waits():
    gate = Gated()
    env = environment(reward=gate)
    env.reset(seed=0)
    env.step([END, 48, 48, 48])
    env.step([48, END, 48, 48])
    assert gate.started.wait(30)
    assert env.scores(wait=False) == []
    gate.let.set()
    first = env.scores()
    env.step([48, 48, END, 48])
    assert [(one.row, one.reward) for one in first + env.scores()] == [(0, 0.0), (1, 1.0), (2, 2.0)]


def test_scored_waits_for_the_rows_that_it_is_asked_for_and_takes_nothing_away():
    env = environment()
    env.reset(options={"index": 3})
    env.step([END, 48, 48, 48])
    ended = env.scored([0])[0]
    assert (ended.sample.completion, ended.verdict.value) == ("", 0.0)
    with pytest.raises(ValueError, match="row 1 has not"):
        env.scored([1])
    assert [one.ended for one in env.scores()] == [ended]


def test_a_single_environment_defers_too():
    env = TextEnv(tokenizer="byte", reward=Length(), max_new_tokens=2, scoring="deferred", render_mode="ansi")
    env.reset(seed=0)
    env.step(48)
    _, reward, terminated, _, info = env.step(48)
    assert (reward, terminated, info["reward_pending"]) == (0.0, True, True)
    assert env.render().endswith("ended: budget, reward pending")
    (score,) = env.scores()
    assert (score.row, score.reward, score.ended) == (0, 2.0, env.scored())
    env.close()


def test_spans_are_in_the_reward():
    env = TextVectorEnv(1, task={"_target_": "target", "dense": True}, max_new_tokens=10, scoring="deferred")
    env.reset(seed=0)
    right = env.tokenizer.encode(env.task.answer)
    assert not env.step_many([[*right[:9], 0]]).rewards.any()
    assert env.scores()[0].reward == pytest.approx(0.9)


class Batches:
    """Remembers what it was asked together."""

    def __init__(self):
        self.seen = []

    def score_batch(self, samples):
        self.seen.append([sample.completion for sample in samples])
        return [len(samples)] * len(samples)


@pytest.mark.parametrize("mode", MODES)
def test_a_batched_reward_sees_the_batches_of_immediate_scoring(mode):
    """What ended in one step, so that a reward model's last bits do not depend on who was waiting."""
    rewards = [Batches(), Batches()]
    for scoring, reward in zip(("immediate", "deferred"), rewards, strict=True):
        env = environment(mode, reward={"all": reward}, scoring=scoring)
        play(env)
        if scoring == "deferred":
            env.scores()
    assert rewards[0].seen == rewards[1].seen
    assert {len(batch) for batch in rewards[0].seen} > {1}


class Together:
    """An async judge that answers when three are asked: calls of several steps run at the same time."""

    def __init__(self, gate):
        self.gate, self.asked = gate, 0

    async def __call__(self, completion):
        import asyncio

        if not self.asked:
            self.asked = 1
            self.gate.started.set()
            await asyncio.to_thread(self.gate.let.wait, 30)
            return 1.0
        self.asked += 1
        while self.asked < 4:
            await asyncio.sleep(0.001)
        return float(self.asked)


def test_async_rewards_of_several_steps_run_at_the_same_time():
    gate = Gated()
    env = environment("SameStep", reward={"judge": {"fn": Together(gate), "execution": "inline"}})
    env.reset(seed=0)
    env.step([END, 48, 48, 48])
    assert gate.started.wait(30)
    for row in (1, 2, 3):  # these wait for the first, one step each, and for each other
        env.step(np.where(np.arange(ROWS) == row, END, 48))
    gate.let.set()
    assert [one.reward for one in env.scores()] == [1.0, 4.0, 4.0, 4.0]


def test_an_error_is_raised_once_and_the_other_steps_are_scored():
    env = environment(reward=Fails(), on_error="raise")
    env.reset(seed=0)
    env.step([END, 48, 48, 48])
    env.step_many(np.full((ROWS, 1), ord("x")), [0, 1, 0, 0])
    env.step([48, END, 48, 48])
    env.step([48, 48, END, 48])
    with pytest.raises(RewardError, match="no x, please"):
        env.scores()
    assert [one.row for one in env.scores()] == [0, 2]
    with pytest.raises(RewardError, match="no x, please"):
        env.scored([1])
    assert env.scores() == []


@pytest.mark.parametrize(("on_error", "reward", "valid"), [("invalid", 0.0, False), (-1.0, -1.0, True)])
def test_a_failing_grader_means_what_it_does_in_immediate_scoring(on_error, reward, valid):
    env = environment(reward=Fails(), on_error=on_error)
    env.reset(seed=0)
    env.step([ord("x"), 48, 48, 48])
    env.step([END, END, 48, 48])
    broken, sound = env.scores()
    assert (broken.reward, broken.ended.verdict.valid) == (reward, valid)
    assert "no x, please" in broken.ended.verdict.reason
    assert (sound.reward, sound.ended.verdict.valid) == (1.0, True)


def fail_often(env):
    for k in range(50):
        env.step([ord("x") if 20 <= k < 32 or k == 49 else 48])
        env.step([END])
    env.scores()


def test_too_many_failures_end_the_run_at_the_step_at_which_they_do_in_immediate_scoring():
    """Twelve of 49 are too few to judge, the thirteenth of 50 is too many; what was scored before is delivered."""
    messages = []
    for scoring in ("immediate", "deferred"):
        env = environment("SameStep", rows=1, reward=Fails(), scoring=scoring)
        env.reset(seed=0)
        with pytest.raises(RewardError, match=r"26% of the last 50 samples.*no x, please") as caught:
            fail_often(env)
        messages.append(str(caught.value))
    assert messages[0] == messages[1]
    assert [one.reward for one in env.scores()] == [1.0] * 20 + [0.0] * 12 + [1.0] * 17


def test_a_reset_of_all_rows_forgets_and_one_of_some_does_not():
    gate = Gated()
    env = environment("Disabled", reward=gate)
    env.reset(seed=0)
    env.step([END, 48, 48, 48])
    assert gate.started.wait(30)
    env.step_many(np.full((ROWS, 1), END), [0, 1, 0, 0])
    env.reset(options={"reset_mask": np.array([True, True, False, False])})
    env.step([48, 48, END, 48])
    gate.let.set()
    assert [one.row for one in env.scores()] == [0, 1, 2]
    gate.started.clear()
    gate.let.clear()
    env.step_many(np.full((ROWS, 1), END), [1, 0, 0, 0])
    assert gate.started.wait(30)
    env.step_many(np.full((ROWS, 1), END), [0, 1, 0, 0])
    env.reset()
    gate.let.set()
    assert env.scores() == []
    assert env.scored([0])[0].sample.completion == "0"  # was being scored
    with pytest.raises(RewardError, match=r"the episode was not scored: reset\(\) or close\(\) came before its turn"):
        env.scored([1])


CLONES = {
    "deepcopy": copy.deepcopy,
    "pickle": lambda env: pickle.loads(pickle.dumps(env)),
    "cloudpickle": lambda env: cloudpickle.loads(cloudpickle.dumps(env)),
}


@pytest.mark.parametrize("clone", CLONES.values(), ids=CLONES)
@pytest.mark.parametrize("task", ["arithmetic", Talks()], ids=["arithmetic", "talks"])
def test_a_copy_carries_the_scores_that_are_pending(task, clone):
    env = environment(task=task, reward={"a": Length(), "b": Batches()})
    env.reset(seed=0)
    for _ in range(9):
        env.step([48, END, 48, 49])
    twin = clone(env)
    for one in (env, twin):
        one.step([END, END, 48, 48])
    assert data_equivalence(env.step([48, 49, END, END]), twin.step([48, 49, END, END]))
    scores = env.scores()
    assert scores == twin.scores()
    assert len(scores) >= 5


def test_a_copy_waits_for_what_is_being_scored():
    gate = Gated()
    env = environment(reward=gate)
    env.reset(seed=0)
    env.step([END, END, 48, 48])
    assert gate.started.wait(30)
    threading.Timer(0.05, gate.let.set).start()
    twin = copy.deepcopy(env)
    assert gate.let.is_set()
    assert [one.row for one in twin.scores(wait=False)] == [0, 1]


class GatedFails(Gated):
    def __call__(self, completion):
        if "x" in completion:
            super().__call__(completion)
            raise RuntimeError("no x, please")
        return 1.0

    def __deepcopy__(self, memo):
        return self


def test_a_copy_knows_the_failures_that_were_still_to_come():
    """Twelve failures of 49 are being found when it is made; the thirteenth of 50 ends both runs."""
    gate = GatedFails()
    env = environment("SameStep", rows=49, reward=gate)
    env.reset(seed=0)
    env.step(np.where(np.arange(49) < 12, ord("x"), 48))
    env.step(np.full(49, END))
    assert gate.started.wait(30)
    threading.Timer(0.05, gate.let.set).start()
    for one in (copy.deepcopy(env), env):
        assert sum(score.ended.verdict.valid for score in one.scores()) == 37
        one.step(np.full(49, ord("x")))
        one.step_many(np.full((49, 1), END), (np.arange(49) == 48).astype(int))
        with pytest.raises(RewardError, match="26% of the last 50 samples"):
            one.scores()


def test_a_copy_has_workers_of_its_own_and_pending_ones_are_carried():
    env = environment(reward="rewards.math.MathAnswer")
    try:
        env.reset(seed=0, options={"index": 0})
        env.step([END, 48, 48, 48])
        twin = pickle.loads(pickle.dumps(env))
        try:
            for one in (env, twin):
                one.step([48, END, 48, 48])
            assert env.scores() == twin.scores()
        finally:
            twin.close()
    finally:
        env.close()


def test_closing_breaks_off_a_worker_that_hangs():
    env = environment(reward={"slow": {"fn": "deferred_rewards.sleeps"}}, timeout_seconds=300)
    env.reset(seed=0)
    env.step([END, END, 48, 48])
    assert env.scores(wait=False) == []
    env.close()
    assert not [thread for thread in threading.enumerate() if thread.name == THREAD_NAME]
    assert env.scores() == []


def test_closing_breaks_off_coroutines():
    env = environment(
        reward={"slow": {"fn": "deferred_rewards.sleeps_async", "execution": "inline"}}, timeout_seconds=300
    )
    env.reset(seed=0)
    env.step([END, END, 48, 48])
    env.close()
    assert not [thread for thread in threading.enumerate() if thread.name == THREAD_NAME]


def test_closing_ends_inline_rewards_behind_the_call_that_they_are_in():
    gate = Gated()
    env = environment(reward=gate)
    env.reset(seed=0)
    env.step([END, END, END, END])
    assert gate.started.wait(30)
    gate.started.clear()
    threading.Timer(0.5, gate.let.set).start()
    env.close()
    assert not [thread for thread in threading.enumerate() if thread.name == THREAD_NAME]
    assert not gate.started.is_set()  # the second of the four was not begun


def test_a_closed_environment_scores_again():
    env = environment()
    env.reset(seed=0)
    env.step([END, 48, 48, 48])
    env.close()
    env.step([48, END, 48, 48])
    assert [one.row for one in env.scores()] == [1]


def test_the_thread_lives_only_while_there_is_something_to_score():
    env = environment()
    for _ in range(3):
        env.reset(seed=0)
        env.step([END, 48, 48, 48])
        assert len(env.scores()) == 1
    for thread in threading.enumerate():
        if thread.name == THREAD_NAME:
            thread.join(5.0)
            assert not thread.is_alive()


def test_stable_baselines_is_told_that_it_needs_immediate_scoring():
    sb3 = pytest.importorskip("textenv.adapters.sb3")
    with pytest.raises(ValueError, match="SB3VecEnv needs an environment with scoring='immediate', got 'deferred'"):
        sb3.SB3VecEnv(environment("SameStep"))

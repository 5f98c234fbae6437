"""Environments of other people as ours, and ours as theirs."""

import copy
import functools
import pickle
import random
from types import SimpleNamespace

import numpy as np
import pytest
from gymnasium.utils.env_checker import data_equivalence

from textenv import TextVectorEnv
from textenv.adapters.turns import TurnTask, text_of

END = 257


class Dice:
    """The shape of GEM: draws from the global generators at reset and at every step."""

    def reset(self, seed=None):
        random.seed(seed)
        np.random.seed(seed)
        self.total = 0
        return f"start {random.randint(0, 999)}", {}

    def step(self, action):
        self.total += 1
        roll = random.randint(0, 999) + int(np.random.randint(1000))
        return f"rolled {roll}", 0.5, self.total == 3, False, {}


class Arena:
    """The shape of TextArena."""

    def reset(self, num_players, seed=None):
        self.secret, self.turn = seed, 0

    def get_observation(self):
        return 0, f"turn {self.turn}"

    def step(self, action):
        self.turn += 1
        return self.turn == 2, {}

    def close(self):
        return {0: 1.0}, {0: {}}


class Open:
    """The shape of OpenEnv."""

    def reset(self, seed=None):
        return SimpleNamespace(text=f"hello {seed}", done=False, reward=None)

    def step(self, action):
        return SimpleNamespace(text=action[::-1], done="bye" in action, reward=0.25)


def spoken(env, row, words):
    """One turn of one row; the others wait."""
    tokens = [*words.encode(), END]
    lengths = np.zeros(env.num_envs, dtype=int)
    lengths[row] = len(tokens)
    return env.step_many(np.tile(tokens, (env.num_envs, 1)), lengths)


def replies(observation, row):
    from textenv import load_tokenizer

    return load_tokenizer("byte").decode(observation["tokens"][row][observation["segment"][row] == 3].tolist())


def test_gem_shape_is_deterministic_and_leaves_the_global_generators_alone():
    env = TextVectorEnv(3, task=TurnTask(Dice), max_new_tokens=12, split="test")
    random.seed(1)
    np.random.seed(1)
    before = random.getstate(), np.random.get_state()[1].tolist()
    heard = []
    for order in ([0, 1, 2], [2, 0, 1]):
        env.reset(options={"indices": [4, 4, 5]})
        for row in order:
            for _ in range(2):
                result = spoken(env, row, "a")
        heard.append([replies(result.observations, row) for row in range(3)])
    assert heard[0] == heard[1]
    assert heard[0][0] == heard[0][1] != heard[0][2]
    assert (random.getstate(), np.random.get_state()[1].tolist()) == before
    result = spoken(env, 0, "a")
    assert result.terminated.tolist() == [True, False, False]
    assert env.scored([0])[0].verdict.value == pytest.approx(1.5)
    assert result.infos["finish_reason"][0] == 4


def test_splits_are_other_seeds_and_prompts_what_reset_shows():
    task = TurnTask(Dice, train_size=5, test_size=3)
    seeds = {name: [problem.row["seed"] for problem in task.split(name)] for name in ("train", "test")}
    assert seeds == {"train": [3, 4, 5, 6, 7], "test": [0, 1, 2]}
    random.seed(3)
    assert task.split("train")[0].prompt == f"start {random.randint(0, 999)}"


def test_text_arena_shape():
    env = TextVectorEnv(1, task=TurnTask(Arena), max_new_tokens=9)
    env.reset(options={"indices": [0]})
    result = spoken(env, 0, "a")
    assert replies(result.observations, 0) == "turn 1"
    result = spoken(env, 0, "a")
    assert result.terminated.tolist() == [True]
    assert result.rewards[0].tolist() == [0.0, 1.0]


def test_open_env_shape():
    env = TextVectorEnv(1, task=TurnTask(Open), max_new_tokens=12)
    env.reset(options={"indices": [0]})
    result = spoken(env, 0, "abc")
    assert replies(result.observations, 0) == "cba"
    result = spoken(env, 0, "bye")
    assert result.terminated.tolist() == [True]
    assert env.scored([0])[0].verdict.value == pytest.approx(0.5)


def test_an_observation_without_text():
    with pytest.raises(TypeError, match="an observation must be text, or have one of text"):
        text_of(SimpleNamespace(pixels=1))
    assert text_of({"prompt": "a"}) == "a"


class Shapes:
    """Three turns; what a step returns is given by a function of (is it the last?)."""

    def __init__(self, result):
        self.result, self.turns = result, 0

    def reset(self, seed=None):
        self.turns = 0
        return "go"

    def step(self, action):
        self.turns += 1
        return self.result(self.turns == 3)


@pytest.mark.parametrize(
    "result",
    [
        lambda last: ("on", 1.0, last, {"a": 1}),
        lambda last: ("on", None if not last else 3.0, last, False, {}),
        lambda last: (None if last else "on", 1.0, last, False, {}),
        lambda last: {"text": "on", "reward": 1.0, "done": last},
        lambda last: SimpleNamespace(text="on", reward=1.0, done=last),
    ],
)
def test_results_of_each_shape_are_understood(result):
    task = TurnTask(functools.partial(Shapes, result), train_size=2, test_size=1)
    env = TextVectorEnv(1, task=task, max_new_tokens=60)
    env.reset(options={"indices": [0]})
    for turn in range(3):
        outcome = spoken(env, 0, "x")
        assert outcome.terminated[0] == (turn == 2)
    assert env.scored([0])[0].verdict.valid
    assert env.scored([0])[0].verdict.value == 3.0


def test_a_result_of_no_known_shape_ends_the_row_with_a_reason():
    task = TurnTask(functools.partial(Shapes, lambda last: ("on", 1.0, last)), train_size=2, test_size=1)
    env = TextVectorEnv(1, task=task, max_new_tokens=60)
    env.reset(options={"indices": [0]})
    assert spoken(env, 0, "x").terminated[0]
    assert "must return 2, 4 or 5 values" in env.scored([0])[0].verdict.reason


class DrawsWhenMade(Shapes):
    def __init__(self):
        super().__init__(lambda last: (self.secret, 0.0, last, False, {}))
        self.secret = str(random.random())

    def reset(self, seed=None):
        return self.secret


def test_what_is_drawn_when_it_is_made_depends_on_the_seed_alone():
    env = TextVectorEnv(1, task=TurnTask(DrawsWhenMade, train_size=9, test_size=1), max_new_tokens=60)
    random.seed(1)
    env.reset(options={"indices": [4]})
    prompt = env._kernel.prompt_text(0)
    random.seed(2)
    result = spoken(env, 0, "x")
    assert replies(result.observations, 0) == prompt


def test_a_real_game_of_gem():
    pytest.importorskip("gem")
    task = {
        "_target_": "turns",
        "make": {
            "_target_": "gem.envs.game_env.guess_the_number.GuessTheNumberEnv",
            "min_number": 1,
            "max_number": 4,
            "max_turns": 4,
        },
    }
    env = TextVectorEnv(1, task=task, max_new_tokens=60)
    state = random.getstate()
    env.reset(options={"indices": [0]})
    twin = copy.deepcopy(env)
    for guess in (1, 2, 3, 4):
        result = spoken(env, 0, f"\\boxed{{{guess}}}")
        assert data_equivalence(tuple(result), tuple(spoken(twin, 0, f"\\boxed{{{guess}}}")))
        if result.terminated[0]:
            break
        assert "higher" in replies(result.observations, 0)
    assert env.scored([0])[0].verdict.value == pytest.approx(1.0)
    assert random.getstate() == state


def test_a_real_game_of_textarena():
    """The environment that `textarena.make` gives, played to its end; what it shows is never shown twice."""
    pytest.importorskip("textarena")
    task = {"_target_": "turns", "make": {"_target_": "textarena.make", "env_id": "GuessTheNumber-v0"}}
    env = TextVectorEnv(2, task=task, max_new_tokens=60, max_prompt_tokens=1000)
    state = random.getstate()
    env.reset(options={"indices": [3, 3]})
    env = pickle.loads(pickle.dumps(env))
    low, high = 1, 20
    while True:
        guess = (low + high) // 2
        result = spoken(env, 0, f"I say [{guess}].")
        if result.terminated[0]:
            break
        heard = replies(result.observations, 0).split("[GAME]")[-1]
        low, high = (guess + 1, high) if "higher" in heard else (low, guess - 1)
    assert result.infos["finish_reason"][0] == 4
    assert env.scored([0])[0].verdict.value == 1.0
    assert replies(result.observations, 0).count("Enter your guess") == 0
    assert random.getstate() == state

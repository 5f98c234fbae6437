import json
import pickle
import warnings

import gymnasium
import numpy as np
import pytest
from gymnasium.envs.registration import EnvSpec
from gymnasium.error import InvalidAction, ResetNeeded
from gymnasium.utils.env_checker import check_env

import textenv
from textenv.registration import ENVIRONMENTS

IDS = sorted(ENVIRONMENTS)


@pytest.mark.parametrize("id", IDS)
@pytest.mark.parametrize("settings", [{}, {"obs_mode": "packed"}, {"budget": "truncate"}, {"tokenizer": "byte"}])
def test_check_env_finds_nothing(id, settings, capsys):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check_env(gymnasium.make(id, **settings).unwrapped)


@pytest.mark.parametrize("id", IDS)
def test_gymnasium_makes_every_id(id):
    env = gymnasium.make(id)
    observation, _ = env.reset(seed=0)
    assert observation in env.observation_space
    vector = gymnasium.make_vec(id, num_envs=3)
    assert isinstance(vector, textenv.TextVectorEnv)
    assert isinstance(textenv.make_vec(id, 3, autoreset_mode="Disabled"), textenv.TextVectorEnv)
    assert vector.reset(seed=0)[0] in vector.observation_space
    vector.step(vector.action_space.sample())
    vector.close()


@pytest.mark.parametrize("id", IDS)
def test_specs_survive_json_and_pickle(id):
    spec = gymnasium.make(id, max_new_tokens=3).spec
    assert gymnasium.make(EnvSpec.from_json(spec.to_json())).unwrapped.settings.max_new_tokens == 3
    vector = gymnasium.make_vec(id, num_envs=2, stop_strings=["ab"], autoreset_mode="Disabled")
    again = gymnasium.make_vec(EnvSpec.from_json(vector.spec.to_json()))
    assert (again.num_envs, again.settings) == (2, vector.settings)
    assert pickle.loads(pickle.dumps(vector.spec)) == vector.spec
    json.loads(vector.spec.to_json())


def test_flags_and_infos_are_plain_python():
    env = textenv.TextEnv()
    _, info = env.reset(seed=0)
    _, reward, terminated, truncated, step_info = env.step(0)
    assert (type(reward), type(terminated), type(truncated)) == (float, bool, bool)
    assert set(info) == set(step_info)
    assert {type(value) for value in info.values()} == {int, bool, float}


def test_a_right_answer_is_paid():
    env = textenv.TextEnv()
    env.reset(seed=0)
    answer = env.task.split("train")[env._kernel.info["prompt_index"][0]].row["answer"]
    for token in env.tokenizer.encode(str(answer)):
        _, reward, terminated, _, _ = env.step(token)
        assert (reward, terminated) == (0.0, False)
    _, reward, terminated, _, info = env.step(env.tokenizer.eos_id)
    assert (reward, terminated, info["reward/correct"]) == (1.0, True, 1.0)
    assert env.decode() == env.scored().sample.completion == str(answer)


def test_wrong_use_raises():
    env = textenv.TextEnv()
    with pytest.raises(ResetNeeded):
        env.step(0)
    env.reset(seed=0)
    for action, error in ((-1, InvalidAction), (0.5, InvalidAction), (10_000, InvalidAction), ([0, 1], ValueError)):
        with pytest.raises(error):
            env.step(action)
    env.step(env.tokenizer.eos_id)
    with pytest.raises(AssertionError, match="the episode is finished"):
        env.step(0)
    with pytest.raises(ValueError, match=r"options\['indices'\] is for TextVectorEnv"):
        env.reset(options={"indices": [1]})
    with pytest.raises(ValueError, match="got 'idx'"):
        env.reset(options={"idx": 1})


def test_episodes_are_counted_from_the_seed():
    env = textenv.TextEnv()
    assert [env.reset(seed=seed)[1]["episode_index"] for seed in (None, None, 3, None, 3)] == [0, 1, 0, 1, 0]


def test_render_modes(capsys):
    env = textenv.TextEnv(render_mode="ansi")
    env.reset(options={"index": 0})
    env.step(env.tokenizer.encode("7")[0])
    assert env.render() == f"prompt: {env.task.split('train')[0].prompt}\ncompletion: 7"
    env = textenv.TextEnv(render_mode="human")
    env.reset(seed=0)
    env.step(env.tokenizer.eos_id)
    assert "ended: eos, reward 0" in capsys.readouterr().out


def test_packed_observation_holds_the_same_numbers():
    plain, packed = textenv.TextEnv(), textenv.TextEnv(obs_mode="packed")
    a, b = plain.reset(seed=0)[0], packed.reset(seed=0)[0]
    width = len(a["tokens"])
    assert b[:3].tolist() == [int(a[name][0]) for name in ("length", "prompt_length", "remaining")]
    assert np.array_equal(b[3 : 3 + width], a["tokens"])
    assert np.array_equal(b[3 + width :], a["segment"])

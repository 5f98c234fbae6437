"""`make_vec`, `GroupPrompts` and Gymnasium's own vector wrappers."""

import copy
import pickle

import cloudpickle
import gymnasium
import numpy as np
import pytest
from gymnasium.envs.registration import EnvSpec
from gymnasium.utils.env_checker import data_equivalence
from gymnasium.vector import AsyncVectorEnv, AutoresetMode, SyncVectorEnv
from gymnasium.wrappers import vector as wrappers

import textenv
from textenv.wrappers import GroupPrompts

ID = "textenv/Arithmetic-v0"
MODES = list(AutoresetMode)


@pytest.mark.parametrize("mode", MODES)
def test_make_vec_routes_the_mode(mode):
    native = textenv.make_vec(ID, 3, autoreset_mode=mode, max_new_tokens=4)
    sync = textenv.make_vec(ID, 3, vectorization_mode="sync", autoreset_mode=mode.value, max_new_tokens=4, copy=False)
    assert (native.copy, sync.copy) == (True, False)
    assert not textenv.make_vec(ID, 3, copy=False).copy
    assert isinstance(native, textenv.TextVectorEnv)
    assert isinstance(sync, SyncVectorEnv)
    assert native.autoreset_mode is native.metadata["autoreset_mode"] is sync.metadata["autoreset_mode"] is mode
    assert data_equivalence(native.reset(seed=1), sync.reset(seed=1))


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_make_vec_async():
    env = textenv.make_vec(ID, 2, vectorization_mode="async", autoreset_mode="SAME_STEP", max_new_tokens=4)
    try:
        assert isinstance(env, AsyncVectorEnv)
        assert data_equivalence(env.reset(seed=0)[1], textenv.make_vec(ID, 2, max_new_tokens=4).reset(seed=0)[1])
    finally:
        env.close()


def test_make_vec_says_what_is_wrong():
    with pytest.raises(ValueError, match="vectorization_mode must be one of native, sync, async, got 'fast'"):
        textenv.make_vec(ID, 2, vectorization_mode="fast")
    with pytest.raises(ValueError, match="vector_kwargs must be empty"):
        textenv.make_vec(ID, 2, vector_kwargs={"copy": False})
    with pytest.raises(ValueError, match="autoreset_mode must be one of NextStep"):
        textenv.make_vec(ID, 2, autoreset_mode="Sometimes")


@pytest.mark.parametrize("mode", MODES)
def test_a_spec_survives_json_pickle_and_cloudpickle(mode):
    env = textenv.make_vec(ID, 2, autoreset_mode=mode, max_new_tokens=4, stop_strings=["1"])
    expected = env.reset(seed=0)
    for spec in (
        EnvSpec.from_json(env.spec.to_json()),
        pickle.loads(pickle.dumps(env.spec)),
        cloudpickle.loads(cloudpickle.dumps(env.spec)),
    ):
        again = gymnasium.make_vec(spec)
        assert again.autoreset_mode is mode
        assert again.settings == env.settings
        assert data_equivalence(again.reset(seed=0), expected)
    sync = textenv.make_vec(ID, 2, vectorization_mode="sync", autoreset_mode=mode, max_new_tokens=4)
    again = gymnasium.make_vec(EnvSpec.from_json(sync.spec.to_json()))
    assert again.metadata["autoreset_mode"] is mode
    scalar = gymnasium.make(ID, max_new_tokens=4)
    assert gymnasium.make(EnvSpec.from_json(scalar.spec.to_json())).unwrapped.settings == scalar.unwrapped.settings


@pytest.mark.parametrize("mode", [AutoresetMode.NEXT_STEP, AutoresetMode.SAME_STEP])
@pytest.mark.parametrize(
    "clone",
    [copy.deepcopy, lambda e: pickle.loads(pickle.dumps(e)), lambda e: cloudpickle.loads(cloudpickle.dumps(e))],
    ids=["deepcopy", "pickle", "cloudpickle"],
)
def test_a_copy_in_the_middle_of_an_episode_continues_identically(mode, clone):
    env = textenv.make_vec(ID, 3, autoreset_mode=mode, max_new_tokens=5)
    env.reset(seed=0)
    env.step([1, 2, 3])
    twin = clone(env)
    generator = np.random.default_rng(0)
    for _ in range(40):
        actions = generator.integers(0, len(env.tokenizer), 3)
        assert data_equivalence(env.step(actions), twin.step(actions))


OF_OBSERVATIONS = ("FlattenObservation", "FilterObservation", "TransformObservation")
WRAPPERS = {
    "RecordEpisodeStatistics": wrappers.RecordEpisodeStatistics,
    "NormalizeReward": wrappers.NormalizeReward,
    "ClipReward": lambda env: wrappers.ClipReward(env, -1, 1),
    "TransformReward": lambda env: wrappers.TransformReward(env, lambda r: 2 * r),
    "DictInfoToList": wrappers.DictInfoToList,
    "TransformAction": lambda env: wrappers.TransformAction(env, lambda a: a),
    "NumpyToTorch": wrappers.NumpyToTorch,
    "FlattenObservation": wrappers.FlattenObservation,
    "FilterObservation": lambda env: wrappers.FilterObservation(env, ["tokens", "length"]),
    "TransformObservation": lambda env: wrappers.TransformObservation(
        env, lambda obs: obs, single_observation_space=env.single_observation_space
    ),
}


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("name", WRAPPERS)
def test_gymnasiums_vector_wrappers_work_where_gymnasium_allows_them(mode, name):
    """Gymnasium's observation wrappers refuse SAME_STEP; NumpyToTorch fails on any object array (its `final_obs`)."""
    if mode is AutoresetMode.SAME_STEP and name in (*OF_OBSERVATIONS, "NumpyToTorch"):
        pytest.skip("Gymnasium refuses SAME_STEP here")
    env = WRAPPERS[name](textenv.make_vec(ID, 3, autoreset_mode=mode, max_new_tokens=4))
    torch = pytest.importorskip("torch") if name == "NumpyToTorch" else None
    env.reset(seed=0)
    ended = np.zeros(3, dtype=np.bool_)
    for step in range(12):
        if mode is AutoresetMode.DISABLED and ended.any():
            env.reset(options={"reset_mask": torch.tensor(ended) if torch else ended})
        actions = np.full(3, step % 5)
        _, reward, terminated, truncated, _ = env.step(torch.tensor(actions) if torch else actions)
        ended = np.asarray(terminated) | np.asarray(truncated)
        assert len(reward) == 3
    if name == "RecordEpisodeStatistics":
        assert len(env.return_queue) >= 6


def test_statistics_survive_a_partial_reset():
    env = wrappers.RecordEpisodeStatistics(textenv.make_vec(ID, 3, autoreset_mode="Disabled", max_new_tokens=9))
    env.reset(seed=0)
    for _ in range(3):
        env.step([0, 0, 0])
    env.reset(options={"reset_mask": np.array([True, False, False])})
    assert env.episode_lengths.tolist() == [0, 3, 3]


def grouped(mode="Disabled", rows=6, group_size=3, **options):
    return GroupPrompts(textenv.make_vec(ID, rows, autoreset_mode=mode, max_new_tokens=4), group_size, **options)


def test_groups_in_one_wave():
    env = grouped()
    observation, infos = env.reset(seed=4)
    assert infos["group_id"].tolist() == [0, 0, 0, 1, 1, 1]
    index = infos["prompt_index"].tolist()
    assert len(set(index[:3])) == len(set(index[3:])) == 1
    assert index[0] != index[3]
    assert (observation["tokens"][:3] == observation["tokens"][0]).all()
    assert grouped().reset(seed=4)[1]["prompt_index"].tolist() == index
    assert env.reset()[1]["prompt_index"].tolist() != index
    chosen = env.reset(options={"indices": [7, 9]})[1]
    assert chosen["prompt_index"].tolist() == [7, 7, 7, 9, 9, 9]


@pytest.mark.parametrize("mode", ["NextStep", "SameStep"])
def test_groups_in_a_stream_are_matched_though_members_end_at_different_times(mode):
    """Four rows answer five problems three times each; rows end at random."""
    env = grouped(mode, rows=4, num_problems=5)
    _, infos = env.reset(seed=0)
    end, generator = env.unwrapped.tokenizer.eos_id, np.random.default_rng(0)
    seen = []
    for _ in range(200):
        before = infos
        actions = np.where(generator.random(4) < 0.3, end, 1)
        _, _, terminated, truncated, infos = env.step(actions)
        source = infos.get("final_info", before)
        for row in np.flatnonzero(terminated | truncated):
            seen.append((int(source["group_id"][row]), int(source["prompt_index"][row])))
    assert sorted(group for group, _ in seen) == sorted([*range(5)] * 3)
    assert len(dict(seen)) == len(set(seen)) == 5


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: grouped(group_size=1), "group_size must be at least 2"),
        (lambda: grouped(rows=5), "num_envs must be a multiple of group_size=3"),
        (lambda: grouped(num_problems=0), "num_problems must be from 1 to"),
        (lambda: grouped().reset(options={"prompt": "a"}), "cannot be combined with GroupPrompts"),
        (lambda: grouped().reset(options={"reset_mask": np.ones(6, bool)}), "cannot be combined with GroupPrompts"),
    ],
)
def test_a_grouping_that_cannot_be_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_copy_false_hands_out_the_environments_own_arrays():
    env = textenv.TextVectorEnv(3, copy=False, max_new_tokens=4, autoreset_mode="SameStep")
    first, _ = env.reset(seed=0)
    second, *_ = env.step([0, 0, 0])
    assert np.shares_memory(first["tokens"], second["tokens"])
    fresh = textenv.TextVectorEnv(3, max_new_tokens=4, autoreset_mode="SameStep")
    fresh.reset(seed=0)
    fresh.step([0, 0, 0])
    for _ in range(20):
        assert data_equivalence(env.step([1, 2, 3]), fresh.step([1, 2, 3]))

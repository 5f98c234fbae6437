"""Stable-Baselines3, unmodified, in our environment: through our adapter and through its own vectorization."""

import functools

import numpy as np
import pytest

sb3 = pytest.importorskip("stable_baselines3")
from stable_baselines3.common.vec_env import DummyVecEnv, VecMonitor, VecNormalize  # noqa: E402

import textenv  # noqa: E402
from textenv import TextEnv  # noqa: E402
from textenv.adapters.sb3 import SB3VecEnv  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning", "ignore::DeprecationWarning")
ID = "textenv/Target-v0"


def adapted(rows=4, **settings):
    return SB3VecEnv(textenv.make_vec(ID, rows, autoreset_mode="SameStep", **settings))


def dummy(rows=4, **settings):
    settings = {"task": "target", "max_new_tokens": 10} | settings
    return DummyVecEnv([functools.partial(TextEnv, **settings)] * rows)


def equal(a, b):
    return all(np.array_equal(a[name], b[name]) for name in a) and a.keys() == b.keys()


def test_the_adapter_equals_sb3s_own_vectorization():
    ours, theirs = adapted(), dummy()
    ours.seed(3)
    theirs.seed(3)
    assert equal(ours.reset(), theirs.reset())
    generator = np.random.default_rng(0)
    ended = 0
    for _ in range(120):
        actions = generator.integers(0, ours.action_space.n, 4)
        (obs, rewards, dones, infos), (obs2, rewards2, dones2, infos2) = ours.step(actions), theirs.step(actions)
        assert equal(obs, obs2)
        assert rewards.dtype == rewards2.dtype
        assert np.array_equal(rewards, rewards2)
        assert np.array_equal(dones, dones2)
        for row in np.flatnonzero(dones):
            ended += 1
            assert equal(infos[row]["terminal_observation"], infos2[row]["terminal_observation"])
            assert infos[row]["TimeLimit.truncated"] is infos2[row]["TimeLimit.truncated"] is False
            assert infos[row]["finish_reason"] == infos2[row]["finish_reason"]
            assert infos[row]["reward/right"] == infos2[row]["reward/right"]
    assert ended > 30


def test_a_spent_budget_is_never_bootstrapped():
    """Called `truncated`, it would have SB3 add V to a reward that was already paid."""
    env = adapted(budget="truncate", max_new_tokens=2)
    env.reset()
    env.step(np.zeros(4, int))
    *_, dones, infos = env.step(np.zeros(4, int))
    assert dones.all()
    assert [info["TimeLimit.truncated"] for info in infos] == [False] * 4


def test_its_wrappers_and_attributes():
    env = VecNormalize(VecMonitor(adapted()), norm_obs=False)
    env.reset()
    episodes = []
    for _ in range(12):
        *_, infos = env.step(np.zeros(4, int))
        episodes += [info["episode"] for info in infos if "episode" in info]
    assert len(episodes) == 4
    assert episodes[0]["l"] == 10
    assert env.get_attr("num_problems") == [1] * 4
    assert env.env_method("decode", [0]) == [[":" * 2]] * 4
    assert env.env_is_wrapped(VecMonitor) == [False] * 4
    with pytest.raises(ValueError, match="indices must be all rows"):
        env.env_method("decode", [0], indices=[1])
    with pytest.raises(ValueError, match="copy=True"):
        adapted(copy=False)
    with pytest.raises(ValueError, match="autoreset_mode='SameStep', got"):
        SB3VecEnv(textenv.make_vec(ID, 2))


@pytest.mark.parametrize("make", [adapted, dummy], ids=["adapter", "DummyVecEnv"])
def test_ppo_learns_the_target_and_its_critic_is_right(make):
    """Terminal reward, gamma 1: the return reaches 1, and so must V of the first state."""
    import torch

    torch.manual_seed(0)
    torch.set_num_threads(1)
    model = sb3.PPO("MultiInputPolicy", make(8), n_steps=128, batch_size=256, learning_rate=1e-3, gamma=1.0, seed=0)
    model.learn(60_000)
    env = make(8)
    observation = env.reset()
    with torch.no_grad():
        first = model.policy.predict_values(model.policy.obs_to_tensor(observation)[0])[:, 0].numpy()
    returns, total = [], np.zeros(8)
    for _ in range(60):
        actions, _ = model.predict(observation, deterministic=False)
        observation, rewards, dones, _ = env.step(actions)
        total += rewards
        returns += total[dones].tolist()
        total[dones] = 0
    assert np.mean(returns) >= 0.98
    assert np.abs(first - np.mean(returns)).max() < 0.1

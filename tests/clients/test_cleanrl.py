"""CleanRL's PPO loop (`ppo.py`: one Box observation, NEXT_STEP, rollouts of fixed length) on `obs_mode="packed"`."""

import numpy as np
import pytest

torch = pytest.importorskip("torch")

import textenv  # noqa: E402

ROWS, STEPS, UPDATES = 16, 64, 60


def layer(inputs, outputs, std=2**0.5):
    made = torch.nn.Linear(inputs, outputs)
    torch.nn.init.orthogonal_(made.weight, std)
    torch.nn.init.constant_(made.bias, 0.0)
    return made


class Agent(torch.nn.Module):
    """Two small networks on the flat observation, as CleanRL has them."""

    def __init__(self, envs):
        super().__init__()
        size, actions = int(np.prod(envs.single_observation_space.shape)), envs.single_action_space.n
        self.critic = torch.nn.Sequential(
            layer(size, 64), torch.nn.Tanh(), layer(64, 64), torch.nn.Tanh(), layer(64, 1, 1.0)
        )
        self.actor = torch.nn.Sequential(
            layer(size, 64), torch.nn.Tanh(), layer(64, 64), torch.nn.Tanh(), layer(64, actions, 0.01)
        )

    def forward(self, x, action=None):
        chosen = torch.distributions.Categorical(logits=self.actor(x))
        action = chosen.sample() if action is None else action
        return action, chosen.log_prob(action), chosen.entropy(), self.critic(x)[:, 0]


def advantages(rewards, values, dones, last_value, last_done, lam=0.95):
    result, carried = torch.zeros_like(rewards), 0.0
    for t in reversed(range(STEPS)):
        going = 1.0 - (last_done if t == STEPS - 1 else dones[t + 1])
        following = last_value if t == STEPS - 1 else values[t + 1]
        carried = rewards[t] + following * going - values[t] + lam * going * carried
        result[t] = carried
    return result


def test_it_learns_the_target():
    torch.manual_seed(0)
    torch.set_num_threads(1)
    envs = textenv.make_vec(
        "textenv/Target-v0", ROWS, obs_mode="packed", max_new_tokens=5, task={"_target_": "target", "length": 5}
    )
    agent = Agent(envs)
    optimizer = torch.optim.Adam(agent.parameters(), lr=1e-3, eps=1e-5)
    shape = envs.single_observation_space.shape
    scale = float(envs.single_observation_space.high.max())
    obs = torch.zeros(STEPS, ROWS, *shape)
    actions, logprobs, rewards, dones, values = torch.zeros(5, STEPS, ROWS)
    seen, _ = envs.reset(seed=0)
    seen, done = torch.tensor(seen) / scale, torch.zeros(ROWS)
    returns = []
    for _ in range(UPDATES):
        finished = []
        for t in range(STEPS):
            obs[t], dones[t] = seen, done
            with torch.no_grad():
                action, logprobs[t], _, values[t] = agent(seen)
            actions[t] = action
            seen, reward, terminated, truncated, _ = envs.step(action.numpy())
            seen, rewards[t] = torch.tensor(seen) / scale, torch.tensor(reward)
            done = torch.tensor(terminated | truncated, dtype=torch.float32)
            finished += reward[terminated | truncated].tolist()
        returns.append(np.mean(finished))
        with torch.no_grad():
            advantage = advantages(rewards, values, dones, agent(seen)[3], done)
        target = advantage + values
        flat = [x.flatten(0, 1) for x in (obs, actions, logprobs, advantage, target)]
        for _ in range(4):
            for rows in torch.randperm(STEPS * ROWS).split(256):
                x, a, old, adv, goal = (f[rows] for f in flat)
                _, new, entropy, value = agent(x, a)
                ratio = (new - old).exp()
                adv = (adv - adv.mean()) / (adv.std() + 1e-8)
                policy = torch.max(-adv * ratio, -adv * ratio.clamp(0.8, 1.2)).mean()
                loss = policy + 0.25 * (value - goal).square().mean() - 0.01 * entropy.mean()
                optimizer.zero_grad()
                loss.backward()
                torch.nn.utils.clip_grad_norm_(agent.parameters(), 0.5)
                optimizer.step()
    assert returns[0] < 0.3
    assert np.mean(returns[-5:]) > 0.7

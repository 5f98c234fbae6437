"""Every agent learns from scratch, and does not when the rewards are handed to the wrong answers."""

import numpy as np
import pytest
import torch
from small import Echo

from agents.collect import collect
from agents.grpo import GRPO, GRPOConfig
from agents.optim import OptimConfig, Optimizer
from agents.policy import Policy, ValueHead
from agents.policy.loading import TinyConfig, tiny_model
from agents.policy.lora import adapt
from agents.ppo import PPO, PPOConfig
from agents.trpo import TRPO, TRPOConfig
from rewards.preference.lora import LoraConfig
from textenv import TextVectorEnv

ITERATIONS = {"grpo": 40, "ppo": 40, "trpo": 15}
WIDER = 15
PROBLEMS = np.repeat(np.arange(4), 16)


def make_agent(kind, env, seed, lora):
    vocabulary = len(env.tokenizer)
    model = tiny_model(vocabulary, TinyConfig(32, 2, 4, 32), seed=seed, device=torch.device("cpu"))
    if lora:  # a head of random weights that small, and frozen, could not say anything with conviction
        for parameter in model.parameters():
            parameter.data.mul_(WIDER if parameter.dim() > 1 else 1)
        adapt(model, LoraConfig(rank=8), seed=seed)
    critic = None if kind == "grpo" else ValueHead(32, torch.device("cpu"))
    policy = Policy(model, num_actions=vocabulary, value_head=critic)
    policy.reset(seed=seed)
    several = {"epochs": 2, "minibatch_rows": 32} if kind == "ppo" else {}
    optim = OptimConfig(learning_rate=3e-3, **several)
    optimizer = Optimizer(policy, optim, total_iterations=ITERATIONS[kind], seed=seed)
    if kind == "grpo":
        return GRPO(GRPOConfig(optim=optim), policy, optimizer)
    if kind == "trpo":
        return TRPO(TRPOConfig(max_kl=0.1, conjugate_gradient_steps=5, optim=optim), policy, optimizer)
    return PPO(PPOConfig(optim=optim), policy, optimizer)


def reward_after_training(kind, seed, *, shuffled=False, lora=False):
    """The mean reward of the first iteration, and of the last five."""
    env = TextVectorEnv(len(PROBLEMS), autoreset_mode="Disabled", task=Echo(2), max_new_tokens=2)
    agent = make_agent(kind, env, seed, lora)
    generator = torch.Generator().manual_seed(seed)
    rewards = []
    for iteration in range(ITERATIONS[kind]):
        first_episode = iteration * len(PROBLEMS)
        rollout = collect(env, agent.policy, PROBLEMS, group_ids=PROBLEMS, first_episode=first_episode).rollout
        rewards.append(float(rollout.returns.mean()))
        agent.update(with_shuffled_rewards(rollout, generator) if shuffled else rollout)
    return rewards[0], float(np.mean(rewards[-5:]))


def with_shuffled_rewards(rollout, generator):
    """The same rewards, paid to answers drawn at random: advantages that say nothing."""
    reward = torch.zeros_like(rollout.reward)
    last = rollout.mask.sum(1) - 1
    order = torch.randperm(len(rollout), generator=generator)
    reward[torch.arange(len(rollout)), last] = rollout.returns[order]
    return rollout.with_(reward=reward)


# Mean reward of iterations 36 to 40, seeds 0 to 9 (1.0 is perfect, they start at 0.13 to 0.22), one core:
# GRPO            0.91 0.90 0.84 0.90 0.91 0.90 0.91 0.91 0.91 0.91   0.6 s a run
# GRPO, shuffled  0.18 0.09 0.09 0.21 0.10 0.13 0.12 0.15 0.16 0.16
# PPO             0.90 0.78 0.96 0.77 0.84 0.99 0.95 1.00 0.99 0.97   1.7 s a run
# PPO, shuffled   0.13 0.01 0.09 0.17 0.02 0.10 0.05 0.05 0.21 0.09
# TRPO, of iterations 11 to 15, that is with three eighths of the tokens:
#                 0.84 0.84 0.81 0.76 0.79 0.72 0.83 0.81 0.82 0.80   1.4 s a run
# TRPO, shuffled  0.22 0.16 0.04 0.09 0.10 0.19 0.15 0.24 0.17 0.09
@pytest.mark.parametrize("seed", [0, 2])
@pytest.mark.parametrize("kind", ["grpo", "ppo", "trpo"])
def test_an_agent_learns_to_repeat_a_digit(kind, seed):
    before, after = reward_after_training(kind, seed)
    assert before < 0.3
    assert after > 0.6


# Under an adapter of rank 8 on a random model of wider weights, seeds 0 to 3:
# GRPO            0.99 0.86 0.99 0.94
# PPO             1.00 0.97 0.97 1.00
@pytest.mark.parametrize("kind", ["grpo", "ppo"])
def test_an_agent_learns_to_repeat_a_digit_with_an_adapter_alone(kind):
    before, after = reward_after_training(kind, 0, lora=True)
    assert before < 0.4
    assert after > 0.6


@pytest.mark.parametrize("kind", ["grpo", "ppo", "trpo"])
def test_nothing_is_learned_when_the_rewards_go_to_the_wrong_answers(kind):
    _, after = reward_after_training(kind, 0, shuffled=True)
    assert after < 0.4

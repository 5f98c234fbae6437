"""A worker: the update of our GRPO on a given rollout and what it must compute at least; or a check of its gradient.

Settings (JSON): `model` folder, `device`, `precision`, `rollout` {"prompt_ids", "completion_ids", "rewards"} with the
completions of a prompt behind one another, `group`, `steps`, `learning_rate`, `seed`; `check`: compare the gradient
of the loss with that of a plain padded Hugging Face forward instead (float32), and measure nothing.
"""

from __future__ import annotations

import time
from typing import Any

import torch
from measuring import clock, finish, peak_memory_gb, settings
from torch import Tensor
from transformers import AutoModelForCausalLM

from agents.advantages import group_advantages
from agents.config import PolicyConfig, TrainConfig
from agents.grpo import GRPO, GRPOConfig
from agents.optim import OptimConfig
from agents.policy import Policy
from agents.policy.heap import keep_freed_memory
from agents.rollout import Rollout
from agents.setup import build_agent, build_policy

MATMUL_SIDE = {"cpu": 2048, "cuda": 8192}
CHECK_ROWS = 8


def build(asked: dict[str, Any]) -> tuple[Policy, GRPO]:
    """The agent as a run would build it."""
    num_prompts = len(asked["rollout"]["prompt_ids"]) // asked["group"]
    optim = OptimConfig(learning_rate=asked["learning_rate"])
    config = TrainConfig(
        agent=GRPOConfig(prompts=num_prompts, group_size=asked["group"], optim=optim),
        policy=PolicyConfig(model=asked["model"], device=asked["device"], precision=asked["precision"]),
        iterations=asked["steps"],
        seed=asked["seed"],
    )
    policy = build_policy(config, asked["vocabulary"], lambda _: None)
    agent = build_agent(config, policy)
    assert isinstance(agent, GRPO)
    return policy, agent


def as_rollout(given: dict[str, Any], group: int) -> Rollout:
    """The record that `collect` would have made of it; the sampler's log-probabilities are filled in by `acted`."""
    prompt, completion = torch.tensor(given["prompt_ids"]), torch.tensor(given["completion_ids"])
    num_rows, new = completion.shape
    reward = torch.zeros(num_rows, new)
    reward[:, -1] = torch.tensor(given["rewards"])
    return Rollout(
        tokens=torch.cat([prompt, completion], 1),
        prompt_length=torch.full((num_rows,), prompt.shape[1]),
        length=torch.full((num_rows,), prompt.shape[1] + new),
        mask=torch.ones(num_rows, new, dtype=torch.bool),
        sampled_logprob=torch.zeros(num_rows, new),
        entropy=torch.zeros(num_rows, new),
        reward=reward,
        truncated=torch.zeros(num_rows, dtype=torch.bool),
        finish_reason=torch.zeros(num_rows, dtype=torch.int64),
        problem=torch.arange(num_rows) // group,
        episode=torch.arange(num_rows),
        valid=torch.ones(num_rows, dtype=torch.bool),
    )


def acted(rollout: Rollout, policy: Policy) -> Rollout:
    """With the log-probabilities that the policy had when it chose these tokens."""
    return rollout.with_(sampled_logprob=policy.score(rollout, microbatch_tokens=2048).logprob)


def measure(asked: dict[str, Any]) -> None:
    """Seconds of each update, the floor, memory."""
    keep_freed_memory()
    policy, agent = build(asked)
    rollout = acted(as_rollout(asked["rollout"], asked["group"]), policy)
    steps = []
    for _ in range(asked["steps"]):
        started = clock(asked["device"])
        agent.update(rollout)
        steps.append({"seconds": clock(asked["device"]) - started, "tokens": int(rollout.mask.sum())})
    memory = peak_memory_gb(asked["device"])
    rate = matmul_rate(policy.model.weight.dtype, asked["device"])
    useful = useful_flops(policy.model.model, rollout, asked["group"])
    finish(steps=steps, peak_memory_gb=memory, matmul_flops_per_second=rate, useful_flops=useful)


def matmul_rate(dtype: torch.dtype, device: str, seconds: float = 1.0) -> float:
    """The best FLOP a second of a square product within about `seconds`."""
    side = MATMUL_SIDE[device]
    a, b = (torch.randn(side, side, device=device).to(dtype) for _ in range(2))
    best, begun = 0.0, time.perf_counter()
    while not best or time.perf_counter() - begun < seconds:
        started = clock(device)
        a @ b
        best = max(best, 2 * side**3 / (clock(device) - started))
    return best


def useful_flops(model: Any, rollout: Rollout, group: int) -> float:
    """What an update must compute at least: the prompt of a group once, no completion's last token, the head only
    where a token was chosen, a product thrice (forward, and twice backward)."""
    config = model.config.get_text_config()
    body = sum(p.numel() for p in model.base_model.parameters() if p.dim() == 2)
    body -= model.get_input_embeddings().weight.numel()
    prompt, new = int(rollout.prompt_length[0]), rollout.mask.shape[1]
    num_rows = len(rollout)
    num_prompts = num_rows // group
    tokens = num_prompts * prompt + num_rows * (new - 1)
    keys = num_prompts * prompt * (prompt + 1) // 2 + num_rows * sum(prompt + i for i in range(1, new))
    width = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    attention = 2 * config.num_hidden_layers * config.num_attention_heads * width * keys
    head = config.hidden_size * config.vocab_size * num_rows * new
    return 6.0 * (body * tokens + attention + head)


def check(asked: dict[str, Any]) -> None:
    """How far our gradient is from the plain one, relative to its norm, over all weights."""
    policy, agent = build(asked | {"precision": "float32"})
    rollout = acted(as_rollout(asked["rollout"], asked["group"]), policy)
    advantage = group_advantages(rollout.returns, rollout.problem, scale="group", valid=rollout.valid)
    parameters = dict(policy.model.model.named_parameters())
    loss = agent.loss(rollout, advantage).loss.sum() / rollout.mask.sum()
    ours = dict(zip(parameters, torch.autograd.grad(loss, list(parameters.values())), strict=True))
    plain = plain_gradient(asked["model"], rollout, advantage, policy.device)
    difference = sum(float((ours[name] - plain[name]).square().sum()) for name in plain) ** 0.5
    norm = sum(float(gradient.square().sum()) for gradient in plain.values()) ** 0.5
    finish(relative_difference=difference / norm, gradient_norm=norm)


def plain_gradient(folder: str, rollout: Rollout, advantage: Tensor, device: torch.device) -> dict[str, Tensor]:
    """Of the same objective by Hugging Face's own forward over every row, logits and all."""
    model: Any = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    model.to(device)
    prompt = int(rollout.prompt_length[0])
    for start in range(0, len(rollout), CHECK_ROWS):
        tokens = rollout.tokens[start : start + CHECK_ROWS].to(device)
        logits = model(input_ids=tokens, use_cache=False).logits[:, prompt - 1 : -1]
        logprob = logits.log_softmax(-1).gather(2, tokens[:, prompt:, None])[..., 0]
        weight = advantage[start : start + CHECK_ROWS].to(device)[:, None]
        (-(weight * logprob).sum() / rollout.mask.sum()).backward()
    return {name: p.grad for name, p in model.named_parameters() if p.grad is not None}


if __name__ == "__main__":
    asked = settings()
    check(asked) if asked.get("check") else measure(asked)

"""Small models, rollouts and tasks that the tests of agents share."""

from __future__ import annotations

import copy
import random
import warnings
from collections.abc import Sequence
from dataclasses import fields as fields_of
from typing import Any

import numpy as np
import torch
from transformers import (
    AutoModelForCausalLM,
    BloomConfig,
    Gemma2Config,
    GemmaConfig,
    GPT2Config,
    GPTNeoXConfig,
    LlamaConfig,
    MistralConfig,
    PretrainedConfig,
    Qwen2Config,
    Qwen3Config,
)

from agents.policy import LanguageModel, Policy, Sampling, ValueHead
from agents.rollout import Rollout
from textenv.tokenizer import TinyTokenizer
from textenv.types import Problem

VOCABULARY = 37
"""Rows of the head; the last two are no tokens of the tokenizer."""
ACTIONS = 35
END = 7

BASE = {
    "vocab_size": VOCABULARY,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 64,
    "bos_token_id": None,
    "eos_token_id": None,
    "pad_token_id": None,
}
GROUPED = BASE | {"num_key_value_heads": 2}
GPT2 = {"vocab_size": VOCABULARY, "n_embd": 16, "n_layer": 2, "n_head": 4, "n_positions": 64}
NO_IDS = {"bos_token_id": None, "eos_token_id": None}

PACKED: dict[str, PretrainedConfig] = {
    "llama": LlamaConfig(**GROUPED),
    "qwen2": Qwen2Config(**GROUPED),
    "qwen3": Qwen3Config(**GROUPED, head_dim=8),
    "mistral": MistralConfig(**GROUPED, sliding_window=5),
    "gemma": GemmaConfig(**GROUPED, head_dim=8),
    "gpt2": GPT2Config(**GPT2, **NO_IDS),
    "gpt_neox": GPTNeoXConfig(**BASE),
}
PADDED: dict[str, PretrainedConfig] = {
    "gemma2": Gemma2Config(**GROUPED, head_dim=8, sliding_window=5),
    "bloom": BloomConfig(vocab_size=VOCABULARY, hidden_size=16, n_layer=2, n_head=4, **NO_IDS),
}
FAMILIES = PACKED | PADDED


def hugging_face_model(family: str = "llama", *, seed: int = 0, spread: float = 0.3) -> Any:
    """A random model whose next-token distributions are far from uniform and depend on what came before."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        config = copy.deepcopy(FAMILIES[family])  # a model keeps and changes the one that it is given
        model = AutoModelForCausalLM.from_config(config, attn_implementation="eager")
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.data.normal_(0, spread)
        for parameter in model.parameters():
            if parameter.dim() == 1:  # weights of norms around 1 (Gemma: 0), biases around 0
                parameter.data.add_(torch.randn_like(parameter), alpha=0.2)
    return model.eval()


def language_model(family: str = "llama", **options: Any) -> LanguageModel:
    """The same, wrapped; the warning about the slower path is expected for families in `PADDED`."""
    with warnings.catch_warnings():
        if family in PADDED:
            warnings.filterwarnings("ignore", message=".*slower path")
        return LanguageModel(hugging_face_model(family, **options))


def small_policy(family: str = "llama", *, sampling: Sampling | None = None, seed: int = 0, **options: Any) -> Policy:
    return Policy(language_model(family, seed=seed), num_actions=ACTIONS, sampling=sampling, **options)


def with_critic(family: str = "llama", *, separate: bool = False, **options: Any) -> Policy:
    """A policy with a value head that is not zero."""
    policy = small_policy(
        family,
        critic_model=language_model(family, seed=9) if separate else None,
        value_head=ValueHead(16, torch.device("cpu")),
        **options,
    )
    with torch.no_grad():
        policy.value_head.linear.weight.copy_(torch.linspace(-1, 1, 16)[None])
    return policy


def observe(rows: Sequence[Sequence[int]], *, width: int = 48, remaining: int | Sequence[int] = 12) -> dict:
    """An observation as the environment gives it."""
    tokens = np.zeros((len(rows), width), np.int32)
    for row, ids in enumerate(rows):
        tokens[row, : len(ids)] = ids
    return {
        "tokens": tokens,
        "length": np.array([[len(ids)] for ids in rows], np.int32),
        "remaining": np.broadcast_to(np.array(remaining, np.int32), len(rows))[:, None].copy(),
    }


class Written:
    """What `write` made of each row."""

    def __init__(self, prompts: Sequence[Sequence[int]]) -> None:
        self.prompts = [list(prompt) for prompt in prompts]
        self.completions: list[list[int]] = [[] for _ in prompts]
        self.logprobs: list[list[float]] = [[] for _ in prompts]
        self.entropies: list[list[float]] = [[] for _ in prompts]

    @property
    def rows(self) -> list[list[int]]:
        return [p + c for p, c in zip(self.prompts, self.completions, strict=True)]

    def rollout(self, **fields: Any) -> Rollout:
        """The rows as a Rollout with what the sampler reported."""
        made = make_rollout(self.prompts, self.completions, **fields)
        return made.with_(sampled_logprob=rectangle(self.logprobs), entropy=rectangle(self.entropies))


def write(
    policy: Policy,
    prompts: Sequence[Sequence[int]],
    *,
    max_tokens: int = 4,
    budget: int = 12,
    episodes: Sequence[int] | None = None,
    sampling: Sampling | None = None,
    reset: bool = True,
    with_entropy: bool = True,
) -> Written:
    """Let `policy` answer `prompts` to the end token or the budget, as an environment would, `max_tokens` a round."""
    if reset:
        policy.reset()
    written = Written(prompts)
    episode = np.arange(len(prompts)) if episodes is None else np.array(episodes)
    live = np.ones(len(prompts), bool)
    while live.any():
        remaining = [budget - len(completion) for completion in written.completions]
        action = policy.act(
            observe(written.rows, remaining=remaining),
            episode=episode,
            live=live,
            max_tokens=max_tokens,
            end_ids=[END],
            sampling=sampling,
            with_entropy=with_entropy,
        )
        for row in np.flatnonzero(live):
            count = action.length[row]
            written.completions[row] += action.token[row, :count].tolist()
            written.logprobs[row] += action.logprob[row, :count].tolist()
            if with_entropy:
                written.entropies[row] += action.entropy[row, :count].tolist()
            live[row] = written.completions[row][-1] != END and len(written.completions[row]) < budget
    return written


def prompts_of(lengths: Sequence[int], *, seed: int = 0) -> list[list[int]]:
    """Random prompts, of tokens that are no end token."""
    rng = np.random.default_rng(seed)
    return [(8 + rng.integers(ACTIONS - 8, size=n)).tolist() for n in lengths]


def rectangle(rows: Sequence[Sequence[float]], fill: float = 0.0) -> torch.Tensor:
    """Ragged rows, padded with `fill`."""
    width = max(map(len, rows))
    return torch.tensor([list(row) + [fill] * (width - len(row)) for row in rows], dtype=torch.float32)


def make_rollout(
    prompts: Sequence[Sequence[int]],
    responses: Sequence[Sequence[int]],
    *,
    masks: Sequence[Sequence[int]] | None = None,
    problem: Sequence[int] | None = None,
    returns: Sequence[float] | None = None,
    **fields: Any,
) -> Rollout:
    """A Rollout from lists. `returns` are paid on each row's last policy token; other fields as given."""
    num_rows, num_columns = len(prompts), max(map(len, responses))
    rows = [list(p) + list(r) for p, r in zip(prompts, responses, strict=True)]
    mask = rectangle(masks or [[1] * len(r) for r in responses]).bool()
    reward = torch.zeros(num_rows, num_columns)
    if returns is not None:
        last = mask.shape[1] - 1 - mask.flip(1).int().argmax(1)
        reward[torch.arange(num_rows), last] = torch.tensor(returns)
    made = Rollout(
        tokens=rectangle(rows).long(),
        prompt_length=torch.tensor([len(p) for p in prompts]),
        length=torch.tensor([len(row) for row in rows]),
        mask=mask,
        sampled_logprob=torch.zeros(num_rows, num_columns),
        entropy=torch.zeros(num_rows, num_columns),
        reward=reward,
        truncated=torch.zeros(num_rows, dtype=torch.bool),
        finish_reason=torch.ones(num_rows, dtype=torch.long),
        problem=torch.tensor(problem if problem is not None else range(num_rows)),
        episode=torch.arange(num_rows),
        valid=torch.ones(num_rows, dtype=torch.bool),
    )
    return made.with_(**fields)


def ragged_rollout(**fields):
    """Six rows of three problems, prompts shared in pairs, one row with tokens of the environment in the middle."""
    a, b, c = prompts_of((5, 9, 1))
    responses = prompts_of((4, 1, 7, 3, 2, 6), seed=1)
    masks = [[1] * len(r) for r in responses]
    masks[2] = [1, 1, 0, 0, 0, 1, 1]
    return make_rollout([a, b, a, c, c, b], responses, masks=masks, problem=[0, 1, 0, 2, 2, 1], **fields)


@torch.no_grad()
def logprobs_by_hand(model, rollout):
    """Every row forwarded whole by transformers' own attention."""
    expected = torch.zeros(rollout.mask.shape)
    for i in range(len(rollout)):
        text = rollout.tokens[i, : rollout.length[i]]
        logprob = model(input_ids=text[None], use_cache=False).logits[0, :, :ACTIONS].log_softmax(-1)
        for a in rollout.mask[i].nonzero()[:, 0].tolist():
            place = int(rollout.prompt_length[i]) + a
            expected[i, a] = logprob[place - 1, text[place]]
    return expected


def widened(rollout: Rollout, count: int) -> Rollout:
    """The same rows with `count` more columns of padding."""
    columns = [
        f.name
        for f in fields_of(Rollout)
        if getattr(getattr(rollout, f.name), "ndim", 0) == 2 and f.name not in ("parts", "part_weight")
    ]
    return rollout.with_(**{name: torch.nn.functional.pad(getattr(rollout, name), (0, count)) for name in columns})


def soiled(rollout: Rollout, policy: Policy) -> Rollout:
    """NaN and nonsense wherever nothing may be read: outside the mask, beyond the length, in invalid rows."""
    unread = ~rollout.trainable
    dirty = {
        name: x.masked_fill(unread, torch.nan)
        for name in ("sampled_logprob", "entropy", "reward", "old_logprob", "reference_logprob", "value")
        if (x := getattr(rollout, name)) is not None
    }
    beyond = torch.arange(rollout.tokens.shape[1]) >= rollout.length[:, None]
    nonsense = -5 if policy.model.packed else 11
    return rollout.with_(tokens=rollout.tokens.masked_fill(beyond, nonsense), **dirty)


def weights_of(policy: Policy) -> dict[str, torch.Tensor]:
    return {name: p.detach().clone() for name, p in policy.named_parameters()}


def distance(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> float:
    """The largest difference of any weight."""
    return max(float((a[name] - b[name]).abs().max()) for name in a)


class Echo:
    """A digit is shown, the answer repeats it: a task that can be learned from scratch in seconds."""

    name = "echo"
    columns = frozenset({"answer"})

    def __init__(self, length: int = 1) -> None:
        self.length = length

    def split(self, name: str) -> list[Problem]:
        if name not in ("train", "test"):
            raise ValueError(f"split must be one of train, test, got {name!r}")
        return [Problem(f"{digit}=", {"answer": str(digit) * self.length}) for digit in range(4)]

    def reward(self) -> Any:
        return {"right": ShareRight()}

    def tokenizer(self) -> TinyTokenizer:
        return TinyTokenizer("0123=")


class ShareRight:
    """The share of the answer's characters that stand at their place."""

    execution = "inline"

    def __call__(self, completion: str, answer: str) -> float:
        return sum(a == b for a, b in zip(completion, answer, strict=False)) / len(answer)


def moody(completion: str) -> float:
    """A reward that even nonsense gets in different amounts."""
    return float(sum(map(ord, completion)) % 7)


def wants_a_colour(completion: str, colour: str) -> float:
    """A reward that asks for a column that no task here has."""
    return float(colour in completion)


def solved_when_even(completion: str, digits: str) -> float:
    """A reward of 1 for whatever is said of an even number, and of chance for an odd one."""
    return 1.0 if int(digits) % 2 == 0 else moody(completion)


def capricious(completion: str) -> float:
    """A reward that draws from every global generator there is, as no reward should."""
    return moody(completion) + random.random() + float(np.random.rand()) + float(torch.rand(()))


def share_right(completion: str, answer: str) -> float:
    """`Echo`'s own reward as a function."""
    return ShareRight()(completion, answer)


def share_wrong(completion: str, answer: str) -> float:
    """Its opposite."""
    return 1.0 - ShareRight()(completion, answer)

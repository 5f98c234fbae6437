"""What a run needs of memory, known before a weight is loaded: split where that is exact, or refused with arithmetic.

Fewer rows of the environment, smaller microbatches and activations that are computed twice change no result, only time;
so when memory is short they are chosen, in this order, and it is said. What remains too large is refused.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, PretrainedConfig

from agents.policy.attention import PLAIN_SCORES
from agents.policy.cache import SlotCache
from agents.policy.head import chunk_rows

RESERVE = 0.1
"""Share of the free memory that is left alone: an estimate is an estimate."""
SMALLEST_MICROBATCH = 256
LAYER_NUMBERS = (14, 6)
"""What a layer keeps for each token until the backward pass, in hidden and in intermediate sizes; measured at 135M (0.9
MB a token in bfloat16) with torch's own layers. Those by the kernels keep about half of it, which is not counted on."""

LOGIT_BYTES = {"over the vocabulary": 25, "restricted": 40}
"""What torch needs for each logit of a chunk where more is asked of it than log-probabilities of a whole distribution:
its entropy or an exact KL, or anything under top-k or top-p, which sort. Measured in float32; in bfloat16 a tenth less,
since all but the logits and their gradient is float32 anyway."""

NATURAL_GRADIENT_VECTORS = 9
"""In float32, as long as the weights: these, the gradient, three of the conjugate gradient's, four for a product."""


@dataclass(frozen=True, slots=True)
class ModelSize:
    """What the memory of a model depends on."""

    num_parameters: int
    num_layers: int
    hidden_size: int
    intermediate_size: int
    num_heads: int
    key_value_heads: int
    head_size: int
    vocabulary: int

    @staticmethod
    def of(config: PretrainedConfig) -> ModelSize:
        """Of a model that is never built: its weights are counted on the device `meta`, which holds none."""
        with torch.device("meta"):
            model: Any = AutoModelForCausalLM.from_config(config)
        text = config.get_text_config()
        heads = text.num_attention_heads
        return ModelSize(
            num_parameters=sum(p.numel() for p in model.parameters()),
            num_layers=text.num_hidden_layers,
            hidden_size=text.hidden_size,
            intermediate_size=getattr(text, "intermediate_size", None) or 4 * text.hidden_size,
            num_heads=heads,
            key_value_heads=getattr(text, "num_key_value_heads", None) or heads,
            head_size=getattr(text, "head_dim", None) or text.hidden_size // heads,
            vocabulary=text.vocab_size,
        )

    def cache_bytes(self, num_rows: int, num_columns: int, dtype: torch.dtype) -> int:
        """Keys and values of an environment's rows."""
        shape = (self.num_layers, self.key_value_heads, self.head_size)
        return SlotCache.num_bytes(num_rows, num_columns, shape, dtype)

    def kept_scores(self, num_columns: int) -> int:
        """Probabilities of attention that a layer keeps for each token on a CPU: as many as it may look back at, unless
        a row of them all is too large to be computed as one array (then nothing is kept)."""
        of_row = self.num_heads * num_columns**2
        return self.num_heads * num_columns if of_row <= PLAIN_SCORES else 0

    def activation_bytes(
        self,
        num_tokens: int,
        dtype: torch.dtype,
        *,
        checkpointed: bool,
        scores: int = 0,
        logit_bytes: int | None = None,
    ) -> int:
        """What the forward pass keeps for the backward pass, and one chunk of logits, `logit_bytes` for each of them
        (None: as the model gives them, twice in float32, and their gradient). `scores`: see `kept_scores`."""
        a, b = LAYER_NUMBERS
        layer = (a * self.hidden_size + b * self.intermediate_size + scores) * dtype.itemsize
        kept = self.num_layers * self.hidden_size * dtype.itemsize + layer if checkpointed else self.num_layers * layer
        each = 2 * 4 + 2 * dtype.itemsize if logit_bytes is None else logit_bytes
        return num_tokens * kept + min(num_tokens, chunk_rows(dtype)) * self.vocabulary * each


@dataclass(frozen=True, slots=True)
class Demand:
    """What a run asks for."""

    num_rows: int
    num_columns: int
    """Tokens of a row: prompt and completion."""
    microbatch_tokens: int
    dtype: torch.dtype
    trained_models: int = 1
    """2 with a critic of its own."""
    adapter_parameters: int | None = None
    """Of each, where only adapters are trained, on one frozen set of weights for all; None: all weights are."""
    frozen_models: int = 0
    """1 with a reference policy of its own."""
    reward_bytes: int = 0
    """Weights of reward models and judges on the same device."""
    natural_gradient: bool = False
    """Whether the policy is moved by a natural gradient, for which Adam keeps nothing."""
    checkpoint_activations: bool | None = None
    """None: only when there is no other way."""
    keeps_scores: bool = True
    """Whether attention keeps its probabilities for the backward pass, as on a CPU."""
    logit_bytes: int | None = None
    """One of `LOGIT_BYTES`; None where nothing is asked of the logits but log-probabilities."""


@dataclass(frozen=True, slots=True)
class Plan:
    """How a run fits."""

    num_rows: int
    microbatch_tokens: int
    checkpoint_activations: bool
    changes: tuple[str, ...] = ()
    """In words, for the user."""


def plan(size: ModelSize, demand: Demand, free: int | None) -> Plan:
    """How the run fits into `free` bytes (None: unknown, then it is taken to fit).

    Raises `ValueError` with the arithmetic and the settings to change when it does not fit in any way.
    """
    wanted = Plan(demand.num_rows, demand.microbatch_tokens, bool(demand.checkpoint_activations))
    if free is None:
        return wanted
    room = (1 - RESERVE) * free - sum(fixed_parts(size, demand).values())
    one_row = size.cache_bytes(1, demand.num_columns, demand.dtype)
    best, most = wanted, 0
    for candidate in candidates(wanted, demand):
        num_rows = min(demand.num_rows, int((room - activations(size, demand, candidate)) // one_row))
        if num_rows > most:
            best, most = candidate, num_rows
        if 4 * most >= demand.num_rows:
            break
    if most < 1:
        raise ValueError(refusal(size, demand, free))
    return described(demand, best, most)


def candidates(wanted: Plan, demand: Demand) -> list[Plan]:
    """The update as it was asked for, then with ever smaller microbatches, then with checkpointed activations."""
    smallest = max(demand.num_columns, min(SMALLEST_MICROBATCH, demand.microbatch_tokens))
    sizes = [demand.microbatch_tokens]
    while sizes[-1] // 2 >= smallest:
        sizes.append(sizes[-1] // 2)
    ways = [wanted.checkpoint_activations]
    if demand.checkpoint_activations is None:
        ways.append(True)
    return [Plan(wanted.num_rows, n, way) for way in ways for n in sizes]


def activations(size: ModelSize, demand: Demand, candidate: Plan) -> int:
    """Of one microbatch, through all models that are trained."""
    tokens = max(candidate.microbatch_tokens, demand.num_columns)
    scores = size.kept_scores(demand.num_columns) if demand.keeps_scores else 0
    one = size.activation_bytes(
        tokens,
        demand.dtype,
        checkpointed=candidate.checkpoint_activations,
        scores=scores,
        logit_bytes=demand.logit_bytes,
    )
    return demand.trained_models * one


def fixed_parts(size: ModelSize, demand: Demand) -> dict[str, int]:
    """Bytes by what they are for, which no exact change makes smaller."""
    n, adapter = size.num_parameters, demand.adapter_parameters
    trained = n if adapter is None else adapter
    held = demand.trained_models * n if adapter is None else n + demand.trained_models * adapter
    master = 4 if demand.dtype != torch.float32 else 0
    head = size.vocabulary * size.hidden_size if adapter is None else 0
    return {
        "weights": held * demand.dtype.itemsize + demand.trained_models * trained * master,
        "gradients": demand.trained_models * trained * 4,
        "the head's gradient, a sum and a chunk's": head * (4 + demand.dtype.itemsize),
        "AdamW": (demand.trained_models - demand.natural_gradient) * trained * 8,
        "natural gradient": demand.natural_gradient * trained * 4 * NATURAL_GRADIENT_VECTORS,
        "weights laid out for acting": n * demand.dtype.itemsize,
        "reference policy": demand.frozen_models * n * demand.dtype.itemsize,
        "models that reward": demand.reward_bytes,
    }


def described(demand: Demand, candidate: Plan, num_rows: int) -> Plan:
    """The plan with what it changes."""
    changes = []
    if num_rows < demand.num_rows:
        changes.append(f"env.rows {demand.num_rows} -> {num_rows}")
    if candidate.microbatch_tokens < demand.microbatch_tokens:
        changes.append(f"agent.optim.microbatch_tokens {demand.microbatch_tokens} -> {candidate.microbatch_tokens}")
    if candidate.checkpoint_activations and not demand.checkpoint_activations:
        changes.append("agent.optim.checkpoint_activations -> true")
    return Plan(num_rows, candidate.microbatch_tokens, candidate.checkpoint_activations, tuple(changes))


def refusal(size: ModelSize, demand: Demand, free: int) -> str:
    """The arithmetic of the smallest that was tried."""
    smallest = candidates(Plan(1, demand.microbatch_tokens, bool(demand.checkpoint_activations)), demand)[-1]
    parts = fixed_parts(size, demand)
    parts[f"activations of {smallest.microbatch_tokens} tokens"] = activations(size, demand, smallest)
    row = size.cache_bytes(1, demand.num_columns, demand.dtype)
    parts[f"keys and values of one row of {demand.num_columns} tokens"] = row
    listed = ", ".join(f"{name} {gigabytes(number)}" for name, number in parts.items() if number)
    return (
        f"too little memory: at least {gigabytes(sum(parts.values()))} GB are needed ({listed}) and "
        f"{gigabytes((1 - RESERVE) * free)} GB can be used: choose a smaller policy.model, policy.lora.rank above 0, "
        "policy.precision=bfloat16, a smaller env.max_new_tokens, or agent.kl_coef=0 and agent.critic=shared where "
        "they apply"
    )


def gigabytes(number: float) -> str:
    """Rounded up to hundredths.

    >>> gigabytes(1_234_567_890)
    '1.24'
    """
    return f"{math.ceil(number / 1e7) / 100:.2f}"


def free_bytes(device: torch.device, read: Callable[[Path], str] = Path.read_text) -> int | None:
    """Memory that can still be had: on the GPU, or of the system and the container; None where nobody tells."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    known = [system_bytes(read), container_bytes(read)]
    return min((n for n in known if n is not None), default=None)


def system_bytes(read: Callable[[Path], str]) -> int | None:
    """`MemAvailable` of Linux."""
    try:
        lines = read(Path("/proc/meminfo")).splitlines()
    except OSError:
        return None
    found = [line.split()[1] for line in lines if line.startswith("MemAvailable:")]
    return int(found[0]) * 1024 if found else None


def container_bytes(read: Callable[[Path], str]) -> int | None:
    """What the control group (version 2) leaves, where it has a limit; cached files can be dropped."""
    folder = Path("/sys/fs/cgroup")
    try:
        limit, used, stat = (read(folder / name) for name in ("memory.max", "memory.current", "memory.stat"))
        files = [int(line.split()[1]) for line in stat.splitlines() if line.startswith("file ")]
        return None if limit.strip() == "max" else max(int(limit) - int(used) + sum(files), 0)
    except (OSError, ValueError):
        return None

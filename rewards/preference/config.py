"""The settings of training, evaluating and labelling, with their ranges."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hydra.core.config_store import ConfigStore
from omegaconf import MISSING

from rewards.preference.lora import LoraConfig

CONFIG_FOLDER = str(Path(__file__).resolve().parents[2] / "conf")
"""Absolute, so that the commands work from any folder."""


@dataclass
class TinyConfig:
    """The shape of the random Llama that `model=tiny` builds."""

    hidden_size: int = 64
    """Width; a multiple of twice `num_heads`."""
    num_layers: int = 2
    """Transformer blocks."""
    num_heads: int = 4
    """Attention heads."""

    def __post_init__(self) -> None:
        for name in ("hidden_size", "num_layers", "num_heads"):
            at_least(f"tiny.{name}", getattr(self, name), 1)
        if self.hidden_size % (2 * self.num_heads):
            rule = f"a multiple of 2 * tiny.num_heads ({2 * self.num_heads})"
            raise ValueError(f"tiny.hidden_size must be {rule}, got {self.hidden_size}")


@dataclass
class TrainConfig:
    """What `python -m rewards.preference.train` reads."""

    data: str = MISSING
    """JSONL of `{prompt, chosen, rejected}` or `{prompt, responses, ranking}`."""
    eval_data: str | None = None
    """Held-out judgements; null draws them from `data`."""
    eval_share: float = 0.1
    """Share of the prompts of `data` held out where `eval_data` is null, from 0 to below 1."""
    model: str = "tiny"
    """A folder, a hub name, or `tiny` (random, made here, bytes as tokens)."""
    tiny: TinyConfig = field(default_factory=TinyConfig)
    """The shape of `model=tiny`."""
    lora: LoraConfig = field(default_factory=LoraConfig)
    """Train an adapter and the head instead of all weights: `lora.rank=16`. It is merged when the model is saved."""
    output: str = "runs/reward_model"
    """The folder to write, all at once, when training is over."""
    overwrite: bool = False
    """Whether a reward model that lies there may be replaced."""
    max_length: int = 1024
    """Most tokens of prompt and completion together, its end token included."""
    too_long: str = "error"
    """What to do with longer ones: `error`, or `truncate_prompt` (drop the prompt's oldest tokens)."""
    epochs: int = 1
    """Passes over the data; more than one soon overfits on real preferences."""
    loss: str = "pairs"
    """`pairs`: Bradley-Terry, the mean over all pairs of a ranking; `plackett_luce`: the ranking as a whole."""
    ties: str = "refuse"
    """Equal places in a ranking: `refuse`, `drop` (they are not compared) or `half` (half for either order)."""
    batch_size: int = 16
    """Judgements (pairs or rankings) an optimizer step; all responses of one are in the same step."""
    microbatch_size: int | None = None
    """Judgements a forward; null: all of the batch. Changes memory and speed, never the gradient."""
    learning_rate: float | None = None
    """AdamW's peak; null: 1e-5 for pretrained weights, 1e-4 for an adapter on them, 2e-3 for `tiny`."""
    schedule: str = "linear"
    """After the warm-up: `linear` or `cosine` to 0, or `constant`."""
    warmup_share: float = 0.05
    """Share of the steps in which the learning rate climbs from 0, from 0 to 1."""
    weight_decay: float = 0.0
    """AdamW's, 0 or more."""
    max_grad_norm: float = 1.0
    """The gradient is scaled down to this norm, above 0."""
    centering: float = 0.01
    """Coefficient of the square of twice the mean score of a judgement (`r_chosen + r_rejected`), 0 or more."""
    seed: int = 0
    """Of initial weights, order and split; the same seed gives the same model on the same machine."""
    device: str = "auto"
    """`auto`: cuda where there is one, else cpu."""
    compute: str = "float32"
    """Number format inside the backbone: `float32` or `bfloat16`; weights, head and loss stay float32."""
    checkpoint_every: int = 100
    """Steps between checkpoints; Ctrl-C writes one, too."""
    resume: str | None = None
    """The `output` of an interrupted training: go on with it, with the settings that it began with."""

    def __post_init__(self) -> None:
        for name in ("max_length", "epochs", "batch_size", "checkpoint_every"):
            at_least(name, getattr(self, name), 1)
        for name in ("weight_decay", "centering", "seed"):
            at_least(name, getattr(self, name), 0)
        if self.microbatch_size is not None:
            at_least("microbatch_size", self.microbatch_size, 1)
        for name in ("learning_rate", "max_grad_norm"):
            if getattr(self, name) is not None and not getattr(self, name) > 0:
                raise ValueError(f"{name} must be above 0, got {getattr(self, name)}")
        if not 0 <= self.eval_share < 1:
            raise ValueError(f"eval_share must be from 0 to below 1, got {self.eval_share}")
        if not 0 <= self.warmup_share <= 1:
            raise ValueError(f"warmup_share must be from 0 to 1, got {self.warmup_share}")
        self.lora.check("lora")
        one_of("loss", self.loss, ("pairs", "plackett_luce"))
        one_of("ties", self.ties, ("refuse", "drop", "half"))
        one_of("too_long", self.too_long, ("error", "truncate_prompt"))
        one_of("schedule", self.schedule, ("linear", "cosine", "constant"))
        one_of("compute", self.compute, ("float32", "bfloat16"))


@dataclass
class LabelConfig:
    """What `python -m rewards.preference.label` reads."""

    data: str = MISSING
    """JSONL of `{prompt, completions: [...]}`."""
    output: str = "rankings.jsonl"
    """Rankings are appended here; prompts that have theirs are not asked again."""
    seed: int = 0
    """Of the order in which completions are shown."""

    def __post_init__(self) -> None:
        at_least("seed", self.seed, 0)


@dataclass
class EvaluateConfig:
    """What `python -m rewards.preference.evaluate` reads."""

    path: str = MISSING
    """A reward model's folder."""
    data: str = MISSING
    """JSONL of pairs or rankings; tied pairs are left out."""
    too_long: str = "error"
    """What to do with what is longer than the model reads: `error`, or `truncate_prompt`."""
    batch_size: int = 32
    """Responses a forward."""
    device: str = "auto"
    """`auto`: cuda where there is one, else cpu."""

    def __post_init__(self) -> None:
        at_least("batch_size", self.batch_size, 1)
        one_of("too_long", self.too_long, ("error", "truncate_prompt"))


def at_least(name: str, value: int | float, least: int) -> None:
    """Raises `ValueError` where the setting is smaller or not a number."""
    if not value >= least:
        raise ValueError(f"{name} must be at least {least}, got {value}")


def one_of(name: str, value: Any, choices: tuple[str, ...]) -> None:
    """Raises `ValueError` where the setting is none of the choices."""
    if value not in choices:
        raise ValueError(f"{name} must be one of {', '.join(choices)}, got {value}")


store = ConfigStore.instance()
store.store(name="preference_train_schema", node=TrainConfig)
store.store(name="preference_label_schema", node=LabelConfig)
store.store(name="preference_evaluate_schema", node=EvaluateConfig)

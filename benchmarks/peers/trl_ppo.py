"""A worker: the PPOTrainer of TRL 1.12, the last version that has one.

It takes a reward model and no reward function: a tiny random one. The value model has the policy's size and starts
from its weights; a reference model is forwarded always, also at `kl_coef=0`.

Settings (JSON): `model` folder, `device`, `prompts` in the order of training (each once a completion), `micro_batch`,
`completions` a step, `new` tokens, `epochs`, `steps`, `learning_rate`, `temperature`, `seed`. Float32.
"""

from __future__ import annotations

import tempfile
from typing import Any

import torch
from datasets import Dataset
from measuring import Stopwatch, clock, finish, peak_memory_gb, settings
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    LlamaConfig,
    LlamaForSequenceClassification,
    TrainerCallback,
)
from trl.experimental.ppo import PPOConfig, PPOTrainer, ppo_trainer


class Watch(TrainerCallback):
    """Seconds of each step."""

    def __init__(self, stopwatch: Stopwatch, device: str, tokens: int) -> None:
        self.stopwatch, self.device, self.tokens = stopwatch, device, tokens
        self.steps: list[dict[str, float]] = []
        self.mark = 0.0

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self.stopwatch.read()
        self.mark = clock(self.device)

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        now = clock(self.device)
        self.steps.append({"seconds": now - self.mark, "tokens": self.tokens, **self.stopwatch.read()})
        self.mark = clock(self.device)


def build(asked: dict[str, Any], folder: str, stopwatch: Stopwatch) -> tuple[PPOTrainer, Watch]:
    """Policy, reference, value and reward model."""
    torch.manual_seed(asked["seed"])
    tokenizer = AutoTokenizer.from_pretrained(asked["model"], padding_side="left")
    policy, reference = (AutoModelForCausalLM.from_pretrained(asked["model"], dtype=torch.float32) for _ in range(2))
    value = AutoModelForSequenceClassification.from_pretrained(asked["model"], num_labels=1, dtype=torch.float32)
    shape: dict[str, Any] = {
        "vocab_size": policy.config.vocab_size,
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_hidden_layers": 1,
        "num_attention_heads": 4,
        "num_key_value_heads": 4,
        "num_labels": 1,
        "pad_token_id": tokenizer.pad_token_id,
    }
    rows = asked["completions"]
    config = PPOConfig(
        output_dir=folder,
        use_cpu=asked["device"] == "cpu",
        bf16=False,
        gradient_checkpointing=False,
        per_device_train_batch_size=asked["micro_batch"],
        gradient_accumulation_steps=rows // asked["micro_batch"],
        num_mini_batches=1,
        num_ppo_epochs=asked["epochs"],
        total_episodes=rows * asked["steps"],
        response_length=asked["new"],
        temperature=asked["temperature"],
        kl_coef=0.0,
        learning_rate=asked["learning_rate"],
        num_sample_generations=0,
        seed=asked["seed"],
        save_strategy="no",
        logging_strategy="no",
        report_to="none",
        disable_tqdm=True,
    )
    watch = Watch(stopwatch, asked["device"], rows * asked["new"])
    ids = tokenizer(asked["prompts"])["input_ids"]
    trainer = PPOTrainer(
        args=config,
        processing_class=tokenizer,
        model=policy,
        ref_model=reference,
        reward_model=LlamaForSequenceClassification(LlamaConfig(**shape)),
        value_model=value,
        train_dataset=Dataset.from_dict({"input_ids": ids}),
        eval_dataset=Dataset.from_dict({"input_ids": ids[:1]}),
        callbacks=[watch],
    )
    return trainer, watch


def main() -> None:
    """Train, measure, print."""
    asked = settings()
    stopwatch = Stopwatch(asked["device"])
    with tempfile.TemporaryDirectory() as folder:
        trainer, watch = build(asked, folder, stopwatch)
        stopwatch.watch(ppo_trainer, "batch_generation", "generate")
        stopwatch.watch(ppo_trainer, "get_reward", "value and reward")
        stopwatch.watch(ppo_trainer, "forward", "forward")
        stopwatch.watch(trainer.accelerator, "backward", "backward")
        trainer.train()
    finish(steps=watch.steps, peak_memory_gb=peak_memory_gb(asked["device"]))


if __name__ == "__main__":
    main()

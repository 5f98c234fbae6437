"""A worker: TRL's GRPOTrainer, whole steps, or its update alone on a given rollout, or a whole run with examinations.

Settings (JSON): `model` folder, `device`, `bfloat16` (TRL's defaults: autocast and gradient checkpointing; else float32
without either), `prompts` in the order of training, `group`, `micro_batch`, `completions` a step, `new` tokens,
`fixed_length`, `learning_rates` (one a step), `temperature`, `seed`; optionally
    `rollout`     {"prompt_ids", "completion_ids", "advantages"}: update on it, generate nothing
    `answers`     of the prompts: the reward is `last_integer`, else a hash of the text
    `prompt_ids`  of the first prompts, and `end_ids`: refuse to run when TRL sees others
    `held_out`    {"prompts", "answers", "every", "target", "limit_seconds", "progress"}
Prints the seconds of each step, of which generate, forward and backward, tokens, peak memory.
"""

from __future__ import annotations

import contextlib
import json
import tempfile
from typing import Any

import torch
from datasets import Dataset
from last_integer import last_integer
from measuring import Stopwatch, clock, finish, peak_memory_gb, settings, text_value
from torch.optim.lr_scheduler import LambdaLR
from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerCallback
from trl import GRPOConfig, GRPOTrainer


class Trainer(GRPOTrainer):
    """TRL's own, with given learning rates, that counts tokens and may be given its rollout."""

    rates: list[float]
    rollout: dict[str, Any] | None = None
    num_tokens = 0
    rewards: list[float]

    def create_scheduler(self, num_training_steps: int, optimizer: Any = None) -> Any:
        first = self.rates[0] or 1.0
        chosen = optimizer or self.optimizer
        for group in chosen.param_groups:
            group["lr"] = group["initial_lr"] = first
        self.lr_scheduler = LambdaLR(chosen, lambda step: self.rates[min(step, len(self.rates) - 1)] / first)
        return self.lr_scheduler

    def _generate_and_score_completions(self, inputs: Any) -> dict[str, Any]:
        if self.rollout is None:
            output = super()._generate_and_score_completions(inputs)
        else:
            output = given(self.rollout, self.accelerator.device)
        self.num_tokens += int(output["completion_mask"].sum())
        return output


def given(rollout: dict[str, Any], device: torch.device) -> dict[str, Any]:
    """A rollout without padding as the trainer's own method would return it."""
    prompt, completion = (torch.tensor(rollout[name], device=device) for name in ("prompt_ids", "completion_ids"))
    return {
        "prompt_ids": prompt,
        "prompt_mask": torch.ones_like(prompt),
        "completion_ids": completion,
        "completion_mask": torch.ones_like(completion),
        "advantages": torch.tensor(rollout["advantages"], device=device),
        "num_items_in_batch": torch.tensor(completion.numel(), device=device),
    }


class Watch(TrainerCallback):
    """Seconds and tokens of each step; examines and ends the run where that is asked for."""

    def __init__(self, asked: dict[str, Any], stopwatch: Stopwatch, trainer: Trainer, tokenizer: Any) -> None:
        self.asked, self.stopwatch, self.trainer, self.tokenizer = asked, stopwatch, trainer, tokenizer
        self.device: str = asked["device"]
        self.held_out: dict[str, Any] = asked.get("held_out", {})
        self.steps: list[dict[str, float]] = []
        self.points: list[dict[str, float]] = []
        self.seconds, self.tokens_before, self.stopped = 0.0, 0, "end"
        self.mark = 0.0

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if self.held_out:
            self.examine(0)
        self.stopwatch.read()
        self.mark = clock(self.device)

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> Any:
        seconds = clock(self.device) - self.mark
        self.seconds += seconds
        tokens, self.tokens_before = self.trainer.num_tokens - self.tokens_before, self.trainer.num_tokens
        self.steps.append({"seconds": seconds, "tokens": tokens, **self.stopwatch.read()})
        if self.held_out:
            last = state.global_step == state.max_steps
            if state.global_step % self.held_out["every"] == 0 or last:
                self.examine(state.global_step)
            limit = self.held_out["limit_seconds"]
            if self.points[-1]["eval/accuracy"] >= self.held_out["target"]:
                self.stopped = "target"
            elif limit is not None and self.seconds >= limit:
                self.stopped = "limit"
            control.should_training_stop = last or self.stopped != "end"
        self.stopwatch.read()
        self.mark = clock(self.device)
        return control

    def examine(self, iteration: int) -> None:
        accuracy = greedy_accuracy(self.trainer, self.tokenizer, self.held_out, self.asked)
        rewards, self.trainer.rewards = self.trainer.rewards, []
        point = {
            "iteration": iteration,
            "num_tokens": float(self.trainer.num_tokens),
            "time/train_seconds": self.seconds,
            "eval/accuracy": accuracy,
        }
        if rewards:
            point["reward/mean"] = sum(rewards) / len(rewards)
        self.points.append(point)
        with open(self.held_out["progress"], "a") as file:
            file.write(json.dumps(point) + "\n")


@torch.no_grad()
def greedy_accuracy(trainer: Trainer, tokenizer: Any, held_out: dict[str, Any], asked: dict[str, Any]) -> float:
    """Share of held-out problems whose greedy completion is right; the random state stays as it was."""
    model, texts, answers = trainer.model, held_out["prompts"], held_out["answers"]
    was_training, right = model.training, 0.0
    model.eval()
    precision = torch.autocast(asked["device"], torch.bfloat16) if asked["bfloat16"] else contextlib.nullcontext()
    with torch.random.fork_rng(), precision:
        for start in range(0, len(texts), 100):
            batch = tokenizer(texts[start : start + 100], return_tensors="pt", padding=True, padding_side="left")
            batch = batch.to(trainer.accelerator.device)
            out = model.generate(
                input_ids=batch["input_ids"],
                attention_mask=batch["attention_mask"],
                do_sample=False,
                use_cache=True,
                max_new_tokens=asked["new"],
                eos_token_id=asked["end_ids"],
                pad_token_id=tokenizer.pad_token_id,
            )
            said = tokenizer.batch_decode(out[:, batch["input_ids"].shape[1] :], skip_special_tokens=True)
            right += sum(map(last_integer, said, answers[start : start + 100]))
    model.train(was_training)
    return right / len(texts)


def build(asked: dict[str, Any], folder: str) -> tuple[Trainer, Any]:
    """TRL's trainer as its documentation builds it."""
    torch.manual_seed(asked["seed"])
    tokenizer = AutoTokenizer.from_pretrained(asked["model"])
    model = AutoModelForCausalLM.from_pretrained(asked["model"], dtype=torch.float32)
    num_steps, rows = len(asked["learning_rates"]), asked["completions"]
    data: dict[str, list[Any]] = {"prompt": asked["prompts"]}
    if "answers" in asked:
        data["answer"] = asked["answers"]
    seen: list[float] = []

    def reward(completions: list[str], **columns: Any) -> list[float]:
        values = (
            list(map(last_integer, completions, columns["answer"]))
            if "answers" in asked
            else list(map(text_value, completions))
        )
        trainer.rewards += values
        return values

    fixed = {"min_new_tokens": asked["new"]} if asked["fixed_length"] else {}
    config = GRPOConfig(
        output_dir=folder,
        use_cpu=asked["device"] == "cpu",
        bf16=asked["bfloat16"],
        gradient_checkpointing=asked["bfloat16"],
        per_device_train_batch_size=asked["micro_batch"],
        gradient_accumulation_steps=rows // asked["micro_batch"],
        num_generations=asked["group"],
        max_completion_length=asked["new"],
        max_steps=num_steps,
        learning_rate=max(asked["learning_rates"]),
        temperature=asked["temperature"],
        generation_kwargs=fixed or None,
        beta=0.0,
        loss_type="dapo",
        scale_rewards="group",
        max_grad_norm=1.0,
        weight_decay=0.0,
        shuffle_dataset=False,
        seed=asked["seed"],
        save_strategy="no",
        logging_strategy="no",
        report_to="none",
        disable_tqdm=True,
    )
    trainer = Trainer(
        model=model,
        reward_funcs=reward,
        args=config,
        train_dataset=Dataset.from_dict(data),
        processing_class=tokenizer,
    )
    trainer.rates, trainer.rollout, trainer.rewards = asked["learning_rates"], asked.get("rollout"), seen
    return trainer, tokenizer


def check(asked: dict[str, Any], trainer: Trainer, tokenizer: Any) -> None:
    """Stop with a sentence when TRL would train on something else than we do."""
    expected = asked.get("prompt_ids")
    if expected and tokenizer(asked["prompts"][: len(expected)])["input_ids"] != expected:
        raise SystemExit("TRL reads other tokens from the prompts")
    if "end_ids" in asked and sorted(trainer.eos_token_ids) != asked["end_ids"]:
        raise SystemExit(f"TRL ends at {sorted(trainer.eos_token_ids)}, not at {asked['end_ids']}")


def main() -> None:
    """Train, measure, print."""
    asked = settings()
    with tempfile.TemporaryDirectory() as folder:
        trainer, tokenizer = build(asked, folder)
        check(asked, trainer, tokenizer)
        stopwatch = Stopwatch(asked["device"])
        stopwatch.watch(trainer, "_generate_single_turn", "generate")
        stopwatch.watch(trainer, "_compute_loss", "forward")
        stopwatch.watch(trainer.accelerator, "backward", "backward")
        watch = Watch(asked, stopwatch, trainer, tokenizer)
        trainer.add_callback(watch)
        trainer.train()
    memory = peak_memory_gb(asked["device"])
    finish(steps=watch.steps, points=watch.points, stopped=watch.stopped, peak_memory_gb=memory)


if __name__ == "__main__":
    main()

"""Runs of a few iterations, made through the training loop, for the commands that read a run's folder."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from tokenizers.decoders import ByteLevel
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from agents.config import EnvConfig, EvaluationConfig, LoggingConfig, PolicyConfig, TrainConfig
from agents.grpo import GRPOConfig
from agents.optim import OptimConfig
from agents.policy.loading import TinyConfig
from agents.train import prepare, train

TEMPLATE = (
    "{% for m in messages %}<|{{ m['role'] }}|>{{ m['content'] }}<eos>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)


def finish_run(runs: Path, *, name: str = "run", iterations: int = 3, **changes: Any) -> Path:
    """Train for a moment on the digits of `small.Echo`; returns the run's folder."""
    settings: dict[str, Any] = {
        "agent": GRPOConfig(prompts=2, group_size=4, optim=OptimConfig(learning_rate=0.01)),
        "task": {"_target_": "small.Echo"},
        "policy": PolicyConfig("tiny", precision="float32", tiny=TinyConfig(hidden_size=16, num_layers=1, num_heads=2)),
        "env": EnvConfig(max_new_tokens=2),
        "evaluation": EvaluationConfig(every=1, samples=0),
        "logging": LoggingConfig(tensorboard=False),
        "runs": str(runs),
        "name": name,
        "iterations": iterations,
        "keep_checkpoints": iterations + 1,
        "checkpoint_every": 1,
        "seed": 3,
    }
    config = TrainConfig(**settings | changes)
    run = prepare(config, asdict(config), say=lambda text: None)
    train(run, say=lambda text: None)
    run.envs.close()
    return run.folder.path


def save_chat_model(folder: Path) -> Path:
    """A random Llama with a byte tokenizer and a chat template, as a Hugging Face folder."""
    vocabulary = {symbol: i for i, symbol in enumerate([*sorted(pre_tokenizers.ByteLevel.alphabet()), "<eos>"])}
    inner = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    inner.decoder = ByteLevel()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=inner, eos_token="<eos>", pad_token="<eos>")
    tokenizer.chat_template = TEMPLATE
    tokenizer.save_pretrained(folder)
    shape = LlamaConfig(
        vocab_size=264,  # rounded up, as many models do: the last rows of the head are no tokens
        hidden_size=16,
        intermediate_size=24,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        max_position_embeddings=128,
        bos_token_id=None,
        eos_token_id=vocabulary["<eos>"],
        pad_token_id=vocabulary["<eos>"],
        tie_word_embeddings=True,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        LlamaForCausalLM(shape).save_pretrained(folder)
    return folder

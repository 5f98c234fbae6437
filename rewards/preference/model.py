"""The network: a causal language model's body and one linear unit that reads a score off the last token.

As in InstructGPT (arXiv:2203.02155, section 3.5). Unlike transformers' `...ForSequenceClassification` the last token is
found by the attention mask, never by comparing with the padding token: where both are one token, that reads one token
early and cannot tell a finished answer from an unfinished one.
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from transformers import AutoModel, LlamaConfig, LlamaModel, PreTrainedModel

from rewards.preference.config import TinyConfig
from rewards.preference.encoding import pad_right


class ScalarHead(nn.Module):
    """Backbone and head; scores are float32 whatever the backbone computes in, and dropout is never on."""

    def __init__(self, backbone: PreTrainedModel, *, compute: torch.dtype = torch.float32) -> None:
        super().__init__()
        hidden_size: int = backbone.config.get_text_config().hidden_size
        self.backbone = backbone
        self.head = nn.Linear(hidden_size, 1, bias=False, dtype=torch.float32)
        nn.init.normal_(self.head.weight, std=(hidden_size + 1) ** -0.5)
        self.compute = compute
        self._takes_positions = "position_ids" in inspect.signature(backbone.forward).parameters
        self.train()

    def forward(self, ids: Int[Tensor, "N T"], attention_mask: Int[Tensor, "N T"]) -> Float[Tensor, " N"]:
        """One score a row, read at its last attended token; padding may lie on either side, but not everywhere."""
        last = (attention_mask * torch.arange(ids.shape[1], device=ids.device)).argmax(dim=1)
        positions = {"position_ids": (attention_mask.cumsum(dim=1) - 1).clamp(min=0)} if self._takes_positions else {}
        with torch.autocast(ids.device.type, dtype=self.compute, enabled=self.compute != torch.float32):
            output = self.backbone(input_ids=ids, attention_mask=attention_mask, use_cache=False, **positions)
        rows = torch.arange(len(ids), device=ids.device)
        return self.head(output.last_hidden_state[rows, last].float()).squeeze(1)

    def train(self, mode: bool = True) -> ScalarHead:
        """The backbone stays in evaluation mode, which is what keeps every form of dropout off; gradients flow."""
        super().train(mode)
        self.backbone.eval()
        return self


@torch.no_grad()
def score_rows(network: ScalarHead, rows: Sequence[Sequence[int]], *, batch_rows: int) -> Float[Tensor, " N"]:
    """The scores of token rows, on the CPU and in their order, forwarded `batch_rows` of similar length at a time."""
    device = network.head.weight.device
    order = sorted(range(len(rows)), key=lambda index: len(rows[index]))
    scores = torch.empty(len(rows))
    for start in range(0, len(order), batch_rows):
        batch = order[start : start + batch_rows]
        ids, mask = pad_right([rows[index] for index in batch], pad_id=0)
        scores[batch] = network(ids.to(device), mask.to(device)).cpu()
    return scores


def choose_device(name: str) -> torch.device:
    """`auto` is cuda where there is one, else cpu. Raises `ValueError` for a device that is not there."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise ValueError(f"device must be auto or a torch device, got {name}") from error
    if device.type == "cuda" and not torch.cuda.is_available():
        raise ValueError(f"device must exist on this machine, got {name} and there is no CUDA device")
    return device


def tiny_backbone(config: TinyConfig, *, vocab_size: int, max_length: int) -> PreTrainedModel:
    """A random Llama; draws from torch's global generator."""
    return LlamaModel(
        LlamaConfig(
            vocab_size=vocab_size,
            hidden_size=config.hidden_size,
            intermediate_size=2 * config.hidden_size,
            num_hidden_layers=config.num_layers,
            num_attention_heads=config.num_heads,
            num_key_value_heads=config.num_heads,
            max_position_embeddings=max_length,
            bos_token_id=None,
            eos_token_id=None,
            tie_word_embeddings=False,
        )
    )


def load_backbone(model: str, *, name: str = "model") -> PreTrainedModel:
    """The body of a causal language model from a folder or hub name, in float32.

    Raises `ValueError` where there is none, where weights are missing, or where it has an encoder beside the decoder.
    """
    try:
        backbone, report = AutoModel.from_pretrained(model, dtype=torch.float32, output_loading_info=True)
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        raise ValueError(
            f"{name} must be a folder or hub name with a causal language model, got {model}: {error}"
        ) from error
    missing = sorted(report["missing_keys"])
    if missing:
        raise ValueError(f"{name} must hold all weights, {model} lacks {len(missing)}, the first {missing[0]}")
    check_architecture(backbone.config, model, name=name)
    return backbone


def check_architecture(config: Any, model: str, *, name: str = "model") -> None:
    """Raises `ValueError` where a score at the last token would not see the whole text."""
    if getattr(config, "is_encoder_decoder", False):
        raise ValueError(f"{name} must be a causal language model, {model} is an encoder with a decoder")

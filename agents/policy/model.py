"""A Hugging Face causal language model, seen as hidden states and a head.

The body runs on packed rows through `attention.attend`. A model whose code does not take a registered attention
function, or asks for a variant that is not computed here, runs on padded rows instead: slower, without a cache, and
says so once. Which of the two is decided by trying: a short text must get the logits that the model itself gives.
"""

from __future__ import annotations

import sys
import warnings
from functools import partial
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from transformers import PreTrainedModel
from transformers.modeling_layers import GradientCheckpointingLayer

from agents.policy import attention
from agents.policy.attention import View
from agents.policy.decoder import Decoder, decoder_of
from agents.policy.fused import MEANT_DIFFERENTLY, Layer, replace_elementwise, replace_layers
from agents.policy.linear import replace_products
from agents.policy.trial import LENGTH, difference, in_turn, reading_view, short_texts, silent_windows


class LanguageModel(nn.Module):
    """`body` makes hidden states, `head` logits. Both are the Hugging Face model's own modules; on a CPU some have
    their forward replaced by an equal one."""

    def __init__(self, model: PreTrainedModel) -> None:
        super().__init__()
        self.model = model.eval()
        self.products = replace_products(self.model)
        replace_elementwise(self.model)
        self.decoder: Decoder | None = None
        self.packed = self._try_packed()
        if self.packed and self.weight.device.type == "cpu":
            _, tokens, position, view = short_texts(self.vocabulary, self.weight.device)
            last = getattr(self._text_config, "max_position_embeddings", None) or LENGTH
            reads = [partial(self.states, tokens, position + start) for start in (0, max(0, last - LENGTH))]
            replace_layers(self.model, view, reads)  # far out, too: some scale what lies there
            self.decoder = self._decoder()

    @property
    def config(self) -> object:
        return self.model.config

    @property
    def hidden_size(self) -> int:
        return self._text_config.hidden_size

    @property
    def vocabulary(self) -> int:
        """Rows of the head: at least as many as the tokenizer has tokens."""
        return self.model.get_output_embeddings().weight.shape[0]

    @property
    def weight(self) -> Tensor:
        """One parameter, for dtype and device."""
        return self.model.get_input_embeddings().weight

    @property
    def cache_shape(self) -> tuple[int, int, int]:
        """Layers, key/value heads, head size."""
        config = self._text_config
        heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
        size = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
        return config.num_hidden_layers, heads, size

    def prepack(self) -> None:
        """Lay out the weights for acting: on a CPU a second copy of those of the linear layers."""
        packed: set[nn.Module] = set()
        if self.decoder is not None and self.decoder.suits():
            self.decoder.prepack()
            packed.update(self.decoder.linears())
        elif self.decoder is not None:
            self.decoder.release()
        for product in self.products:
            if product.layer not in packed:
                product.prepack()

    def release(self) -> None:
        """Forget that copy."""
        for product in self.products:
            product.release()
        if self.decoder is not None:
            self.decoder.release()

    def checkpoint_activations(self) -> None:
        """Keep only what enters each layer, and compute the layer again in the backward pass. Raises `ValueError` for a
        model whose layers do not offer it."""
        layers = [m for m in self.model.modules() if isinstance(m, GradientCheckpointingLayer)]
        if not layers:
            raise ValueError(f"agent.optim.checkpoint_activations=true: {type(self.model).__name__} does not offer it")
        for layer in layers:
            if isinstance(layer.forward, Layer):
                layer.forward.checkpointed = True
                continue
            layer.gradient_checkpointing = True
            layer.training = True  # its own switch for this; what is inside it stays in evaluation mode
            layer._gradient_checkpointing_func = partial(checkpoint, use_reentrant=False)  # type: ignore[assignment]

    def states(self, tokens: Tensor, position: Tensor, view: View) -> Float[Tensor, "T H"]:
        """Hidden states of a packed row."""
        decoder = self.decoder
        if decoder is not None and decoder.ready and decoder.takes(view) and not torch.is_grad_enabled():
            return self._decoded_states(tokens, position, view, decoder)
        out = self.model.base_model(
            input_ids=tokens[None], position_ids=position[None], attention_mask=None, use_cache=False, view=view
        )
        return out.last_hidden_state[0]

    def _decoded_states(self, tokens: Tensor, position: Tensor, view: Any, decoder: Decoder) -> Float[Tensor, "T H"]:
        body: Any = self.model.base_model
        x = body.embed_tokens(tokens)
        cosine, sine = body.rotary_emb(x[None], position[None])
        return body.norm(decoder.states(x, cosine[0], sine[0], view))

    @torch.no_grad()
    def _decoder(self) -> Decoder | None:
        """For a body that does nothing but embed, turn, go through its layers, and norm."""
        body: Any = self.model.base_model
        if {name for name, _ in body.named_children()} != {"embed_tokens", "layers", "norm", "rotary_emb"}:
            return None
        layers = list(body.layers)
        if not layers or not all(isinstance(layer.forward, Layer) for layer in layers):
            return None
        _, tokens, position, view = short_texts(self.vocabulary, self.weight.device)
        passed: list[tuple[Tensor, tuple[Tensor, Tensor], Tensor]] = []

        def note(_: nn.Module, given: tuple[Any, ...], options: dict[str, Any], result: Tensor) -> None:
            passed.append((given[0], options["position_embeddings"], result))

        hooks = [layer.register_forward_hook(note, with_kwargs=True) for layer in layers]
        out = self.states(tokens, position, view)
        for hook in hooks:
            hook.remove()
        x = body.embed_tokens(tokens)[None]
        try:
            turn = body.rotary_emb(x, position[None])
        except (TypeError, AttributeError):
            return None  # its angles differ from layer to layer
        for given, angles, result in passed:
            if not torch.equal(given, x) or not all(map(torch.equal, angles, turn)):
                return None
            x = result
        if len(passed) < len(layers) or not torch.equal(body.norm(x)[0], out):
            return None
        return decoder_of(layers, self.cache_shape[1:], self.weight.dtype)

    def padded_states(self, tokens: Tensor, length: Tensor) -> Float[Tensor, "N T H"]:
        """Hidden states of right-padded rows `[N, T]`; the path that every causal model has."""
        mask = (torch.arange(tokens.shape[1], device=tokens.device) < length[:, None]).long()
        return self.model.base_model(input_ids=tokens, attention_mask=mask, use_cache=False).last_hidden_state

    @property
    def head_weights(self) -> list[nn.Parameter]:
        """What `head` depends on; the matrix may be the input embeddings' own."""
        return list(self.model.get_output_embeddings().parameters())

    def head(self, hidden: Float[Tensor, "R H"]) -> Float[Tensor, "R V"]:
        """Logits, with the scale and soft cap that some families put behind the head."""
        config = self._text_config
        z = self.model.get_output_embeddings()(hidden)
        if scale := getattr(config, "logit_scale", None):
            z = z * scale
        if divisor := getattr(config, "logits_scaling", None):
            z = z / divisor
        if cap := getattr(config, "final_logit_softcapping", None):
            z = torch.tanh(z / cap) * cap
        return z

    @property
    def _text_config(self):
        return self.model.config.get_text_config()

    @torch.no_grad()
    def _try_packed(self) -> bool:
        """Two short texts in one packed row must not see each other, and must be the same read into a cache; raises
        `ValueError` when even padding is wrong."""
        texts, *row = short_texts(self.vocabulary, self.weight.device)
        own = self.model(input_ids=texts, use_cache=False).logits
        previous = self.model.config._attn_implementation
        try:
            self.model.set_attn_implementation(attention.NAME)
            reason = self._wrong_when_packed(row, own) or difference(self._logits_by_cache(texts), own.flatten(0, 1))
        except MEANT_DIFFERENTLY as error:
            reason = f"{type(error).__name__}: {error}"
        if reason is None:
            return True
        self.model.set_attn_implementation(previous)
        name = type(self.model).__name__
        length = torch.full((2,), texts.shape[1], device=texts.device)
        try:
            wrong = difference(self.head(self.padded_states(texts, length).flatten(0, 1)), own.flatten(0, 1))
        except MEANT_DIFFERENTLY as error:
            wrong = f"{type(error).__name__}: {error}"
        if wrong is not None:
            raise ValueError(f"{name} is not supported: its logits are not a head over its hidden states ({wrong})")
        warnings.warn(f"{name} runs on the slower path without a cache ({reason})", stacklevel=2)
        return False

    def _wrong_when_packed(self, row: list[Any], own: Float[Tensor, "2 L V"]) -> str | None:
        """What is wrong with a packed row of tokens and positions in their view; `own` are the logits it shall have."""
        tokens, position, view = row
        overheard = attention.Overheard(view)
        found = self.head(self.states(tokens, position, overheard))
        windows = {layer: window for layer, (_, window) in overheard.asked.items()}
        masked = hasattr(sys.modules.get(type(self.model).__module__), "create_sliding_window_causal_mask")
        return difference(found, in_turn(own)) or silent_windows(self._text_config, windows, masked=masked)

    def _logits_by_cache(self, texts: Int[Tensor, "B L"]) -> Float[Tensor, "BL V"]:
        """Of texts that are read into a cache but for their last tokens, which follow one by one."""
        num_texts, length = texts.shape
        layers, heads, size = self.cache_shape
        cache = self.weight.new_zeros(layers, 2, num_texts, heads, length, size)
        view, last = reading_view(cache, length - 1), torch.full_like(texts[:, 0], length - 1)
        read = self.states(texts[:, :-1].flatten(), view.position, view)
        after = self.states(texts[:, -1].contiguous(), last, attention.NextView(cache, last, last, length))
        return self.head(torch.cat([read.unflatten(0, (num_texts, -1)), after[:, None]], 1).flatten(0, 1))

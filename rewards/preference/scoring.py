"""A saved reward model as a reward: `rewards.preference.RewardModel`.

Normalisation, where asked for, uses the mean and standard deviation frozen at the end of training, never those of a
batch of the policy's answers: those would hide its drift.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rewards.preference.card import read_card
from rewards.types import Sample, Score


class RewardModel:
    """Scores completions with the reward model in a folder; a batched reward.

    The folder is checked here, its weights are loaded at the first `score_batch` (and again after unpickling). A prompt
    is read as the model saw prompts in training: as text (`Sample.prompt`) where it was trained on text, through the
    model's own chat template where it was trained on messages. Every completion is read as if it had ended;
    `metrics["unfinished"]` is 1 where it had not. A sample longer than the model can read loses its oldest tokens, as
    many as `metrics["cut_tokens"]` says.

    Raises `ValueError` for a folder that is incomplete, damaged or has another tokenizer, and for bad settings.
    """

    def __init__(
        self,
        path: str | Path,
        *,
        device: str = "auto",
        batch_size: int = 32,
        normalize: bool = False,
        clip: float = 5.0,
    ) -> None:
        """`normalize` gives (score - mean) / std, clipped to +-`clip`; `clip` does nothing without it."""
        if batch_size < 1:
            raise ValueError(f"batch_size must be at least 1, got {batch_size}")
        if not clip > 0:
            raise ValueError(f"clip must be above 0, got {clip}")
        self.path = str(Path(path).resolve())
        self.card = read_card(self.path)
        self.device, self.batch_size, self.normalize, self.clip = device, batch_size, normalize, clip
        # network and tokenizer; untyped, so that this module needs no torch
        self._loaded: tuple[Any, Any] | None = None

    def score_batch(self, samples: Sequence[Sample]) -> list[Score]:
        """One score a sample. Raises `ValueError` where a sample lacks the messages that the model was trained on."""
        from rewards.preference.model import score_rows

        network, tokenizer = self._load()
        encoded = [self._encode(tokenizer, sample) for sample in samples]
        raw = score_rows(network, [row.ids for row in encoded], batch_rows=self.batch_size).tolist()
        return [self._score(*parts) for parts in zip(raw, encoded, samples, strict=True)]

    def _encode(self, tokenizer: Any, sample: Sample) -> Any:
        from rewards.preference.encoding import encode_completion, encode_prompt, fit

        if self.card.prompts == "messages" and not sample.messages:
            raise ValueError(f"the reward model {self.path} was trained on chat messages, the sample's prompt is text")
        as_text = self.card.prompts == "text" or not sample.messages
        prompt_ids = encode_prompt(tokenizer, sample.prompt if as_text else sample.messages)
        completion_ids = encode_completion(tokenizer, sample.completion)
        return fit(prompt_ids, completion_ids, max_length=self.card.max_length, too_long="truncate")

    def _score(self, raw: float, row: Any, sample: Sample) -> Score:
        value = (raw - self.card.mean) / self.card.std if self.normalize else raw
        if self.normalize:
            value = min(max(value, -self.clip), self.clip)
        unfinished = float(sample.finish_reason in ("budget", "context"))
        return Score(value, metrics={"raw": raw, "unfinished": unfinished, "cut_tokens": float(row.num_cut_tokens)})

    def _load(self) -> tuple[Any, Any]:
        if self._loaded is None:
            from rewards.preference.model import choose_device
            from rewards.preference.storage import load

            self._loaded = load(self.path, device=choose_device(self.device))
        return self._loaded

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_loaded": None}

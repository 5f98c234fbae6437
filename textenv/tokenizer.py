"""Tokens to text and back: the protocol, a byte tokenizer, a tiny one; the Hugging Face adapter has its own file.

The action space is `Discrete(len(tokenizer))`, so `len` counts added tokens too. Text never becomes a special token:
`encode("<eos>")` is five ordinary tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol, runtime_checkable

import numpy as np

from rewards.types import Message

Tokens = Sequence[int] | np.ndarray
"""A list of ids, or an int32 array, which the environment passes."""


@runtime_checkable
class Tokenizer(Protocol):
    """What the environment asks of a tokenizer."""

    name: str
    pad_id: int
    end_ids: frozenset[int]
    """Tokens that end an episode; may be empty, may hold `pad_id`."""
    start_ids: tuple[int, ...]
    """What a plain prompt begins with (BOS); without one an empty prompt is an error."""

    def __len__(self) -> int:
        """The full vocabulary, added tokens included."""
        ...

    def encode(self, text: str) -> list[int]:
        """Tokens of plain text; the text of a special token never becomes one."""
        ...

    def decode(self, ids: Tokens, *, skip_special: bool = True) -> str:
        """Text of tokens, without special ones unless asked for; incomplete characters become U+FFFD."""
        ...

    def decode_batch(self, rows: Sequence[Tokens]) -> list[str]:
        """`decode` of each row, special tokens dropped."""
        ...

    def render_chat(self, messages: Sequence[Message], *, add_generation_prompt: bool = True) -> list[int] | None:
        """Tokens of a chat, or None when the tokenizer has no chat template."""
        ...

    def token_texts(self) -> list[str]:
        """For each id the text that it adds in the middle of a sequence; empty for special tokens."""
        ...


class ByteTokenizer:
    """One token a byte, then BOS, EOS and PAD.

    >>> tokenizer = ByteTokenizer()
    >>> len(tokenizer), tokenizer.encode("é!"), tokenizer.decode([195, 169, 33, 257])
    (259, [195, 169, 33], 'é!')
    >>> tokenizer.decode([195])
    '\\ufffd'
    """

    name = "byte"
    bos_id, eos_id, pad_id = 256, 257, 258
    end_ids = frozenset({257})
    start_ids: tuple[int, ...] = (256,)
    specials = ("<bos>", "<eos>", "<pad>")

    def __len__(self) -> int:
        return 259

    def encode(self, text: str) -> list[int]:
        """The text's UTF-8 bytes."""
        return list(text.encode("utf-8", "replace"))

    def decode(self, ids: Tokens, *, skip_special: bool = True) -> str:
        """The bytes' text; invalid UTF-8 becomes U+FFFD."""
        if skip_special:
            array = np.asarray(ids, dtype=np.int32)
            return array[array < 256].astype(np.uint8).tobytes().decode("utf-8", "replace")
        parts = (bytes([i]) if i < 256 else self.specials[i - 256].encode() for i in ids)
        return b"".join(parts).decode("utf-8", "replace")

    def decode_batch(self, rows: Sequence[Tokens]) -> list[str]:
        """`decode` of each row: the bytes of all of them, cut."""
        if not rows:
            return []
        flat = np.concatenate([np.asarray(row, dtype=np.int32) for row in rows])
        plain = flat < 256
        ends = np.append(0, np.cumsum(plain))[np.cumsum([len(row) for row in rows])].tolist()
        raw = flat[plain].astype(np.uint8).tobytes()
        return [raw[start:end].decode("utf-8", "replace") for start, end in zip([0, *ends], ends, strict=False)]

    def render_chat(self, messages: Sequence[Message], *, add_generation_prompt: bool = True) -> None:
        """None: there is no chat template."""

    def token_texts(self) -> list[str]:
        """A byte above 127 alone is U+FFFD."""
        return [self.decode([i]) for i in range(len(self))]


class TinyTokenizer:
    """One token a character of `alphabet`, then EOS and PAD.

    >>> tokenizer = TinyTokenizer("01+=")
    >>> len(tokenizer), tokenizer.encode("1+0="), tokenizer.decode([1, 2, 0, 4])
    (6, [1, 2, 0, 3], '1+0')
    """

    start_ids: tuple[int, ...] = ()
    specials = ("<eos>", "<pad>")

    def __init__(self, alphabet: str = "0123456789+-*/= ()") -> None:
        if not alphabet or len(set(alphabet)) != len(alphabet):
            raise ValueError(f"alphabet must be one or more different characters, got {alphabet!r}")
        self.alphabet = alphabet
        self.name = f"tiny:{alphabet}"
        self.eos_id, self.pad_id = len(alphabet), len(alphabet) + 1
        self.end_ids = frozenset({self.eos_id})
        self._ids = {character: i for i, character in enumerate(alphabet)}

    def __len__(self) -> int:
        return len(self.alphabet) + 2

    def encode(self, text: str) -> list[int]:
        """One id a character; `ValueError` for a character outside the alphabet."""
        try:
            return [self._ids[character] for character in text]
        except KeyError as error:
            raise ValueError(
                f"a tiny tokenizer encodes only the characters of its alphabet {self.alphabet!r}, "
                f"got {error.args[0]!r} in {text!r}"
            ) from None

    def decode(self, ids: Tokens, *, skip_special: bool = True) -> str:
        """One character an id."""
        size, ids = len(self.alphabet), np.asarray(ids, dtype=np.int32).tolist()
        if skip_special:
            return "".join([self.alphabet[i] for i in ids if i < size])
        return "".join([self.alphabet[i] if i < size else self.specials[i - size] for i in ids])

    def decode_batch(self, rows: Sequence[Tokens]) -> list[str]:
        """`decode` of each row."""
        return [self.decode(row) for row in rows]

    def render_chat(self, messages: Sequence[Message], *, add_generation_prompt: bool = True) -> None:
        """None: there is no chat template."""

    def token_texts(self) -> list[str]:
        """The alphabet, and nothing for EOS and PAD."""
        return [*self.alphabet, "", ""]


def load_tokenizer(spec: Any) -> Tokenizer:
    """`"byte"`, `"tiny"`, `"tiny:<alphabet>"`, the name or folder of a Hugging Face tokenizer, one of its objects, or
    any `Tokenizer`.

    >>> load_tokenizer("tiny:ab").encode("ba")
    [1, 0]
    """
    if isinstance(spec, str):
        if spec == "byte":
            return ByteTokenizer()
        if spec == "tiny" or spec.startswith("tiny:"):
            return TinyTokenizer(*spec.split(":", 1)[1:])
    elif isinstance(spec, Tokenizer):
        return spec
    elif not (hasattr(spec, "apply_chat_template") or hasattr(spec, "__fspath__")):
        raise ValueError(f"tokenizer must be 'byte', 'tiny', a name, a folder or a Tokenizer, got {spec!r}")
    from textenv.huggingface_tokenizer import HuggingFaceTokenizer

    return HuggingFaceTokenizer(spec)

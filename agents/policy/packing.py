"""From a rectangle of rows to one packed row without padding, each distinct prompt standing in it once.

The completions of a group see the same prompt keys, and their gradients add up in them: exact, in values and in
gradients, since the prompt's hidden states do not depend on what follows. The last token of a row is not forwarded
unless its value is wanted: nothing is predicted from it.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

from agents.policy.attention import Block, PackedView, Sight
from agents.rollout import Rollout


@dataclass(frozen=True, slots=True)
class Packed:
    """One packed row and where the predictions for each response token are read."""

    tokens: Int[Tensor, "T"]
    position: Int[Tensor, "T"]
    view: PackedView
    predict: Int[Tensor, "R"]
    """Packed index of the state from which each policy token was chosen, row by row."""
    target: Int[Tensor, "R"]
    """The policy token that was chosen there."""
    cell: Int[Tensor, "R"]
    """Where it stands in the flattened `[N, A]` rectangle."""
    last: Int[Tensor, "N"] | None
    """Packed index of each row's last token, when asked for."""
    row: Int[Tensor, "T"]
    """A row of the rectangle that each packed token stands in (a shared prompt: the first of its rows)."""

    def padded(self, width: int) -> Int[Tensor, "T"]:
        """Where each packed token stands in the flattened `[N, width]` rectangle."""
        return self.row * width + self.position

    def to(self, device: torch.device) -> Packed:
        """The same on `device`."""

        def move(x: Tensor) -> Tensor:
            return x.to(device, non_blocking=True)

        blocks = tuple(Block(move(b.query), move(b.key), b.sight.to(device)) for b in self.view.blocks)
        return Packed(
            tokens=move(self.tokens),
            position=move(self.position),
            view=PackedView(blocks, move(self.view.output)),
            predict=move(self.predict),
            target=move(self.target),
            cell=move(self.cell),
            last=None if self.last is None else move(self.last),
            row=move(self.row),
        )


def pack(rollout: Rollout, *, share_prompts: bool = True, with_last: bool = False) -> Packed:
    """The packed form of `rollout`'s rows. `share_prompts=False` repeats the prompt for every row (for comparison)."""
    tokens = rollout.tokens.cpu().numpy()
    prompt_length = rollout.prompt_length.cpu().numpy()
    length = rollout.length.cpu().numpy()
    mask = rollout.mask.cpu().numpy()
    owner, first_rows = distinct_prompts(tokens, prompt_length) if share_prompts else (np.arange(len(tokens)),) * 2

    prompt_size = prompt_length[first_rows]
    prompt_start = np.concatenate([[0], np.cumsum(prompt_size)])[:-1]
    response_size = np.maximum(length - prompt_length - (not with_last), 0)
    response_start = prompt_size.sum() + np.concatenate([[0], np.cumsum(response_size)])[:-1]

    flat_tokens = np.concatenate(
        [tokens[row, :size] for row, size in zip(first_rows, prompt_size, strict=True)]
        + [tokens[i, p : p + n] for i, (p, n) in enumerate(zip(prompt_length, response_size, strict=True))]
    )
    position = np.concatenate([ramp(prompt_size), ramp(response_size) + np.repeat(prompt_length, response_size)])
    blocks = [prompt_block(prompt_start, prompt_size)]
    if response_size.any():
        blocks.append(response_block(prompt_start[owner], prompt_length, response_start, response_size))

    row, column = np.nonzero(mask)
    before = response_start[row] + column - 1
    last_of_prompt = prompt_start[owner[row]] + prompt_length[row] - 1
    final = response_start + response_size - 1
    return Packed(
        tokens=torch.from_numpy(flat_tokens.astype(np.int64)),
        position=torch.from_numpy(position),
        view=PackedView(tuple(blocks), torch.from_numpy(output_index(blocks, (prompt_size, response_size)))),
        predict=torch.from_numpy(np.where(column == 0, last_of_prompt, before)),
        target=torch.from_numpy(tokens[row, prompt_length[row] + column].astype(np.int64)),
        cell=torch.from_numpy(row * mask.shape[1] + column),
        last=torch.from_numpy(final) if with_last else None,
        row=torch.from_numpy(np.repeat(np.append(first_rows, np.arange(len(tokens))), [*prompt_size, *response_size])),
    )


def distinct_prompts(tokens: np.ndarray, prompt_length: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """For each row the number of its prompt, and for each distinct prompt the first row that has it."""
    number: dict[bytes, int] = {}
    first: list[int] = []
    owner = np.empty(len(tokens), np.int64)
    for row, size in enumerate(prompt_length):
        key = tokens[row, :size].tobytes()
        if key not in number:
            number[key] = len(first)
            first.append(row)
        owner[row] = number[key]
    return owner, np.array(first, np.int64)


def prompt_block(start: np.ndarray, size: np.ndarray) -> Block:
    """Prompts, each seeing itself."""
    column = np.arange(size.max())
    inside = column < size[:, None]
    index = np.where(inside, start[:, None] + column, start[:, None])
    position = np.where(inside, column, 0)
    visible = inside[:, None, :] & (column[None, None, :] <= position[:, :, None])
    return as_block(index, index, position, np.broadcast_to(column, index.shape), visible)


def response_block(prompt_start: np.ndarray, prompt_size: np.ndarray, start: np.ndarray, size: np.ndarray) -> Block:
    """Responses, each seeing its prompt and itself."""
    num_prompt, num_response = prompt_size.max(), size.max()
    prompt_column, column = np.arange(num_prompt), np.arange(num_response)
    in_prompt, inside = prompt_column < prompt_size[:, None], column < size[:, None]
    query = np.where(inside, start[:, None] + column, prompt_start[:, None])
    key = np.where(in_prompt, prompt_start[:, None] + prompt_column, prompt_start[:, None])
    key = np.concatenate([key, query], axis=1)
    position = np.where(inside, prompt_size[:, None] + column, 0)
    key_position = np.concatenate([np.broadcast_to(prompt_column, in_prompt.shape), position], axis=1)
    exists = np.concatenate([in_prompt, inside], axis=1)
    visible = exists[:, None, :] & (key_position[:, None, :] <= position[:, :, None])
    return as_block(query, key, position, key_position, visible)


def as_block(*arrays: np.ndarray) -> Block:
    query, key, query_position, key_position, visible = (torch.from_numpy(np.array(array)) for array in arrays)
    return Block(query, key, Sight(visible, query_position, key_position))


def output_index(blocks: list[Block], sizes: tuple[np.ndarray, ...]) -> np.ndarray:
    """Where each packed token's output stands in the concatenation of the blocks' padded outputs."""
    parts, offset = [], 0
    for block, size in zip(blocks, sizes, strict=False):
        num_rows, width = block.query.shape
        parts.append(offset + np.repeat(np.arange(num_rows) * width, size) + ramp(size))
        offset += num_rows * width
    return np.concatenate(parts)


def ramp(sizes: np.ndarray) -> np.ndarray:
    """0..size-1 for each size, one after the other.

    >>> ramp(np.array([2, 0, 3])).tolist()
    [0, 1, 0, 1, 2]
    """
    ends = np.cumsum(sizes)
    return np.arange(ends[-1] if len(ends) else 0) - np.repeat(ends - sizes, sizes)


def microbatches(rollout: Rollout, max_tokens: int) -> list[Tensor]:
    """Rows in as few parts of at most `max_tokens` packed tokens as that takes, about equally large.

    Rows of one problem stand together, so that they share their prompt. A row that is longer alone stands alone.
    """
    prompt, length = rollout.prompt_length.tolist(), rollout.length.tolist()
    problem = rollout.problem.tolist()
    order = sorted(range(len(rollout)), key=lambda i: problem[i])
    shared = [prompt[row] if k and problem[row] == problem[order[k - 1]] else 0 for k, row in enumerate(order)]
    whole = sum(length) - sum(shared)
    goal = whole / max(1, -(-whole // max_tokens))
    parts: list[list[int]] = []
    total = max_tokens + 1
    for row, known in zip(order, shared, strict=True):
        size = length[row] - known
        if total + size > max_tokens or total >= goal:
            parts.append([])
            total, size = 0, length[row]
        parts[-1].append(row)
        total += size
    return [torch.tensor(part) for part in parts]

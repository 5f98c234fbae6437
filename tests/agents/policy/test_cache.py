"""The slot cache keeps what it was given while it grows and while rows change places."""

import numpy as np
import pytest
import torch

from agents.policy.cache import SlotCache

LAYERS, ROWS, HEADS, COLUMNS, SIZE = 2, 5, 3, 200, 4


def cache_of(rows=ROWS):
    return SlotCache(rows, COLUMNS, (LAYERS, HEADS, SIZE), torch.zeros(1))


def number(row, column):
    """What stands at a column of a row, recognizable."""
    return 1000.0 * (row + 1) + column


def fill(cache, row, columns):
    for column in columns:
        cache.data[:, :, cache.slot[row], :, column] = number(row, column)


def assert_holds(cache, row, columns):
    for column in columns:
        assert (cache.data[:, :, cache.slot[row], :, column] == number(row, column)).all(), (row, column)


def test_growing_keeps_every_column_and_adds_zeros():
    cache = cache_of()
    assert cache.data.shape == (LAYERS, 2, ROWS, HEADS, 0, SIZE)
    have = 0
    for width in (3, 32, 33, 70, 199, 200):
        cache._store[cache.data.numel() :] = torch.nan  # what was never written may be anything
        cache.widen(width)
        assert cache.data.shape[4] >= width
        for row in range(ROWS):
            assert_holds(cache, row, range(have))
            assert not cache.data[:, :, cache.slot[row], :, have:].any()
            fill(cache, row, range(have, width))
        have = width


def test_it_grows_seldom():
    cache, widths = cache_of(), set()
    for width in range(1, COLUMNS + 1):
        cache.widen(width)
        widths.add(cache.data.shape[4])
    assert len(widths) <= 8
    assert max(widths) == COLUMNS + 1


@pytest.mark.parametrize("seed", range(5))
def test_rows_keep_their_columns_when_they_change_places(seed):
    cache, rng = cache_of(), np.random.default_rng(seed)
    cache.widen(7)
    for row in range(ROWS):
        fill(cache, row, range(7))
    for _ in range(10):
        rows = rng.permutation(ROWS)[: rng.integers(1, ROWS + 1)]
        assert sorted(cache.bring_forward(rows)) == list(range(len(rows)))
        for row in range(ROWS):
            assert_holds(cache, row, range(7))


def test_its_memory_is_what_it_says():
    cache = cache_of()
    expected = LAYERS * 2 * ROWS * HEADS * (COLUMNS + 1) * SIZE * 4
    assert cache._store.untyped_storage().nbytes() == expected
    assert SlotCache.num_bytes(ROWS, COLUMNS, (LAYERS, HEADS, SIZE), torch.float32) == expected

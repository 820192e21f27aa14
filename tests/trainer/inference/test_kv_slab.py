"""Keys and values take the memory that their tokens need, and a free row holds nothing that could do harm."""

from pathlib import Path

import pytest
import torch

from core.errors import ConfigError
from trainer.inference.kv_slab import FIRST_LENGTH, KVSlab, SlabShape

SHAPE = SlabShape(layers=2, rows=64, kv_heads=2, length=4096, head_dim=64)  # 512 MiB
TOKEN_BYTES = 2 * 2 * 2 * 64 * 4
NOISE_BYTES = 32 << 20  # what the rest of this process may take meanwhile


def resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096


def fill(slab: KVSlab, row: int, tokens: int, value: float = 1.0) -> None:
    slab.k[:, row, :, :tokens] = value
    slab.v[:, row, :, :tokens] = value


def test_one_long_conversation_costs_its_own_length():
    before = resident_bytes()
    slab = KVSlab(SHAPE)
    fill(slab, 5, 4096)
    assert resident_bytes() - before < 4096 * TOKEN_BYTES + NOISE_BYTES


def test_a_long_row_that_is_free_gives_its_memory_back():
    slab = KVSlab(SHAPE)
    for row in range(16):
        fill(slab, row, 4096)
    full = resident_bytes()
    for row in range(16):
        slab.free_row(row, 4096)
    assert full - resident_bytes() > 16 * 4096 * TOKEN_BYTES - NOISE_BYTES


@pytest.mark.parametrize("paged", [True, False])
def test_a_cleared_row_is_zero_and_its_neighbours_are_not(paged: bool):
    slab = KVSlab(SlabShape(2, 3, 2, 100, 16), paged=paged)
    for row in range(3):
        fill(slab, row, 100, torch.nan if row == 1 else 1.0)
    slab.clear_row(1)
    assert [float(part[:, :, :, :100].sum()) for part in (slab.k[:, 0:1], slab.k[:, 1:2], slab.v[:, 2:3])] == [6400, 0, 6400]


def test_a_slab_that_grows_keeps_what_it_holds():
    slab = KVSlab(SlabShape(1, 2, 1, 4096, 8), paged=False)
    fill(slab, 1, FIRST_LENGTH, 3.0)
    slab.reserve(FIRST_LENGTH + 1)
    assert (slab.length, float(slab.v.sum())) == (2 * FIRST_LENGTH, 3.0 * FIRST_LENGTH * 8)


def test_more_than_any_machine_can_address_is_refused_in_one_line():
    with pytest.raises(ConfigError, match=r"no address space for 1000000 completions .* lower inference.max_batch"):
        KVSlab(SlabShape(1000, 1_000_000, 64, 1_000_000, 128))

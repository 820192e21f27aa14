"""The longest known prefix is found, and the oldest is dropped first."""

import torch
from hypothesis import given
from hypothesis import strategies as st

from trainer.inference.prefix_cache import BLOCK, Prefix, PrefixCache, block_keys, shared_length

SAVED = torch.zeros(1)
TOKENS = list(range(100))


def kept(cache: PrefixCache, tokens: list[int], session_id: str | None = None) -> Prefix:
    prefix = Prefix(tokens, session_id=session_id)
    cache.keep(prefix, SAVED)
    return prefix


def test_the_prefix_that_shares_the_most_is_found():
    cache = PrefixCache(1000)
    kept(cache, TOKENS[:40])
    longest = kept(cache, TOKENS[:70])
    assert cache.find(TOKENS, block_keys(TOKENS)) == (longest, 70)


def test_less_than_a_block_is_not_found():
    cache = PrefixCache(1000)
    kept(cache, TOKENS[: BLOCK - 1])
    assert cache.find(TOKENS, block_keys(TOKENS)) == (None, 0)


def test_the_least_recently_used_prefix_makes_room():
    cache = PrefixCache(60)
    used, unused = kept(cache, TOKENS[:30]), kept(cache, TOKENS[50:80])
    cache.touch(used)
    kept(cache, TOKENS[70:100])
    assert cache.find(unused.tokens, block_keys(unused.tokens)) == (None, 0)
    assert cache.find(used.tokens, block_keys(used.tokens)) == (used, 30)


def test_a_turn_replaces_the_one_before_it_in_its_session():
    cache = PrefixCache(1000)
    kept(cache, TOKENS[:40], "episode")
    kept(cache, TOKENS[:60], "episode")
    assert cache.tokens == 60


def test_a_prefix_beyond_the_capacity_is_not_kept():
    cache = PrefixCache(50)
    kept(cache, TOKENS, "episode")
    assert cache.tokens == 0
    assert cache.find(TOKENS, block_keys(TOKENS)) == (None, 0)


def test_nothing_is_found_after_the_weights_changed():
    cache = PrefixCache(1000)
    kept(cache, TOKENS, "episode")
    cache.clear()
    assert cache.find(TOKENS, block_keys(TOKENS)) == (None, 0)


@given(st.lists(st.integers(0, 1), max_size=40), st.lists(st.integers(0, 1), max_size=40))
def test_shared_length_counts_the_equal_first_tokens(left: list[int], right: list[int]):
    shared = shared_length(left, right)
    assert left[:shared] == right[:shared]
    assert left[shared : shared + 1] != right[shared : shared + 1] or shared == min(len(left), len(right))

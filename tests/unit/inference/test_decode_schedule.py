"""Groups take turns, and the cache is only reused where the arithmetic was the same."""

from __future__ import annotations

from collections import Counter

from engine.inference.sidecar.decode_schedule import CHUNK, QUANTUM, FreeSlot, choose_slot, next_group, reusable


def test_groups_take_turns_of_equal_length() -> None:
    current, steps, seen = None, 0, Counter[str | None]()
    for _ in range(3 * QUANTUM * 4):
        chosen = next_group(["a", None, "b"], current, steps)
        steps = steps + 1 if chosen == current else 1
        current = chosen
        seen[chosen] += 1
    assert max(seen.values()) - min(seen.values()) <= QUANTUM
    assert set(seen) == {"a", None, "b"}


def test_a_group_alone_keeps_its_turn_and_one_that_is_done_loses_it() -> None:
    assert next_group(["a"], "a", 10 * QUANTUM) == "a"
    assert next_group(["b", "c"], "a", 1) == "b"


def test_only_whole_chunks_are_reused_and_never_the_last_token() -> None:
    prompt = list(range(3 * CHUNK))
    assert reusable(prompt, prompt) == 2 * CHUNK
    assert reusable(prompt, [*prompt, 1]) == 3 * CHUNK
    assert reusable([*prompt[: CHUNK + 5], -1], prompt) == CHUNK
    assert reusable(prompt[: CHUNK - 1], prompt) == 0
    assert reusable([], prompt) == 0


def test_a_cache_of_another_adapter_saves_nothing() -> None:
    """A32: the KV cache was computed with the adapter, so it is wrong for any other."""
    prompt = list(range(2 * CHUNK))
    slots = [FreeSlot(0, "one", prompt, used=1), FreeSlot(1, None, [], used=2)]
    assert choose_slot(slots, "one", prompt) == (slots[0], CHUNK)
    assert choose_slot(slots, None, prompt)[1] == 0


def test_among_equals_the_longest_unused_slot_is_taken() -> None:
    slots = [FreeSlot(0, None, [], used=5), FreeSlot(1, None, [], used=2)]
    assert choose_slot(slots, None, [1, 2, 3])[0].sequence == 1

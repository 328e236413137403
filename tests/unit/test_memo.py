"""What is kept of what was worked out before."""

from __future__ import annotations

from featurectl import arguments
from featurectl.core.memo import Memo


def test_it_begins_anew_when_it_is_full() -> None:
    memo: Memo[str, int] = Memo(3)
    assert [memo.keep(key, value) for key, value in (("a", 1), ("b", 2), ("c", 3))] == [1, 2, 3]
    assert dict(memo) == {"a": 1, "b": 2, "c": 3}
    memo.keep("d", 4)
    assert dict(memo) == {"d": 4}


def test_entries_count_by_their_size_and_too_large_ones_are_not_kept() -> None:
    memo: Memo[str, int] = Memo(10)
    memo.keep("a", 1, size=6)
    memo.keep("b", 2, size=4)
    assert dict(memo) == {"a": 1, "b": 2}
    assert memo.keep("c", 3, size=11) == 3
    assert dict(memo) == {}
    memo.keep("d", 4, size=10)
    memo.clear()
    memo.keep("e", 5, size=10)
    assert dict(memo) == {"e": 5}


def test_lists_of_ids_are_kept_up_to_a_number_of_ids() -> None:
    lists = [[f"S{index}N{place}_1h" for place in range(6000)] for index in range(5)]
    known = [arguments.entities(ids) for ids in lists]
    assert arguments.entities(lists[-1]) is known[-1]
    assert arguments.entities(lists[0]) is not known[0]
    assert sum(map(len, arguments._known_entities)) <= arguments.MOST_KNOWN_IDS

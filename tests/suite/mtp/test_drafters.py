"""Drafters without a network, against a search position by position."""

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from v3bench.suite.mtp.drafters import look_up, most_frequent


def slow(row, otherwise, longest):
    """Each draft by search, from the most recent place back."""
    drafts = []
    for j in range(len(row)):
        draft = otherwise
        for n in range(min(longest, j), 0, -1):
            suffix = row[j - n : j]
            found = [end for end in range(n, j) if row[end - n : end] == suffix]
            if found:
                draft = row[found[-1]]
                break
        drafts.append(draft)
    return drafts


def test_most_frequent():
    assert most_frequent(torch.tensor([3, 200, 200, 0, 7, 200, 3], dtype=torch.uint8)) == 200


def test_look_up_by_hand():
    ids = torch.tensor([[1, 2, 3, 1, 2, 4, 1, 2, 5]])
    assert look_up(ids, 9).tolist() == [[9, 9, 9, 9, 2, 3, 9, 2, 4]]


def test_look_up_prefers_the_longest_run():
    ids = torch.tensor([[1, 2, 3, 7, 2, 3, 8, 1, 2, 3, 0]])
    assert look_up(ids, 9)[0, -1] == 7  # 1 2 3 was followed by 7; 2 3, later, by 8
    assert look_up(ids, 9, longest=2)[0, -1] == 8


@settings(deadline=None, max_examples=60)
@given(size=st.integers(1, 30), vocab=st.integers(1, 5), longest=st.integers(1, 4), seed=st.integers(0, 99))
def test_look_up_equals_a_search(size, vocab, longest, seed):
    ids = torch.randint(0, vocab, (3, size), generator=torch.Generator().manual_seed(seed))
    assert look_up(ids, 77, longest).tolist() == [slow(row, 77, longest) for row in ids.tolist()]


def test_reads_nothing_that_it_drafts():
    ids = torch.randint(0, 3, (2, 20))
    other = ids.clone()
    other[:, 12:] = 5
    assert torch.equal(look_up(ids, 9)[:, :13], look_up(other, 9)[:, :13])

from __future__ import annotations

from bson.timestamp import Timestamp
from hypothesis import given
from hypothesis import strategies as st

from eventsync_workers.sequencing.transactions import TransactionAssembler, transaction_of
from support.changes import inserted

COMMITS = st.lists(st.tuples(st.integers(0, 3), st.booleans()), max_size=12)
"""Each commit: how many changes (0: one without a transaction), and whether the cluster time moves on before it."""


@given(COMMITS, st.lists(st.integers(0, 5), max_size=12), st.data())
def test_transactions_are_the_commits_whatever_the_batches(
    commits: list[tuple[int, bool]], cuts: list[int], data: st.DataObject
) -> None:
    time, stream, expected = 1, [], []
    for number, (changes, later) in enumerate(commits):
        time += later
        txn = number if changes else None
        group = [inserted(f"{number}-{index}", time=time, txn=txn) for index in range(max(changes, 1))]
        stream += group
        expected.append(group)
    assembler, got = TransactionAssembler(), []
    while stream:
        size = cuts.pop() if cuts else len(stream)
        batch, stream = stream[:size], stream[size:]
        # A batch that was cut ends at its last change's time; one that was not, maybe beyond.
        up_to = batch[-1]["clusterTime"] if batch else Timestamp(0, 0)
        got += assembler.feed(batch, up_to)
        assert assembler.is_open == bool(batch and transaction_of(batch[-1])) or not batch
        assert assembler.bytes == sum(len(change.raw) for change in assembler._open)
    got += assembler.feed([], Timestamp(time + 1, 0))
    assert [list(group) for group in got] == expected
    assert not assembler.is_open
    assert assembler.bytes == 0

from __future__ import annotations

import asyncio

from eventsync.stores.stores import Stores
from support.waiting import within

JOB = "sequencing"


async def test_the_first_one_gets_it_and_the_others_do_not(stores: Stores) -> None:
    assert await stores.leases.read(JOB) is None
    assert await stores.leases.acquire(JOB, "a", 60)
    assert not await stores.leases.acquire(JOB, "b", 60)
    lease = await stores.leases.read(JOB)
    assert lease is not None
    assert (lease.owner, lease.live) == ("a", True)


async def test_one_of_many_concurrent_holders_acquires_the_lease(stores: Stores) -> None:
    for job in ("one", "two", "three"):
        got = await asyncio.gather(*(stores.leases.acquire(job, f"w{n}", 60) for n in range(10)))
        assert sum(got) == 1
        lease = await stores.leases.read(job)
        assert lease is not None
        assert lease.owner == f"w{got.index(True)}"


async def test_renewing_moves_the_end_on_and_a_refusal_does_not(stores: Stores) -> None:
    await stores.leases.acquire(JOB, "a", 60)
    first = await stores.leases.read(JOB)
    assert not await stores.leases.acquire(JOB, "b", 600)
    refused = await stores.leases.read(JOB)
    assert await stores.leases.acquire(JOB, "a", 120)
    renewed = await stores.leases.read(JOB)
    assert first is not None
    assert refused == first
    assert renewed is not None
    assert (renewed.until - first.until).total_seconds() >= 60


async def test_a_lease_that_has_run_out_is_anybodys(stores: Stores) -> None:
    await stores.leases.acquire(JOB, "a", 0.001)
    async with within(10):
        while not await stores.leases.acquire(JOB, "b", 60):
            pass
    assert not await stores.leases.acquire(JOB, "a", 60)
    lease = await stores.leases.read(JOB)
    assert lease is not None
    assert lease.owner == "b"


async def test_a_lease_that_has_run_out_is_not_live_and_still_its_owners_to_renew(stores: Stores) -> None:
    await stores.leases.acquire(JOB, "a", 0.001)
    async with within(10):
        while (lease := await stores.leases.read(JOB)) is None or lease.live:
            pass
    assert await stores.leases.acquire(JOB, "a", 60)


async def test_a_lease_that_is_given_back_is_free_at_once(stores: Stores) -> None:
    await stores.leases.acquire(JOB, "a", 60)
    await stores.leases.release(JOB, "b")
    assert not await stores.leases.acquire(JOB, "b", 60)
    await stores.leases.release(JOB, "a")
    lease = await stores.leases.read(JOB)
    assert lease is not None
    assert not lease.live
    assert await stores.leases.acquire(JOB, "b", 60)


async def test_jobs_are_leased_one_by_one(stores: Stores) -> None:
    assert await stores.leases.acquire("one", "a", 60)
    assert await stores.leases.acquire("two", "b", 60)


async def test_an_owner_is_a_name_and_never_an_expression(stores: Stores) -> None:
    assert await stores.leases.acquire(JOB, "$until", 60)
    assert not await stores.leases.acquire(JOB, "$owner", 60)
    lease = await stores.leases.read(JOB)
    assert lease is not None
    assert lease.owner == "$until"

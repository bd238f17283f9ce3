"""`DelayAdmission` against a simulated service: so many servers, each of which takes so long, and a simulated clock."""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Callable
from contextlib import ExitStack
from types import SimpleNamespace

import pytest

from eventsync.concurrency import admission
from eventsync.concurrency.admission import DelayAdmission
from eventsync.errors import EventsyncError, Malformed, NotFound, Overloaded, Unavailable

LIMIT = 1.0


class Service:
    """Does what is admitted, in order: `servers` at a time, each in `seconds`. `delays` are of what was done."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *, servers: int = 1, seconds: float = 0.01) -> None:
        self.now = 1000.0
        self._soon: list[tuple[Callable[..., object], tuple[float, ...]]] = []
        loop = SimpleNamespace(call_soon=lambda call, *args: self._soon.append((call, args)))
        monkeypatch.setattr(admission, "time", SimpleNamespace(monotonic=lambda: self.now))
        monkeypatch.setattr(admission, "asyncio", SimpleNamespace(get_running_loop=lambda: loop))
        self.admission = DelayAdmission(LIMIT, "a write", (NotFound,))
        self.servers = servers
        self.seconds = seconds
        self.delays: list[tuple[float, float]] = []
        self.refused: list[Overloaded] = []
        self._free = [self.now] * servers
        self._ends: list[tuple[float, float, int, ExitStack]] = []
        self._numbers = itertools.count()

    def call(self, *, seconds: float | None = None, beside: bool = False) -> bool:
        """Call the service. Return False if the call was refused. `beside` the servers: it waits for something else."""
        place = ExitStack()
        try:
            place.enter_context(self.admission.admitted())
        except Overloaded as error:
            self.refused.append(error)
            return False
        takes = self.seconds if seconds is None else seconds
        end = self.now + takes if beside else max(self.now, heapq.heappop(self._free)) + takes
        if not beside:
            heapq.heappush(self._free, end)
        heapq.heappush(self._ends, (end, self.now, next(self._numbers), place))
        return True

    def wait(self, seconds: float) -> None:
        """Let time pass, in which the service does what is due."""
        self.turn()
        until = self.now + seconds
        while self._ends and self._ends[0][0] <= until:
            end, began, _, place = heapq.heappop(self._ends)
            self.now = max(self.now, end)
            place.close()
            self.delays.append((self.now, self.now - began))
        self.now = until

    def turn(self, seconds: float = 0.0) -> None:
        """Let a turn of the event loop end, which has taken so long."""
        self.now += seconds
        while self._soon:
            call, args = self._soon.pop()
            call(*args)

    def stall(self, seconds: float) -> None:
        """Put off all that is in progress."""
        self._free = [end + seconds for end in self._free]
        self._ends = [(end + seconds, began, number, place) for end, began, number, place in self._ends]

    def run(self, seconds: float, rate: float) -> None:
        """Call the service `rate` times a second."""
        for _ in range(round(seconds * rate)):
            self.call()
            self.wait(1 / rate)

    def longest(self, since: float) -> float:
        """Return the longest delay of what was done after `since`."""
        return max(delay for at, delay in self.delays if at > since)


async def test_nothing_is_refused_below_the_capacity(monkeypatch: pytest.MonkeyPatch) -> None:
    service = Service(monkeypatch, servers=4, seconds=0.01)
    service.run(5, rate=380)
    service.wait(1)
    assert (service.refused, service.admission.waiting, service.admission.delay) == ([], 0, 0)
    assert len(service.delays) == 1900


@pytest.mark.parametrize(("servers", "seconds"), [(1, 0.05), (1, 0.005), (16, 0.04), (64, 0.2)])
async def test_overload_bounds_the_delay_and_keeps_the_rate(
    monkeypatch: pytest.MonkeyPatch, servers: int, seconds: float
) -> None:
    service = Service(monkeypatch, servers=servers, seconds=seconds)
    capacity = servers / seconds
    service.run(10, rate=4 * capacity)
    begin = service.now - 5
    done = [delay for at, delay in service.delays if at > begin]
    assert len(done) >= 0.97 * 5 * capacity
    assert max(done) <= 1.4 * LIMIT
    assert len(service.refused) == service.admission.refused > 2.5 * 10 * capacity


async def test_overload_ends_when_the_calls_do(monkeypatch: pytest.MonkeyPatch) -> None:
    service = Service(monkeypatch, seconds=0.01)
    service.run(10, rate=1000)
    service.wait(LIMIT / 2)
    refused = len(service.refused)
    service.run(5, rate=80)
    assert len(service.refused) == refused


async def test_service_that_slows_down_is_noticed_within_the_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    service = Service(monkeypatch, seconds=0.002)
    service.run(5, rate=300)
    assert not service.refused
    service.seconds, slow = 0.1, service.now
    service.run(20, rate=300)
    service.wait(20)
    assert service.longest(slow) <= 12 * LIMIT  # of the first ones, which could not know
    assert service.longest(slow + 14 * LIMIT) <= 1.4 * LIMIT


async def test_stall_refuses_new_calls_and_its_end_admits_them_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    service = Service(monkeypatch, servers=8, seconds=0.01)
    service.run(2, rate=100)
    for _ in range(8):
        assert service.call()
    service.stall(10)
    service.wait(2 * LIMIT)
    assert service.admission.delay > LIMIT
    admitted = [service.call() for _ in range(100)]
    assert admitted.count(True) == 1  # the one in each `LIMIT` seconds
    assert service.refused[-1].retry_after >= LIMIT
    service.wait(10)
    assert service.admission.waiting == 0
    assert all(service.call() for _ in range(50))


async def test_few_calls_that_hang_refuse_no_others(monkeypatch: pytest.MonkeyPatch) -> None:
    service = Service(monkeypatch, seconds=0.005)
    for _ in range(10):
        assert service.call(seconds=10, beside=True)
    for _ in range(20):
        service.wait(0.5)
        assert service.call()


async def test_work_that_is_done_in_groups_is_not_refused_between_them(monkeypatch: pytest.MonkeyPatch) -> None:
    service = Service(monkeypatch, servers=32, seconds=0.3)
    for _ in range(20):
        while service.admission.waiting < 32:
            assert service.call()
        service.wait(0.3 - 0.001 * 31)
        for _ in range(31):  # each caller calls again as soon as it is answered
            service.wait(0.001)
            while service.admission.waiting < 32:
                assert service.call()
    assert not service.refused


async def test_burst_after_an_idle_period_is_admitted(monkeypatch: pytest.MonkeyPatch) -> None:
    service = Service(monkeypatch, servers=100, seconds=0.05)
    for _ in range(5):
        service.call()
        service.wait(3600)
    assert all(service.call() for _ in range(64))


@pytest.mark.parametrize(
    ("error", "counts"),
    [(Malformed("a bad patch"), False), (Unavailable("no answer in time"), False), (NotFound("served"), True)],
)
async def test_only_errors_of_the_service_count_as_done(
    monkeypatch: pytest.MonkeyPatch, error: EventsyncError, counts: bool
) -> None:
    service = Service(monkeypatch, seconds=0.1)
    for _ in range(20):
        service.call()
        service.wait(0.1)
    with service.admission.admitted():
        for _ in range(100):
            with pytest.raises(type(error)), service.admission.admitted():
                raise error
        assert service.admission.delay == pytest.approx(0.0 if counts else 0.1)
    assert service.admission.waiting == 0


async def test_check_counts_nothing_that_it_lets_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    service = Service(monkeypatch)
    service.admission.check()
    assert (service.admission.waiting, service.admission.refused) == (0, 0)


async def test_long_turn_of_the_event_loop_counts_as_delay(monkeypatch: pytest.MonkeyPatch) -> None:
    service = Service(monkeypatch, seconds=0.01)
    service.run(1, rate=50)
    service.call()
    service.turn(0.3)
    service.wait(1)
    service.call()
    assert 0.3 <= service.admission.delay <= 0.7
    service.wait(1)
    service.run(1, rate=50)
    service.call()
    assert service.admission.delay <= 0.05


def test_results_and_times_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    service = Service(monkeypatch)
    for error in (None, None, NotFound("x"), Unavailable("y"), ZeroDivisionError()):
        number = service.admission.begin()
        service.now += 0.02
        service.admission.end(number, error)
    assert service.admission.results == {"ok": 2, "not_found": 1, "unavailable": 1, "error": 1}
    assert service.admission.seconds.sum == pytest.approx(0.1)
    assert sum(service.admission.seconds.counts) == 5

from __future__ import annotations

import inspect

import pytest

from eventsync import errors
from eventsync.domain.replay import Damaged
from eventsync.errors import (
    MAX_MESSAGE,
    ConfigurationError,
    EventsyncError,
    Malformed,
    ResetRequired,
    Unavailable,
    VersionMismatch,
    public_error,
    shortened,
)
from eventsync.server.problems import TABLE

TREE = [kind for _, kind in inspect.getmembers(errors, inspect.isclass) if issubclass(kind, EventsyncError)]


def test_everything_public_is_listed_and_drawn() -> None:
    assert sorted(kind.__name__ for kind in TREE) == sorted(errors.__all__)
    assert errors.__doc__ is not None
    assert all(name in errors.__doc__ for name in errors.__all__)


def test_every_error_has_a_code_of_its_own() -> None:
    codes = {kind.__name__: kind.code for kind in TREE}
    assert len(set(codes.values())) == len(codes)
    assert all("code" in vars(kind) for kind in TREE)


def test_codes_are_stable() -> None:
    assert {kind.code for kind in TREE} == {
        "internal", "configuration", "malformed", "not_found", "not_tracked", "unknown_shape", "conflict",
        "version_mismatch", "too_large", "unsupported_media_type", "patch_failed", "too_complex", "reset", "gone",
        "forbidden", "rate_limited", "unavailable", "not_attempted", "overloaded", "damaged", "invalid_predicate",
        "index_needed", "unauthenticated", "incompatible_format",
    }  # fmt: skip


def test_exit_codes_are_stable() -> None:
    codes = {kind.__name__: kind.exit_code for kind in TREE if kind.exit_code != 1}
    assert codes == {"ConfigurationError": 2, "IncompatibleFormat": 65}


@pytest.mark.parametrize("kind", TREE)
def test_only_what_may_succeed_later_is_retryable(kind: type[EventsyncError]) -> None:
    later = {"conflict", "rate_limited", "unavailable", "not_attempted", "overloaded"}
    assert kind.retryable is (kind.code in later)


def test_errors_with_a_status_are_public_and_no_others() -> None:
    for kind in TREE:
        error = kind.__new__(kind)
        assert (public_error(error) is error) is (kind in TABLE)
    for failure in (EventsyncError("/srv/secret"), ConfigurationError("secret"), Damaged("secret")):
        assert "secret" not in public_error(failure).message
        assert public_error(failure).code == "internal"


def test_the_words_of_a_driver_are_for_operators() -> None:
    error = Unavailable("it can't be read").because("db-1:27017 closed")
    assert (error.message, error.diagnosis) == ("it can't be read", "it can't be read (db-1:27017 closed)")
    assert EventsyncError("said").diagnosis == "said"


def test_errors_carry_their_details() -> None:
    assert EventsyncError("said").message == "said"
    assert EventsyncError().message == "internal"
    assert VersionMismatch("no", current=None).current is None
    assert VersionMismatch("no", current=6).message == "no"
    assert ResetRequired("future", "no").reason == "future"
    assert (Unavailable("no").retry_after, Unavailable("no", retry_after=3).retry_after) == (1.0, 3)


def test_a_message_is_short_however_long_what_it_is_about() -> None:
    error = Malformed("x" * 1_000_000).because("y" * 1_000_000)
    assert len(error.message) <= MAX_MESSAGE
    assert len(error.diagnosis) <= 2 * MAX_MESSAGE + 3
    assert error.message.startswith("xx")
    assert shortened("a" * MAX_MESSAGE) == "a" * MAX_MESSAGE

"""The authenticator: credentials against the `[auth]` in force, revocations, and what is cached."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from eventsync.access import authenticator
from eventsync.access.authenticator import DOUBTED_AFTER, Authenticated, Authenticator, WrongSignatures, ticket_of
from eventsync.access.jwks import REFRESH, KeySet
from eventsync.access.tokens import LEEWAY
from eventsync.domain.access.auth import AuthSettings, Issuer
from eventsync.errors import EventsyncError, RateLimited, Unauthenticated, Unavailable
from eventsync.settings import Settings
from eventsync.stores.access.keys import ServiceKey, _hash
from eventsync.stores.access.tickets import Ticket
from support.identity import KEYS, NOW, PUBLIC, SECRET, MovedClock, key_set, secret_file, signed_by, token

PROVIDER = Issuer("provider", ("ES256",), ("shop",), jwks="https://id.example/jwks")


class Stored:
    """The stored credentials, in memory."""

    def __init__(self) -> None:
        self.revoked: dict[str, float] = {}
        self.keys: list[ServiceKey] = []
        self.tickets: dict[str, Ticket] = {}
        self.reads = 0

    @property
    def credentials(self) -> Any:
        async def revocations(names: Iterable[str] | None = None) -> Mapping[str, float]:
            return {name: at for name, at in self.revoked.items() if names is None or name in names}

        async def keys(ids: Iterable[str] | None = None) -> Sequence[ServiceKey]:
            if ids is None:
                return self.keys
            self.reads += 1
            await asyncio.sleep(0)
            return [item for item in self.keys if item.id in ids]

        async def ticket(text: str) -> Ticket | None:
            self.reads += 1
            return self.tickets.get(text)

        return SimpleNamespace(
            revocations=SimpleNamespace(read=revocations),
            keys=SimpleNamespace(read=keys),
            tickets=SimpleNamespace(find=ticket),
        )


class Server:
    """An authenticator with a shared secret and a provider."""

    def __init__(self, folder: Path, **settings: Any) -> None:
        self.stored = Stored()
        self.clock = MovedClock()
        self.content = key_set()
        self.fetches = 0
        self.backend = Issuer("backend", ("HS256",), secret_file=str(secret_file(folder)))
        self.auth = Authenticator(self.stored.credentials, Settings(**settings), clock=self.clock, fetch=self._fetch)

    def _fetch(self, _: str) -> bytes:
        self.fetches += 1
        return self.content

    def configure(self, *issuers: Issuer) -> None:
        self.auth.configure(AuthSettings(issuers or (self.backend, PROVIDER)))

    async def reason(self, text: str) -> str:
        """Return the reason for which a credential is refused, or `ok`."""
        try:
            await self.auth.authenticate(text)
        except Unauthenticated as error:
            return error.reason
        except EventsyncError as error:
            return error.code
        return "ok"


@pytest.fixture
async def server(tmp_path: Path) -> Server:
    server = Server(tmp_path)
    server.configure()
    return server


def service_key(id: str = "k1", **changed: Any) -> ServiceKey:  # noqa: A002
    made = datetime.fromtimestamp(NOW - 1000, UTC)
    return replace(ServiceKey(id, _hash("secret"), "importer", frozenset({"operator"}), {}, made), **changed)


async def test_error_names_whose_genuine_credential_has_ended_and_no_other(server: Server) -> None:
    async def named(text: str) -> tuple[str, str, str]:
        with pytest.raises(Unauthenticated) as refused:
            await server.auth.authenticate(text)
        return refused.value.reason, refused.value.subject, refused.value.credential

    server.stored.keys = [service_key(revoked=datetime.now(UTC))]
    await server.auth.load_keys()
    server.stored.revoked = {"jti:t-2": NOW}
    await server.auth.load_revocations(["jti:t-2"])
    good = token(jti="t-3", exp=NOW + 60)
    await server.auth.authenticate(good)
    assert await named(token(jti="t-1", exp=NOW - LEEWAY)) == ("token_expired", "ada", "jti:t-1")
    assert await named(token(jti="t-2")) == ("token_revoked", "ada", "jti:t-2")
    assert await named("esk_k1_secret") == ("token_revoked", "key:importer", "key:k1")
    server.clock.advance(60 + LEEWAY)
    assert await named(good) == ("token_expired", "ada", "jti:t-3")
    # Anybody can write a name into what nobody has signed.
    forged = token(jti="t-4", exp=NOW - LEEWAY)[:-4] + "AAAA"
    assert await named(forged) == ("token_invalid", "", "")
    assert await named("esk_k1_another") == ("token_invalid", "", "")


async def test_tokens_of_each_issuer_are_accepted(server: Server) -> None:
    for text in (token(), signed_by("ES256")):
        found = await server.auth.authenticate(text)
        assert found.principal.sub == "ada"
        assert found.issuer is not None


async def test_tokens_of_other_issuers_are_refused(server: Server) -> None:
    assert await server.reason(token(iss="another")) == "token_invalid"
    assert await server.reason(token(iss=None)) == "token_invalid"
    assert await server.reason(token(iss=["backend"])) == "token_invalid"
    # The secret of one issuer signs for no other.
    assert await server.reason(token(iss="provider", aud="shop")) == "token_invalid"


@pytest.mark.parametrize(
    "text", ["", "x", "Bearer x", "esk_", "esk_k1", "esk__", "esk_k1_", "est_abc", "\ud800", "é.é.é"]
)
async def test_text_that_is_no_credential_is_refused(server: Server, text: str) -> None:
    assert await server.reason(text) == "token_invalid"


async def test_a_verified_token_expires(server: Server) -> None:
    text = token(exp=NOW + 60)
    assert await server.reason(text) == "ok"
    server.clock.advance(60 + LEEWAY - 1)
    assert await server.reason(text) == "ok"
    server.clock.advance(1)
    assert await server.reason(text) == "token_expired"


async def test_a_verified_token_is_not_verified_again(server: Server) -> None:
    text = token()
    first = await server.auth.authenticate(text)
    assert await server.auth.authenticate(text) is first
    # Not so if only the signature differs.
    head, payload, signature = text.split(".")
    other = signature[:-2] + ("AA" if signature[-2:] != "AA" else "BB")
    assert await server.reason(f"{head}.{payload}.{other}") == "token_invalid"


async def test_a_changed_secret_ends_verified_tokens(server: Server, tmp_path: Path) -> None:
    old, new = token(), token(b"another secret of thirty-two byt")
    assert [await server.reason(text) for text in (old, new)] == ["ok", "token_invalid"]
    secret_file(tmp_path, b"another secret of thirty-two byt")
    server.clock.advance(2)
    assert [await server.reason(text) for text in (old, new)] == ["token_invalid", "ok"]
    assert [await server.reason(text) for text in (old, new)] == ["token_invalid", "ok"]


async def test_a_secret_that_becomes_a_public_key_ends_verified_tokens(server: Server, tmp_path: Path) -> None:
    texts = [token(), token(jti="new")]
    assert await server.reason(texts[0]) == "ok"
    secret_file(tmp_path, PUBLIC)
    server.clock.advance(2)
    assert [await server.reason(text) for text in texts] == ["unavailable"] * 2
    secret_file(tmp_path, SECRET)
    server.clock.advance(2)
    assert [await server.reason(text) for text in texts] == ["ok"] * 2


async def test_a_withdrawn_key_ends_verified_tokens(server: Server) -> None:
    text = signed_by("ES256")
    assert await server.reason(text) == "ok"
    server.content = key_set(KEYS["RS256"])
    server.clock.advance(REFRESH)
    assert await server.reason(text) == "ok"  # the keys are fetched in the background
    source = server.auth._sources[PROVIDER]
    assert isinstance(source, KeySet)
    assert source._refreshing is not None
    await source._refreshing
    assert await server.reason(text) == "token_invalid"


async def test_an_issuer_that_is_taken_away_ends_its_tokens(server: Server) -> None:
    found = await server.auth.authenticate(signed_by("ES256"))
    server.configure(server.backend)
    assert await server.reason(signed_by("ES256")) == "token_invalid"
    with pytest.raises(Unauthenticated, match="issuer"):
        server.auth.check(found)
    server.configure()
    server.auth.check(found)


async def test_tokens_are_judged_by_the_rules_in_force_once_their_keys_are_read(tmp_path: Path) -> None:
    server, secret = Server(tmp_path), b"another secret of thirty-two byt"
    (tmp_path / "new").mkdir()
    moved = replace(server.backend, secret_file=str(secret_file(tmp_path / "new", secret)))
    # A good one by both, one for an audience that is new, one with a signature that was wrong, one that was good.
    texts = [signed_by("ES256"), signed_by("ES256", aud="app"), token(secret), token()]
    reasons = ["ok", "ok", "ok", "token_invalid"]
    server.configure()
    asked = asyncio.gather(*map(server.reason, texts))
    await asyncio.sleep(0)  # all have asked for keys
    server.configure(moved, replace(PROVIDER, aud=("shop", "app")))
    assert await asked == reasons
    assert [await server.reason(text) for text in texts] == reasons


async def test_a_known_token_is_judged_by_rules_that_come_while_its_secret_is_looked_at(server: Server) -> None:
    assert await server.reason(token()) == "ok"
    server.clock.advance(2)
    asked = asyncio.create_task(server.reason(token()))
    await asyncio.sleep(0)
    server.configure(replace(server.backend, algorithms=("HS256", "HS384")))
    assert await asked == "ok"


async def test_revocations_are_by_token_and_by_subject_up_to_a_time(server: Server) -> None:
    found = await server.auth.authenticate(token(jti="t-1"))
    server.stored.revoked = {"jti:t-1": NOW}
    await server.auth.load_revocations(["jti:t-1"])
    assert await server.reason(token(jti="t-1")) == "token_revoked"
    with pytest.raises(Unauthenticated):
        server.auth.check(found)
    assert await server.reason(token(jti="t-2")) == "ok"
    server.stored.revoked = {"sub:ada": NOW + 5}
    await server.auth.load()
    assert await server.reason(token(iat=NOW + 5)) == "token_revoked"
    assert await server.reason(token(sub="eve")) == "ok"


async def test_a_revocation_of_a_subject_ends_tokens_of_an_issuer_whose_clock_is_ahead(server: Server) -> None:
    """No older token survives, whatever the clocks say within the leeway; a new one is accepted a moment later."""
    ahead = token(iat=NOW + LEEWAY, exp=NOW + 3600)
    found = await server.auth.authenticate(ahead)
    server.stored.revoked = {"sub:ada": NOW + 0.25}
    await server.auth.load()
    with pytest.raises(Unauthenticated) as refused:
        server.auth.check(found)
    assert (refused.value.reason, refused.value.retry_after) == ("token_revoked", LEEWAY + 1)
    # After that time a new token is good, from an issuer with the same clock or one that is ahead.
    server.clock.advance(LEEWAY + 1)
    again = token(iat=server.clock.now(), exp=NOW + 3600)
    assert await server.reason(again) == "ok"
    with pytest.raises(Unauthenticated) as late:
        await server.auth.authenticate(ahead)
    assert late.value.retry_after is None
    assert await server.reason(token(iat=NOW + LEEWAY, exp=NOW + 3600, jti="other")) == "token_revoked"


async def test_a_key_that_is_created_after_the_revocation_of_its_subject_is_good_at_once(server: Server) -> None:
    """MongoDB dates both, so there is no leeway."""
    made = service_key().created.timestamp()
    server.stored.keys = [service_key()]
    await server.auth.load_keys()
    for at, reason in ((made, "token_revoked"), (made - 0.001, "ok")):
        server.stored.revoked = {"sub:key:importer": at}
        await server.auth.load()
        assert await server.reason("esk_k1_secret") == reason


async def test_a_service_key_has_its_roles_claims_and_end(server: Server) -> None:
    server.stored.keys = [service_key(claims={"tenant": 7}, expires=datetime.fromtimestamp(NOW + 60, UTC))]
    await server.auth.load_keys()
    found = await server.auth.authenticate("esk_k1_secret")
    assert (found.principal.sub, found.principal.credential) == ("key:importer", "key:k1")
    assert found.principal.claims == {"sub": "key:importer", "tenant": 7}
    assert found.principal.roles == {"operator"}
    assert await server.reason("esk_k1_secreT") == "token_invalid"
    assert await server.reason("esk_k2_secret") == "token_invalid"
    server.clock.advance(60 + LEEWAY)
    assert await server.reason("esk_k1_secret") == "token_expired"


async def test_a_revoked_key_is_refused(server: Server) -> None:
    server.stored.keys = [service_key()]
    await server.auth.load_keys()
    found = await server.auth.authenticate("esk_k1_secret")
    server.stored.keys = [service_key(revoked=datetime.now(UTC))]
    await server.auth.load_keys()
    assert await server.reason("esk_k1_secret") == "token_revoked"
    server.stored.revoked = {"key:k1": NOW}
    await server.auth.load_revocations(["key:k1"])
    with pytest.raises(Unauthenticated):
        server.auth.check(found)


async def test_a_key_that_was_created_just_now_is_found_and_made_up_ones_cause_few_reads(server: Server) -> None:
    assert await server.reason("esk_made-up_secret") == "token_invalid"
    server.stored.keys = [service_key()]
    asked = [f"esk_{number}_secret" for number in range(998)]
    reasons = await asyncio.gather(*map(server.reason, ["esk_k1_secret", *asked]))
    assert reasons == ["ok"] + ["token_invalid"] * 998
    assert server.stored.reads == 2


async def test_more_unknown_keys_than_one_read_takes_are_told_to_come_again(server: Server) -> None:
    asked = [f"esk_{number}_secret" for number in range(1001)]
    reasons = await asyncio.gather(*map(server.reason, asked))
    assert reasons == ["token_invalid"] * 1000 + ["unavailable"]


async def test_a_caller_that_gives_up_takes_no_other_with_it(server: Server) -> None:
    server.stored.keys = [service_key(), service_key("k2")]
    first = asyncio.create_task(server.reason("esk_k1_secret"))
    second = asyncio.create_task(server.reason("esk_k2_secret"))
    await asyncio.sleep(0)
    first.cancel()
    assert await second == "ok"


async def test_a_key_that_was_looked_up_is_good_until_all_keys_are_read_again(server: Server) -> None:
    server.stored.keys = [service_key()]
    reasons = await asyncio.gather(*(server.reason("esk_k1_secret") for _ in range(5)))
    assert [*reasons, await server.reason("esk_k1_secret")] == ["ok"] * 6
    assert server.stored.reads == 1
    server.stored.keys = [service_key(revoked=datetime.now(UTC))]
    await server.auth.load_keys()
    assert await server.reason("esk_k1_secret") == "token_revoked"


async def test_a_key_that_was_looked_up_and_is_gone_is_refused(server: Server) -> None:
    server.stored.keys = [service_key()]
    assert await server.reason("esk_k1_secret") == "ok"
    server.stored.keys = []
    await server.auth.load_keys()
    assert await server.reason("esk_k1_secret") == "token_invalid"


async def test_a_ticket_is_its_makers_and_ends_with_it(server: Server) -> None:
    maker = await server.auth.authenticate(token(exp=NOW + 60, jti="t-1"))
    server.stored.tickets["est_x"] = ticket_of(maker, ["orders"], ends=NOW + 86400)
    found = await server.auth.authenticate_ticket("est_x")
    assert (found.principal, found.shapes) == (maker.principal, frozenset({"orders"}))
    server.stored.revoked = {"jti:t-1": NOW}
    await server.auth.load()
    with pytest.raises(Unauthenticated, match="revoked"):
        await server.auth.authenticate_ticket("est_x")
    server.stored.revoked = {}
    await server.auth.load()
    server.clock.advance(60 + LEEWAY)
    with pytest.raises(Unauthenticated, match="expired"):
        await server.auth.authenticate_ticket("est_x")


async def test_a_ticket_of_a_key_without_an_end_ends(server: Server) -> None:
    server.stored.keys = [service_key()]
    maker = await server.auth.authenticate("esk_k1_secret")
    assert ticket_of(maker, [], ends=NOW + 5).principal.expires == NOW + 5


async def test_made_up_tickets_are_refused_and_most_of_them_without_a_read(server: Server) -> None:
    for text in ("", "x", "est", "esk_k1_secret", "est_" + "x" * 100, "est_é"):
        with pytest.raises(Unauthenticated):
            await server.auth.authenticate_ticket(text)
    assert server.stored.reads == 0
    with pytest.raises(Unauthenticated):
        await server.auth.authenticate_ticket("est_x")


async def test_credentials_are_refused_while_mongodb_is_away(server: Server) -> None:
    text = token()
    assert await server.reason(text) == "ok"
    server.auth.interrupted()
    server.clock.advance(DOUBTED_AFTER)
    assert await server.reason(text) == "ok"
    server.clock.advance(0.1)
    server.auth.interrupted()
    assert await server.reason(text) == "unavailable"
    with pytest.raises(Unavailable):
        await server.auth.authenticate_ticket("est_x")
    server.auth.follows()
    assert await server.reason(text) == "ok"


async def test_forged_tokens_use_up_the_budget_of_their_address_alone(tmp_path: Path) -> None:
    """Tokens that are known, and those from other addresses, are judged as before."""
    server = Server(tmp_path, wrong_signatures=2.0)
    server.configure()
    known = token(jti="known")
    head, payload, _ = signed_by("ES256").split(".")

    async def reason(text: str, source: str) -> str:
        try:
            await server.auth.authenticate(text, source)
        except EventsyncError as error:
            return getattr(error, "reason", error.code)
        return "ok"

    assert await reason(known, "a") == "ok"
    got = [await reason(f"{head}.{payload}.{number:086}", "a") for number in range(30)]
    assert got == ["token_invalid"] * 20 + ["rate_limited"] * 10
    assert server.auth.wrong_signatures.refused == 10
    assert await reason(token(jti="new"), "a") == "rate_limited"
    assert await reason(f"{head}.{payload}.{0:086}", "a") == "token_invalid"
    assert await reason(known, "a") == "ok"
    assert await reason(token(jti="new"), "b") == "ok"
    # The budget comes back with time.
    server.auth.wrong_signatures._budgets["a"]._since -= 1.0
    assert await reason(token(jti="newer"), "a") == "ok"


async def test_sources_of_forged_tokens_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(authenticator, "_MAX_SOURCES", 3)
    wrong = WrongSignatures(0.1)
    for source in ("a", "b", "a", "c", "d"):
        wrong.count(source)
    for source in ("a", "c", "d"):
        with pytest.raises(RateLimited):
            wrong.check(source)
    wrong.check("b")


async def test_the_cache_of_tokens_is_bounded(tmp_path: Path) -> None:
    server = Server(tmp_path, token_cache_bytes=100_000)
    server.configure(server.backend)
    for number in range(300):
        assert await server.reason(token(jti=str(number))) == "ok"
        assert await server.reason(token(b"x" * 32, jti=str(number))) == "token_invalid"
    assert 0 < server.auth._verified.bytes <= 100_000


async def test_bad_tokens_are_cheap_and_cause_no_fetch(server: Server) -> None:
    await server.auth.authenticate(signed_by("ES256"))
    good = token(b"x" * 32)
    head, payload, _ = good.split(".")
    made_up = signed_by("ES256", header={"kid": "made-up"}).rsplit(".", 1)[0]
    begin = time.process_time()
    for number in range(500):
        assert await server.reason(f"{head}.{payload}.{number:043}") == "token_invalid"
        assert await server.reason(f"{made_up}.{number:086}") == "token_invalid"
    each = (time.process_time() - begin) / 1000
    assert server.fetches == 1
    # 10,000 a second on one core; the bound leaves room for a busy machine.
    assert each < 500e-6


def test_requests_with_one_token_share_what_the_rules_made_of_it() -> None:
    assert Authenticated.__eq__ is object.__eq__

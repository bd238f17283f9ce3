"""The shared secret of an issuer: private, long enough, and read again when it changes."""

from __future__ import annotations

import os
from datetime import UTC, datetime
from itertools import count
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from eventsync.access.secret_file import CHECKED_FOR, MIN_SECRET, SecretFile, read_secret
from eventsync.errors import ConfigurationError, Unavailable
from support.identity import PUBLIC, SECRET, MovedClock, oct_key, secret_file


def known(path: Path) -> tuple[SecretFile, MovedClock]:
    clock = MovedClock()
    return SecretFile(str(path), clock.monotonic), clock


def test_the_line_end_behind_a_secret_is_no_part_of_it(tmp_path: Path) -> None:
    assert read_secret(str(secret_file(tmp_path, SECRET + b"\r\n"))).raw_value == SECRET


@pytest.mark.parametrize("mode", [0o644, 0o604, 0o660, 0o622, 0o601])
def test_a_secret_that_others_can_read_or_change_is_refused(tmp_path: Path, mode: int) -> None:
    with pytest.raises(ConfigurationError, match=f"mode {mode:04o}.*chmod 600"):
        read_secret(str(secret_file(tmp_path, mode=mode)))


@pytest.mark.parametrize("content", [b"", b"x" * (MIN_SECRET - 1), b"\n" * 100, b"x" * 5000])
def test_a_secret_of_too_few_or_too_many_bytes_is_refused(tmp_path: Path, content: bytes) -> None:
    with pytest.raises(ConfigurationError, match="bytes"):
        read_secret(str(secret_file(tmp_path, content)))


def public_files() -> dict[str, bytes]:
    """Return a public key and its certificate in the forms that programs write, and a certificate of no version.

    The last byte of `certificate.der` is that of a line end.
    """
    key, name = Ed25519PrivateKey.generate(), x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "issuer")])
    begin, end = datetime(2020, 1, 1, tzinfo=UTC), datetime(2040, 1, 1, tzinfo=UTC)
    certificates = (
        x509.CertificateBuilder(name, name, key.public_key(), number, begin, end).sign(key, None) for number in count(1)
    )
    certificate = next(each for each in certificates if each.signature.endswith((b"\r", b"\n")))
    der = certificate.public_bytes(serialization.Encoding.DER)
    ssh = serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH
    return {
        "key.pem": PUBLIC,
        "key.pub": key.public_key().public_bytes(*ssh),
        "certificate.pem": certificate.public_bytes(serialization.Encoding.PEM),
        "certificate.der": der,
        "damaged.der": der.replace(b"\xa0\x03\x02\x01\x02", b"\xa0\x03\x02\x01\x63", 1),
    }


@pytest.mark.parametrize("content", [pytest.param(content, id=name) for name, content in public_files().items()])
async def test_a_public_key_or_certificate_is_no_secret(tmp_path: Path, content: bytes) -> None:
    path = secret_file(tmp_path, content)
    with pytest.raises(ConfigurationError, match="public key or certificate"):
        read_secret(str(path))
    keys, _ = known(path)
    with pytest.raises(Unavailable) as failure:
        await keys.keys(None)
    assert str(path) not in failure.value.message
    # Nor is it read for each token.
    generation = keys.generation
    with pytest.raises(Unavailable):
        await keys.keys(None)
    assert keys.generation == generation


def test_only_a_regular_file_is_read(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe", 0o600)
    for path in (tmp_path / "pipe", tmp_path, tmp_path / "missing"):
        with pytest.raises(ConfigurationError, match="the secret file"):
            read_secret(str(path))


async def test_a_changed_secret_is_read_again(tmp_path: Path) -> None:
    keys, clock = known(secret_file(tmp_path))
    (first,) = await keys.keys(None)
    assert first.raw_value == oct_key().raw_value
    generation = keys.generation
    secret_file(tmp_path, b"another secret of thirty-two byt")
    assert await keys.keys(None) == [first]  # not looked at in each moment
    clock.advance(CHECKED_FOR)
    (second,) = await keys.keys(None)
    assert second.raw_value != first.raw_value
    assert keys.generation > generation


async def test_a_secret_that_becomes_readable_by_others_closes(tmp_path: Path) -> None:
    path = secret_file(tmp_path)
    keys, clock = known(path)
    await keys.keys(None)
    path.chmod(0o644)
    clock.advance(CHECKED_FOR)
    with pytest.raises(Unavailable) as failure:
        await keys.keys(None)
    assert str(path) not in failure.value.message
    path.chmod(0o600)
    clock.advance(CHECKED_FOR)
    assert len(await keys.keys(None)) == 1

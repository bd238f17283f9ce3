"""Identity for tests: clocks that are moved, keys, and tokens that are signed as an issuer would, or otherwise."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from joserfc.jwk import ECKey, Key, OctKey, OKPKey, RSAKey
from joserfc.jws import JWSRegistry

from eventsync.access.authenticator import Clock

SECRET: Final = b"a secret of thirty-two bytes ok!"
NOW: Final = 1_800_000_000.0
KEYS: Final[dict[str, Key]] = {
    "RS256": RSAKey.generate_key(2048, {"kid": "rsa"}),
    "ES256": ECKey.generate_key("P-256", {"kid": "ec"}),
    "EdDSA": OKPKey.generate_key("Ed25519", {"kid": "ed"}),
}
"""A private key for each of these algorithms."""

PUBLIC: Final = ECKey.generate_key("P-256").as_bytes(private=False)
"""A public key as a PEM file has it: of the length of a secret, and known to everybody."""


class MovedClock(Clock):
    """A clock that stands, until a test moves it."""

    def __init__(self, now: float = NOW) -> None:
        self.time = now
        self.elapsed = 1000.0

    def now(self) -> float:
        return self.time

    def monotonic(self) -> float:
        return self.elapsed

    def advance(self, seconds: float) -> None:
        self.time += seconds
        self.elapsed += seconds


def encoded(part: bytes | Mapping[str, Any]) -> str:
    """Return a part of a token."""
    content = part if isinstance(part, bytes) else json.dumps(part).encode()
    return base64.urlsafe_b64encode(content).rstrip(b"=").decode()


def signed(header: bytes | Mapping[str, Any], payload: bytes | Mapping[str, Any], secret: bytes = SECRET) -> str:
    """Return a token with an HMAC of SHA-256, whatever its header says."""
    text = f"{encoded(header)}.{encoded(payload)}"
    return f"{text}.{encoded(hmac.new(secret, text.encode(), hashlib.sha256).digest())}"


def token(secret: bytes = SECRET, *, now: float = NOW, **claims: Any) -> str:
    """Return a token of the issuer `backend` for `ada`, with some claims changed; None leaves one out."""
    given = {"iss": "backend", "sub": "ada", "iat": int(now), "exp": int(now) + 3600} | claims
    payload = {name: value for name, value in given.items() if value is not None}
    return signed({"alg": "HS256", "typ": "JWT"}, payload, secret)


def signed_by(algorithm: str, key: Key | None = None, header: Mapping[str, Any] | None = None, **claims: Any) -> str:
    """Return a token that a private key has signed, of the issuer `provider` for the audience `shop`."""
    key = key or KEYS[algorithm]
    given = {"iss": "provider", "sub": "ada", "aud": "shop", "iat": int(NOW), "exp": int(NOW) + 3600} | claims
    head = {"alg": algorithm, "kid": key.kid} | dict(header or {})
    text = f"{encoded(head)}.{encoded({name: value for name, value in given.items() if value is not None})}"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # joserfc warns of the name EdDSA
        model = JWSRegistry(algorithms=[algorithm]).get_alg(algorithm)
    return f"{text}.{encoded(model.sign(text.encode(), key))}"


def key_set(*keys: Key) -> bytes:
    """Return the public parts of keys, as a provider shows them."""
    return json.dumps({"keys": [key.as_dict(private=False) for key in keys or KEYS.values()]}).encode()


def secret_file(folder: Path, secret: bytes = SECRET, mode: int = 0o600) -> Path:
    """Write a secret to a file."""
    path = folder / "secret"
    path.write_bytes(secret)
    path.chmod(mode)
    return path


def oct_key(secret: bytes = SECRET) -> OctKey:
    """Return a secret as a key."""
    return OctKey.import_key(secret)

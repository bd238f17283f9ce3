"""A pytest plugin that has all HTTP clients of a process share the certificates that they trust; and a certificate.

httpx reads its whole store of certificates for each client, which takes 24 ms of CPU. The tests make thousands of
clients, of which hardly any speaks TLS.
"""

from __future__ import annotations

import functools
import ipaddress
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from httpx._transports import default


def pytest_configure() -> None:
    """Read the store once; `tests/unit/support/test_tls.py` notices where httpx reads it again."""
    default.create_ssl_context = functools.cache(default.create_ssl_context)  # type: ignore[attr-defined]


def certificate(folder: Path) -> Path:
    """Write a certificate for 127.0.0.1 that nobody else has signed, with its key, to a file."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "eventsync tests")])
    now, hosts = datetime.now(UTC), x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))])
    made = x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
    made = made.not_valid_before(now - timedelta(days=1)).not_valid_after(now + timedelta(days=1))
    signed = made.add_extension(hosts, critical=False).sign(key, hashes.SHA256())
    own = (serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    file = folder / "certificate.pem"
    file.write_bytes(signed.public_bytes(serialization.Encoding.PEM) + key.private_bytes(*own))
    return file

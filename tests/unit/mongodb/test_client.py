"""Refusals before anything is connected to; no secret is part of one."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from eventsync.errors import ConfigurationError
from eventsync.mongodb.client import connect
from eventsync.settings import Settings


def refusal(uri: str) -> str:
    async def tried() -> str:
        with pytest.raises(ConfigurationError) as raised:
            connect(Settings(mongodb_uri=uri), "test")
        return raised.value.message

    return asyncio.run(tried())


@pytest.mark.parametrize("option", ["tlsCAFile", "tlsCertificateKeyFile", "tlscafile"])
def test_a_file_that_is_not_there_is_named(option: str, tmp_path: Path) -> None:
    file = tmp_path / "missing.pem"
    assert f"{option} {file}: No such file or directory" in refusal(f"mongodb://h/?tls=true&{option}={file}")


@pytest.mark.parametrize("option", ["tlsCAFile", "tlsCertificateKeyFile"])
def test_a_file_that_holds_no_certificate_is_refused(option: str, tmp_path: Path) -> None:
    file = tmp_path / "junk.pem"
    file.write_text("junk")
    assert "the MongoDB connection string can't be used" in refusal(f"mongodb://h/?tls=true&{option}={file}")


def test_a_misspelt_option_is_refused() -> None:
    assert "Unknown option" in refusal("mongodb://h/?replicaSett=rs0")


@pytest.mark.parametrize(
    "uri",
    [
        "mongodb://us er:hunter2@x@h/",
        "mongodb://u:hunter2:hunter2@h:99999/",
        "mongodb://u:p%zzhunter2@h/",
        "mongodb://u:hunter2?x@h",
        "mongodb://u:hunter2/x@h:1:2",
        "mongodb+srv://u:hunter2@127.0.0.1:1/",
        "mongodb://h/?bogus=hunter2",
        "http://u:hunter2@h/",
    ],
)
def test_no_refusal_shows_a_password(uri: str) -> None:
    assert "hunter2" not in refusal(uri)

"""Documents as another program's driver may send them: MongoDB checks their lengths and little else."""

from __future__ import annotations

import random
import struct
import uuid
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import bson
from bson import Binary, Code, DBRef, Decimal128, Int64, MaxKey, MinKey, ObjectId, Regex, Timestamp

from eventsync.domain.bson_scan.opaque import CODEC

_DEEP = 178


def framed(*elements: bytes) -> bytes:
    """A document of these elements."""
    body = b"".join(elements)
    return struct.pack("<i", len(body) + 5) + body + b"\0"


def text(value: bytes) -> bytes:
    """The value of a string element."""
    return struct.pack("<i", len(value) + 1) + value + b"\0"


ODD: dict[str, bytes] = {
    "a binary whose inner length is wrong": b"\x05v\0" + struct.pack("<i", 3) + b"\x02abc",
    "a binary without an inner length": b"\x05v\0" + struct.pack("<i", 0) + b"\x02",
    "a short UUID": b"\x05v\0" + struct.pack("<i", 3) + b"\x04abc",
    "a long UUID": b"\x05v\0" + struct.pack("<i", 17) + b"\x04" + b"u" * 17,
    "a vector of no type": b"\x05v\0" + struct.pack("<i", 1) + b"\x09\xff",
    "text that is not UTF-8": b"\x02v\0" + text(b"caf\xe9"),
    "a surrogate in UTF-8": b"\x02v\0" + text(b"\xed\xa0\x80"),
    "a symbol that is not UTF-8": b"\x0ev\0" + text(b"\xff"),
    "code that is not UTF-8": b"\x0dv\0" + text(b"\xff"),
    "code with a scope, not UTF-8": b"\x0fv\0" + struct.pack("<i", 4 + 6 + 5) + text(b"\xff") + framed(),
    "a scope with text that is not UTF-8": (
        b"\x0fv\0" + struct.pack("<i", 4 + 6 + 14) + text(b"f") + framed(b"\x02s\0" + text(b"\xff"))
    ),
    "a DBPointer that is not UTF-8": b"\x0cv\0" + text(b"\xff") + b"o" * 12,
    "a DBPointer": b"\x0cv\0" + text(b"c") + b"o" * 12,
    "a pattern that is not UTF-8": b"\x0bv\0\xff\0i\0",
    "a pattern with options that nobody knows": b"\x0bv\0a\0zq\0",
    "a field name that is not UTF-8": b"\x10caf\xe9\0" + struct.pack("<i", 5),
    "two field names that read alike": b"\x10\xff\0" + struct.pack("<i", 5) + b"\x10\xfe\0" + struct.pack("<i", 6),
    "a name within, not UTF-8": b"\x03v\0" + framed(b"\x10a\xff\0" + struct.pack("<i", 5), b"\x02t\0" + text(b"\xff")),
    "a field name twice": b"\x10twice\0" + struct.pack("<i", 5) + b"\x10twice\0" + struct.pack("<i", 6),
    "odd text in an array": b"\x04v\0" + framed(*[b"\x02%d\0" % n + text(b"\xff%d" % n) for n in range(6)]),
    "odd text among many": (
        b"\x04v\0" + framed(*[b"\x02%d\0" % n + text(b"\xff" if n == 700 else b"a") for n in range(999)])
    ),
    "names of an array that are none": b"\x04v\0" + framed(b"\x10\xff\0" + struct.pack("<i", 5)),
    "a decimal of no driver": b"\x13v\0" + b"\xff" * 16,
    "a decimal whose coefficient is too large": b"\x13v\0" + b"\xff" * 13 + b"\xff\x41\x30",
    "a NaN of another kind": b"\x01v\0" + b"\x01\0\0\0\0\0\xf8\xff",
    "a date beyond all years": b"\x09v\0" + b"\xff" * 7 + b"\x7f",
    "undefined": b"\x06v\0",
    "a reference to nothing": b"\x03v\0" + framed(b"\x02$ref\0" + text(b"c")),
    "a reference with a name of its own": (
        b"\x03v\0" + framed(b"\x02$ref\0" + text(b"c"), b"\x0a$id\0", b"\x10$db\0" + struct.pack("<i", 5))
    ),
    "a reference with dollars": (
        b"\x03v\0" + framed(b"\x02$ref\0" + text(b"c"), b"\x0a$id\0", b"\x02$foo\0" + text(b"x"))
    ),
    "a reference with an odd name": (
        b"\x03v\0" + framed(b"\x02$ref\0" + text(b"c"), b"\x0a$id\0", b"\x0a\xff\0")
    ),
    "a reference with an odd name within": (
        b"\x03v\0" + framed(b"\x02$ref\0" + text(b"c"), b"\x0a$id\0", b"\x03x\0" + framed(b"\x0a\xff\0"))
    ),
    "a reference to odd text": b"\x03v\0" + framed(b"\x02$ref\0" + text(b"c"), b"\x02$id\0" + text(b"\xff")),
    "a reference to an odd decimal": b"\x03v\0" + framed(b"\x02$ref\0" + text(b"c"), b"\x13$id\0" + b"\xff" * 16),
    "what looks like an opaque value": (
        b"\x03v\0" + framed(b"\x03$opaque\0" + framed(b"\x02type\0" + text(b"05"), b"\x02base64\0" + text(b"AA==")))
    ),
    "a stamp of another kind": b"\x02_sync\0" + text(b"\xff"),
    "a stamp with odd text": b"\x03_sync\0" + framed(b"\x12v\0" + struct.pack("<q", 7), b"\x02op\0" + text(b"\xff")),
    "names that mean something": (
        b"\x02operationType\0" + text(b"\xff") + b"\x03splitEvent\0" + framed(b"\x0afragment\0")
    ),
}  # fmt: skip
"""An element or some, each of which MongoDB stores, that a driver refuses or reads in its own way."""


def deep(levels: int = _DEEP) -> bytes:
    """An element that nests as deep as MongoDB lets a document."""
    element = b"\x020\0" + text(b"\xff")
    for level in range(levels):
        element = b"\x030\0" + framed(element) if level % 2 else b"\x040\0" + framed(element)
    return element


ODD_IDS: dict[str, bytes] = {
    "text": b"\x02_id\0" + text(b"caf\xe9"),
    "other text": b"\x02_id\0" + text(b"caf\xe8"),
    "binary": b"\x05_id\0" + struct.pack("<i", 3) + b"\x02abc",
    "a short UUID": b"\x05_id\0" + struct.pack("<i", 3) + b"\x04abc",
    "within": b"\x03_id\0" + framed(b"\x02t\0" + text(b"\xff")),
    "an array with names of its own": (
        b"\x03_id\0" + framed(b"\x04v\0" + framed(b"\x107\0\1\0\0\0", b"\x10x\0\2\0\0\0"))
    ),
    "what MongoDB finds behind it": (
        b"\x03_id\0" + framed(b"\x03v\0" + framed(b"\x02$ref\0" + text(b"a\0b"), b"\x10$id\0\1\0\0\0"))
    ),
    "undefined within": b"\x03_id\0" + framed(b"\x06v\0"),
    "a reference of no text": b"\x03_id\0" + framed(b"\x02$ref\0" + text(b"\xff"), b"\x10$id\0\1\0\0\0"),
    "a name": b"\x03_id\0" + framed(b"\x02\xff\0" + text(b"\xff")),
    "a decimal NaN of no driver": b"\x13_id\0" + b"\xff" * 16,
}
"""Ids that MongoDB stores."""

_LEAVES: tuple[Any, ...] = (
    "text", "é", 5, Int64(5), 1.5, float("nan"), True, None, b"abc", Binary(b"abcdef", 2), uuid.UUID(int=5),
    Binary(b"x" * 16, 3), ObjectId("0123456789abcdef01234567"), datetime(2026, 1, 1, tzinfo=UTC), Decimal128("1.10"),
    Regex("a", "i"), Timestamp(1, 2), Code("f"), Code("f", {"a": Int64(1)}), DBRef("c", 1), DBRef("c", 1, "d", x="y"),
    MinKey(), MaxKey(), [1, "a", {"b": "c"}], {"a": {"b": [Int64(1), "x"]}}, {"$x": 1}, [],
)  # fmt: skip


def mutants(seed: int, key: bytes) -> Iterator[bytes]:
    """Documents without end that begin with the element `key`: BSON of every type in which some bytes are others.

    Many are none that MongoDB takes.
    """
    choose = random.Random(seed)
    while True:
        fields = {name: choose.choice(_LEAVES) for name in choose.sample("abcdefgh", choose.randrange(1, 6))}
        body = bytearray(bson.encode(fields, codec_options=CODEC)[4:-1])
        for _ in range(choose.choice([1, 1, 1, 2, 3])):
            body[choose.randrange(len(body))] = choose.choice([0, 1, 2, 4, 0x24, 0xFF, choose.randrange(256)])
        if choose.random() < 0.2:
            body += choose.choice(list(ODD.values()))
        yield framed(key, bytes(body))

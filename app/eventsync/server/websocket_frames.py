"""WebSocket frames as a server sends them: unmasked, whole. Source: RFC 6455 section 5.2."""

from __future__ import annotations

import struct


def text_head(size: int) -> bytes:
    """Return the head of a text frame of `size` bytes."""
    if size < 126:
        return struct.pack("!BB", 0x81, size)
    if size < 1 << 16:
        return struct.pack("!BBH", 0x81, 126, size)
    return struct.pack("!BBQ", 0x81, 127, size)


def text_frame(data: bytes) -> bytes:
    """Return a text frame."""
    return text_head(len(data)) + data


def close_frame(code: int, reason: str) -> bytes:
    """Return a close frame; a reason that is too long is cut."""
    payload = struct.pack("!H", code) + close_reason(reason).encode()
    return struct.pack("!BB", 0x88, len(payload)) + payload


def close_reason(text: str) -> str:
    """Cut a reason to what fits: a control frame holds 125 bytes, two of them the code (section 5.5)."""
    return text.encode()[:120].decode(errors="ignore")

"""Wire formats of the benchmarks' clients."""

from __future__ import annotations

import pytest

from scripts.bench.crowd.wire import CLOSE, TEXT, Frames, Lines, Response, WireError, client_frame
from scripts.bench.peers import frames


def _pieces(data: bytes, size: int) -> list[bytes]:
    return [data[start : start + size] for start in range(0, len(data), size)]


@pytest.mark.parametrize("size", [1, 3, 1000, 10**6])
def test_frames_are_the_same_however_they_are_cut(size: int) -> None:
    payloads = [b"", b"x" * 125, b"y" * 126, b"z" * 70_000]
    data = b"\x81\x00" + b"\x81\x7d" + payloads[1] + b"\x81\x7e\x00\x7e" + payloads[2]
    data += b"\x81\x7f" + (70_000).to_bytes(8, "big") + payloads[3] + b"\x88\x02\x11\x97"
    cut = Frames()
    found = [frame for piece in _pieces(data, size) for frame in cut.feed(piece)]
    assert found == [*((TEXT, payload) for payload in payloads), (CLOSE, (4503).to_bytes(2, "big"))]


def test_a_frame_of_any_length_is_one_frame() -> None:
    payloads = [b"x" * size for size in (0, 125, 126, 65_535, 65_536)]
    cut = Frames().feed(b"".join(map(frames.text_frame, payloads)))
    assert list(cut) == [(TEXT, payload) for payload in payloads]


def test_a_fragment_is_refused() -> None:
    with pytest.raises(WireError, match="fragment"):
        list(Frames().feed(b"\x01\x01x"))


def test_a_clients_frame_is_masked_with_nothing() -> None:
    assert client_frame(TEXT, b"hi") == b"\x81\x82\x00\x00\x00\x00hi"
    assert client_frame(TEXT, b"x" * 200)[:4] == b"\x81\xfe\x00\xc8"


@pytest.mark.parametrize("size", [1, 7, 1000])
def test_a_chunked_response_is_the_same_however_it_is_cut(size: int) -> None:
    data = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\nc\r\ndefghijklmno\r\n0\r\n\r\n"
    response = Response()
    body = b"".join(response.feed(piece) for piece in _pieces(data, size))
    assert (response.status, response.complete, body) == (200, True, b"abcdefghijklmno")


def test_a_response_with_a_length_is_given_as_a_whole() -> None:
    response = Response()
    assert response.feed(b"HTTP/1.1 503 Service Unavailable\r\nRetry-After: 2\r\nContent-Length: 4\r\n\r\nno") == b""
    assert (response.status, response.headers["retry-after"], response.complete) == (503, "2", False)
    assert response.feed(b"pe") == b"nope"
    assert response.complete


def test_what_follows_an_upgrade_is_kept() -> None:
    response = Response()
    response.feed(b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n\r\n\x81\x00")
    assert (response.status, response.rest()) == (101, b"\x81\x00")


@pytest.mark.parametrize("size", [1, 5, 1000])
def test_of_an_event_stream_the_data_is_left(size: int) -> None:
    data = b"retry: 1000\nevent: live\nid: a\ndata: {1}\n\nevent: none\n\nevent: x\ndata: {2}\n\nevent: half\ndata: {"
    lines = Lines()
    assert [event for piece in _pieces(data, size) for event in lines.feed(piece)] == [b"{1}", b"{2}"]

"""Wire formats of the benchmarks' clients."""

from __future__ import annotations

import pytest
from websockets.frames import Frame, Opcode

from scripts.bench.clients.wire import CLOSE, TEXT, Frames, Lines, Response, WireError, client_frame


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
    cut = Frames().feed(b"".join(Frame(Opcode.TEXT, payload).serialize(mask=False) for payload in payloads))
    assert list(cut) == [(TEXT, payload) for payload in payloads]


def test_a_fragment_is_refused() -> None:
    with pytest.raises(WireError, match="fragment"):
        list(Frames().feed(b"\x01\x01x"))


def test_a_clients_frame_is_masked() -> None:
    assert client_frame(TEXT, b"hi")[:2] == b"\x81\x82"


@pytest.mark.parametrize("size", [1, 7, 1000])
def test_a_chunked_response_is_the_same_however_it_is_cut(size: int) -> None:
    data = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\nc\r\ndefghijklmno\r\n0\r\n\r\n"
    response = Response()
    body = b"".join(response.feed(piece) for piece in _pieces(data, size))
    assert (response.status, response.complete, body) == (200, True, b"abcdefghijklmno")


def test_a_response_with_a_length_is_complete_after_it() -> None:
    response = Response()
    assert response.feed(b"HTTP/1.1 503 Service Unavailable\r\nRetry-After: 2\r\nContent-Length: 4\r\n\r\nno") == b"no"
    assert (response.status, response.headers["retry-after"], response.complete) == (503, "2", False)
    assert response.feed(b"pe") == b"pe"
    assert response.complete


def test_a_response_without_a_body_is_complete_after_its_head() -> None:
    response = Response()
    response.feed(b'HTTP/1.1 204 No Content\r\nETag: "1"\r\n\r\n')
    assert (response.status, response.complete) == (204, True)


def test_the_next_byte_begins_a_chunk_only_after_a_whole_one() -> None:
    response, seen = Response(), []
    for piece in (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", b"3\r\nabc\r\n", b"3", b"\r\nab", b"c\r\n"):
        response.feed(piece)
        seen.append(response.is_between)
    assert seen == [True, True, False, False, True]


def test_bytes_that_are_no_response_are_refused() -> None:
    with pytest.raises(WireError, match="no response"):
        Response().feed(b"SMTP/1.1 200 OK\r\n\r\n")


def test_bytes_after_an_upgrade_are_kept() -> None:
    response = Response()
    response.feed(b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n\x81\x00")
    assert (response.status, response.rest) == (101, b"\x81\x00")


@pytest.mark.parametrize("size", [1, 5, 1000])
def test_an_event_stream_is_reduced_to_its_data(size: int) -> None:
    data = b"retry: 1000\nevent: live\nid: a\ndata: {1}\n\nevent: none\n\nevent: x\ndata: {2}\n\nevent: half\ndata: {"
    lines = Lines()
    assert [event for piece in _pieces(data, size) for event in lines.feed(piece)] == [b"{1}", b"{2}"]

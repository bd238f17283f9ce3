"""`/v1/collections…`: reading and writing single documents, and listing them."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import quote

import orjson
from starlette.requests import Request
from starlette.responses import Response

from eventsync.access.access import Access
from eventsync.api import conditions, time_travel
from eventsync.api.bodies import JSON_PATCH, MERGE_PATCH, Body, read_json
from eventsync.api.endpoint import AccessLevel, Endpoint
from eventsync.api.paths import root_of, segment
from eventsync.api.permissions import Permissions, require_visible_paths
from eventsync.api.responses import JSON, NO_STORE
from eventsync.api.state import access_of, services_of
from eventsync.api.time_travel import no_document
from eventsync.concurrency.held_bytes import need
from eventsync.domain.ids import MAX_READ_BYTES, format_id, parse_id, pointer_of
from eventsync.domain.positions import Position
from eventsync.domain.predicates.declarations import filter_of_tree
from eventsync.domain.predicates.definitions import Definition
from eventsync.domain.predicates.predicate import Predicate, compile_filter
from eventsync.domain.predicates.routed_shape import is_shape_name
from eventsync.domain.shapes import Shape
from eventsync.domain.values.extended_json import JsonText, parse_json, to_json
from eventsync.errors import InvalidPredicate, Malformed, TooComplex
from eventsync.nodestorage import (
    BY_ID,
    Edit,
    JsonDocument,
    JsonPatch,
    MergePatch,
    Node,
    PageEnd,
    Sort,
    Visible,
    WriteResult,
)
from eventsync.server.sized_response import Parts
from eventsync.stores.history.past_pages import PastCursor
from eventsync.sync.catch_up.binder import is_guessable

_LISTING: Final = ("after", "limit", "filter", "sort", "shape", "at", "position")
"""The query parameters of a listing. Beside `shape`, others are parameters of that shape."""

_MAX_SKIP: Final = 10_000
"""Most documents that a page skips. MongoDB reads each of them, 1 µs if it is in memory."""

_MAX_PAST: Final = 100
"""Most documents of a page of the past: each has to be replayed."""

_BODY_WEIGHT = 3
"""Memory of an event in a history page, as a multiple of its body: read, cached and in the response."""


async def collections(request: Request) -> Response:
    """List the tracked collections, those that can't be tracked with the reason, and the shapes that are active.

    Only those that the principal may read something of. The reasons are for operators.
    """
    sync, access = services_of(request).sync, access_of(request)
    tracking = sync.tracking
    names = [name for name in tracking.names if access.is_open or access.grant(name) is not None]
    body: dict[str, Any] = {"collections": [{"name": name} for name in names]}
    if tracking.refused and access.is_operator:
        body["refused"] = [{"name": name, "reason": reason} for name, reason in sorted(tracking.refused.items())]
    if definitions := [found for found in sync.definitions.active() if _is_listed(found, names, access)]:
        body["shapes"] = [
            {
                "name": definition.name,
                "collection": definition.collection,
                "parameters": {name: sorted(kinds) for name, kinds in definition.types.items()},
            }
            | ({"lists": sorted(definition.lists)} if definition.lists else {})
            for definition in definitions
        ]
    return Response(to_json(body), headers=NO_STORE, media_type=JSON)


def _is_listed(definition: Definition, collections: Collection[str], access: Access) -> bool:
    """Return True for a declared shape of one of the collections that can be followed, and not for a part of a rule."""
    if definition.collection not in collections or not is_shape_name(definition.name):
        return False
    grant = access.grant(definition.collection)
    return grant is not None and not is_guessable(definition, grant.redaction)


class ListingEndpoint(Endpoint):
    """The endpoint of listings. Beside `shape`, other parameters are those of the shape."""

    def check_query(self, request: Request) -> None:
        if "shape" not in request.query_params:
            super().check_query(request)


async def listing(request: Request) -> Response:
    """List documents in the order of their ids, or those of a filter in any order, a page at a time."""
    services = services_of(request)
    collection = segment(request, "collection")
    visible = Permissions(request).visible(collection)
    limit = conditions.page_size(request)
    if not {"at", "position"}.isdisjoint(request.query_params):
        return await _past(request, collection, visible, min(limit, _MAX_PAST))
    if not {"filter", "shape", "sort"}.isdisjoint(request.query_params):
        return await _found(request, collection, visible, limit)
    cursor = PageCursor.parse(request.query_params.get("after"))
    page = await services.storage.page(
        collection,
        after=cursor.after,
        skip=cursor.skip,
        limit=limit,
        max_bytes=services.settings.page_bytes,
        encoded=True,
        visible=visible,
    )
    body: dict[str, Any] = {"documents": [_row(node) for node in page.nodes]}
    if page.more:
        body["next"] = str(cursor.moved(page.passed))
    return Response(to_json(body), headers=NO_STORE, media_type=JSON)


async def _past(request: Request, collection: str, visible: Visible | None, limit: int) -> Response:
    """List the documents as they were at a point, each compared with what it is now."""
    services, query = services_of(request), request.query_params
    point = time_travel.requested_point(request)
    if point is None or not {"filter", "shape", "sort"}.isdisjoint(query):
        raise Malformed("at and position list a whole collection: without filter, shape and sort")
    after = PastCursor.parse(query["after"]) if "after" in query else None
    page = await services.time_travel.page(
        collection, point, after, limit=limit, max_bytes=services.settings.page_bytes, visible=visible
    )
    body: dict[str, Any] = {
        "position": str(page.position),
        "compared_with": str(page.head),
        "documents": [JsonText(row) for row in page.rows],
    }
    if page.end is not None:
        body["next"] = str(page.end)
    return Response(to_json(body), headers=NO_STORE, media_type=JSON)


async def _found(request: Request, collection: str, visible: Visible | None, limit: int) -> Response:
    services, query = services_of(request), request.query_params
    sort = Sort.parse(query["sort"]) if "sort" in query else BY_ID
    where = _filter(query["filter"]) if "filter" in query else None
    route = _shape(request, collection).route if "shape" in query else None
    if visible is not None:
        require_visible_paths(visible.redaction, () if where is None else where.paths, "filter")
        require_visible_paths(visible.redaction, (path for path, _ in sort.fields), "sort")
    page = await services.storage.query(
        collection,
        route=route,
        where=where,
        visible=visible,
        sort=sort,
        after=PageEnd.parse(query["after"], sort) if "after" in query else None,
        limit=limit,
        max_bytes=services.settings.page_bytes,
    )
    body: dict[str, Any] = {"documents": [_row(node) for node in page.nodes]}
    if page.end is not None:
        body["next"] = str(page.end)
    return Response(to_json(body), headers=NO_STORE, media_type=JSON)


def _shape(request: Request, collection: str) -> Shape:
    """Return the declared shape that `?shape=my_cards&board=7` names, which has to be a part of the collection."""
    given = request.query_params.multi_items()
    for name in _LISTING:
        if sum(key == name for key, _ in given) > 1:
            raise Malformed(f"the query parameter {name} is given twice; once is enough")
    name, _, parameters = request.query_params["shape"].partition("?")
    pairs = [f"{quote(key)}={quote(value)}" for key, value in given if key not in _LISTING]
    asked = Shape.parse(f"{name}?{'&'.join(filter(None, [parameters, *pairs]))}")
    shape = services_of(request).sync.source.bind(asked, access_of(request))
    if shape.collection != collection:
        raise Malformed(f"the shape {name} is a part of {shape.collection}, and not of {collection}")
    return shape


def _filter(text: str) -> Predicate:
    """Read the value of `filter`. Raises `InvalidPredicate`."""
    try:
        tree = parse_json(text.encode("utf-8", "surrogatepass"))
    except Malformed as error:
        raise InvalidPredicate("filter", error.message.removeprefix("the body ")) from error
    try:
        return compile_filter(filter_of_tree(tree))
    except InvalidPredicate as problem:
        raise problem.within("filter") from problem


async def create(request: Request) -> Response:
    collection, permissions = segment(request, "collection"), Permissions(request)
    permissions.require(collection)
    body = await read_json(request, JSON)
    author, idempotency = conditions.authorship(request, permissions, body.raw, collection)
    document = JsonDocument(body.content)
    services = services_of(request)
    with services.writes.admitted():
        result = await services.storage.create(collection, document, author=author, idempotency=idempotency)
    return answer(request, collection, result)


async def read(request: Request) -> Response:
    """Read a document, at a point of its history if the query names one."""
    permissions = Permissions(request)
    collection, value = _target(request, permissions)
    visible = permissions.visible(collection)
    if (point := time_travel.requested_point(request)) is not None:
        return await time_travel.read_at(request, Shape(collection, format_id(value)), point, visible)
    node = await services_of(request).storage.get(collection, value, None if visible is None else visible.guard)
    if node is None:
        raise no_document(collection, value)
    # `no-cache`: a client may store the response, and must revalidate it by its tag.
    headers = {"ETag": node.etag, "Cache-Control": "no-cache"}
    if conditions.unchanged(request, headers["ETag"], node.version):
        return Response(status_code=304, headers=headers)
    if not isinstance(node.document, JsonText):
        return Response(to_json(_row(node)), headers=headers, media_type=JSON)
    # In pieces: copying a document of 90 MiB into a row would take 50 ms.
    begin = to_json({"id": format_id(node.id), "version": node.version})[:-1] + b',"doc":'
    return Parts([begin, node.document.text, b"}"], headers, JSON)


async def replace(request: Request) -> Response:
    permissions = Permissions(request)
    collection, value = _target(request, permissions)
    body = await read_json(request, JSON)
    author, idempotency = conditions.authorship(request, permissions, body.raw, collection)
    condition, document = conditions.of_write(request), JsonDocument(body.content)
    services = services_of(request)
    with services.writes.admitted():
        result = await services.storage.replace(
            collection, value, document, upsert=True, condition=condition, author=author, idempotency=idempotency
        )
    return answer(request, collection, result)


async def patch(request: Request) -> Response:
    permissions = Permissions(request)
    collection, value = _target(request, permissions)
    body = await read_json(request, JSON_PATCH, MERGE_PATCH)
    author, idempotency = conditions.authorship(request, permissions, body.raw, collection)
    condition, edit = conditions.of_write(request), _edit(body)
    services = services_of(request)
    with services.writes.admitted():
        result = await services.storage.find_one_and_update(
            collection, value, edit, condition=condition, author=author, idempotency=idempotency
        )
    return answer(request, collection, result)


async def delete(request: Request) -> Response:
    permissions = Permissions(request)
    collection, value = _target(request, permissions)
    author, idempotency = conditions.authorship(request, permissions, b"", collection)
    condition = conditions.of_write(request)
    services = services_of(request)
    with services.writes.admitted():
        result = await services.storage.delete(
            collection, value, condition=condition, author=author, idempotency=idempotency
        )
    return answer(request, collection, result)


async def history(request: Request) -> Response:
    """List a document's events in order, a page at a time."""
    services = services_of(request)
    permissions = Permissions(request)
    collection, value = _target(request, permissions)
    shape = Shape(collection, format_id(value))
    visible = permissions.visible(collection)
    if visible is not None and visible.filter is not None:
        await time_travel.require_readable(request, shape, visible)
    after = request.query_params.get("after")
    page = await services.sync.pages.history(
        shape,
        access_of(request),
        after_version=conditions.number(request, "after_version", default=0, low=0, high=2**62),
        after=None if after is None else Position.parse_in_log(after),
        limit=conditions.page_size(request),
        max_bytes=services.settings.page_bytes,
    )
    need(_BODY_WEIGHT * sum(map(len, page.bodies)))
    following = b"" if page.end is None else b',"next":' + to_json(str(page.end))
    kept = b',"since":' + to_json(str(page.since)) if page.since.seq else b""
    body = b'{"events":[%b]%b%b}' % (b",".join(page.bodies), following, kept)
    return Response(body, headers=NO_STORE, media_type=JSON)


def answer(request: Request, collection: str, result: WriteResult) -> Response:
    """Build the response to a write of one document."""
    headers = dict(NO_STORE)
    if result.etag is not None:
        headers["ETag"] = result.etag
    # Not of a document that its author may not read.
    if result.created and not result.withheld:
        path = f"/v1/collections/{quote(collection, safe='')}/documents/{quote(result.id, safe=':')}"
        headers["Location"] = root_of(request.scope) + path
    body = written(result, minimal=conditions.wants_minimal(request))
    return Response(to_json(body), 201 if result.created else 200, headers, JSON)


def written(result: WriteResult, *, minimal: bool) -> dict[str, Any]:
    """Return the body of the response to a write."""
    body: dict[str, Any] = {"id": result.id, "version": result.version}
    if result.withheld:
        # The author may not read the document afterwards.
        return body
    if result.replayed:
        # Document and patch of the first response are not stored.
        return body | {"repeated": True}
    return body if minimal else body | {"doc": result.document, "patch": result.patch}


def written_item(result: WriteResult, *, minimal: bool) -> dict[str, Any]:
    """Return one of several results. It has its entity tag, because the response has only one `ETag` header."""
    body = written(result, minimal=minimal)
    return body if result.etag is None else body | {"etag": result.etag}


def _edit(body: Body) -> Edit:
    return JsonPatch(body.content) if body.media_type == JSON_PATCH else MergePatch(body.content)


def _row(node: Node) -> dict[str, Any]:
    return {"id": format_id(node.id), "version": node.version, "doc": node.document}


def _target(request: Request, permissions: Permissions) -> tuple[str, Any]:
    """Return the collection and the id in the path. Raises `Malformed` and `NotTracked`."""
    collection = segment(request, "collection")
    permissions.require(collection)
    return collection, parse_id(segment(request, "id"))


@dataclass(frozen=True, slots=True)
class PageCursor:
    """The end of a page of documents: behind the id `text` (None: before all ids) and `skip` further documents.

    `next` returns it, and `after` accepts it. It is the id of the page's last document. If no text names that id
    exactly, it is an earlier id and the number of documents behind that, `ejson:[2,"abc"]`, which can't be an id.
    """

    text: str | None = None
    skip: int = 0

    @property
    def after(self) -> Any | None:
        """Return the id; None before all ids. Raises `Malformed`."""
        return None if self.text is None else parse_id(self.text)

    def __str__(self) -> str:
        if self.text is not None and not self.skip:
            return self.text
        return "ejson:" + orjson.dumps([self.skip, self.text]).decode()

    @classmethod
    def parse(cls, text: str | None) -> PageCursor:
        """Read the value of `after`. Raises `Malformed`."""
        if text is None or not text.startswith("ejson:["):
            return cls(text)
        match parse_json(text.removeprefix("ejson:").encode()):
            case [int(skip), None | str() as base] if 0 <= skip <= _MAX_SKIP and not isinstance(skip, bool):
                return cls(base, skip)
        raise Malformed("after takes what `next` gave, or an id")

    def moved(self, ids: Iterable[Any]) -> PageCursor:
        """Return the cursor behind the documents with these ids, which are next. Raises `TooComplex`."""
        text, skip = self.text, self.skip
        for value in ids:
            text, skip = (format_id(value), 0) if _is_exact(value) else (text, skip + 1)
        if skip > _MAX_SKIP:
            raise TooComplex(
                f"over {_MAX_SKIP} documents follow each other that no text names: list the collection with sort=_id"
            )
        return PageCursor(text, skip)


def _is_exact(value: Any) -> bool:
    """Return True if the text of an id leads back to its place in the order."""
    # None would be before all ids. The text of a reference may stand for a DBPointer, which has another place.
    return value is not None and pointer_of(value) is None and len(format_id(value).encode()) <= MAX_READ_BYTES


_DOCUMENTS = "/v1/collections/{collection}/documents"

# The writes come first. Starlette compares the path with one route after the other, 1 µs each.
routes = [
    Endpoint(_DOCUMENTS + "/{id}", patch, methods=["PATCH"], access=AccessLevel.PRINCIPAL, tagged=True, writes=True),
    Endpoint(_DOCUMENTS + "/{id}", replace, methods=["PUT"], access=AccessLevel.PRINCIPAL, tagged=True, writes=True),
    Endpoint(_DOCUMENTS, create, methods=["POST"], access=AccessLevel.PRINCIPAL, writes=True),
    Endpoint(_DOCUMENTS + "/{id}", delete, methods=["DELETE"], access=AccessLevel.PRINCIPAL, tagged=True, writes=True),
    Endpoint(
        _DOCUMENTS + "/{id}",
        read,
        methods=["GET"],
        access=AccessLevel.PRINCIPAL,
        query=("version", "at", "position"),
        tagged=True,
    ),
    ListingEndpoint(_DOCUMENTS, listing, methods=["GET"], access=AccessLevel.PRINCIPAL, query=_LISTING),
    Endpoint(
        _DOCUMENTS + "/{id}/events",
        history,
        methods=["GET"],
        access=AccessLevel.PRINCIPAL,
        query=("after_version", "after", "limit"),
    ),
    Endpoint("/v1/collections", collections, methods=["GET"], access=AccessLevel.PRINCIPAL),
]

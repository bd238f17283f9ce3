"""`/v1/admin/access`: the shapes and rules in force, refusals, and what a given principal sees of a document."""

from __future__ import annotations

from typing import Any, Final

import orjson
from starlette.requests import Request
from starlette.responses import Response

from eventsync.access.access import Access
from eventsync.access.audit import record_action
from eventsync.api.bodies import read_small
from eventsync.api.endpoint import AccessLevel, Endpoint
from eventsync.api.responses import JSON, NO_STORE
from eventsync.api.state import Services, access_of, services_of
from eventsync.domain.access.explanations import explained
from eventsync.domain.access.principal import Principal
from eventsync.domain.access.rules import AccessRules
from eventsync.domain.ids import parse_id
from eventsync.domain.predicates.routed_shape import is_shape_name
from eventsync.domain.shapes import Shape
from eventsync.domain.values.extended_json import Document, to_json
from eventsync.errors import Conflict, Malformed, NotFound, Unauthenticated
from eventsync.mongodb.errors import translated
from eventsync.nodestorage import stored_node
from eventsync.stores.log.registry import DeclaredShape

_BODY: Final = 64 * 1024
_MAX_DOCUMENT: Final = 256 * 1024
"""Most bytes of a document that is explained: its rules are evaluated on the event loop."""

_FIELDS: Final = frozenset({"shape", "token", "claims", "roles"})


async def read(request: Request) -> Response:
    """Respond with the rules and declared shapes in force, and with the refusals of all servers."""
    services = services_of(request)
    rules, definitions = services.access.rules, services.sync.definitions
    body: dict[str, Any] = {
        "answered_by": services.reports.process.name,
        "rules": None if rules is None else _rules(rules),
        "shapes": [_shape(shape, services) for shape in definitions.declared if is_shape_name(shape.name)],
        "refusals": await services.reports.refusals(),
    }
    return Response(to_json(body), headers=NO_STORE, media_type=JSON)


def _rules(rules: AccessRules) -> dict[str, Any]:
    tree = orjson.loads(rules.spec)
    # Of an issuer its name: where its keys are is nobody's concern.
    return {
        "issuers": [issuer.iss for issuer in rules.auth.issuers],
        "roles": tree["roles"],
        "collections": tree["collections"],
    }


def _shape(shape: DeclaredShape, services: Services) -> dict[str, Any]:
    is_active = services.sync.definitions.is_active(shape.name)
    tree = {
        "name": shape.name,
        "collection": shape.collection,
        "spec": orjson.loads(shape.spec),
        "state": "active" if is_active else "refused" if shape.refused else "waiting",
    }
    return tree | ({"reason": shape.refused} if shape.refused else {})


async def explain(request: Request) -> Response:
    """Say what a principal may do with a document or in a collection, why, and what it sees of the document.

    The principal is that of a `token`, or is made of `claims` and `roles`.
    """
    services = services_of(request)
    tree = await read_small(request, _BODY)
    if not isinstance(tree, dict) or not tree.keys() <= _FIELDS or not isinstance(tree.get("shape"), str):
        raise Malformed('the body is {"shape": "orders/42", "token": "…"}, or claims and roles in place of the token')
    shape, rules = Shape.parse(tree["shape"]), services.access.rules
    if shape.declared is not None:
        raise Malformed("shape is a collection or a document here")
    if rules is None:
        raise Conflict("no [auth] has been applied: everything is allowed to everybody")
    principal = await _principal(tree, services)
    document = None if shape.id is None else await _document(services, shape)
    found = explained(rules, principal, shape.name, document)
    if document is not None:
        found["seen"] = rules.guard(principal, shape.name).shown(document)
    record_action(access_of(request).principal, "explain", f"{shape} for {principal.sub}")
    return Response(to_json(found), headers=NO_STORE, media_type=JSON)


async def _principal(tree: dict[str, Any], services: Services) -> Principal:
    """Return the principal of the body. Raises `Malformed`, `RateLimited` and `Unavailable`."""
    if (token := tree.get("token")) is not None:
        if not isinstance(token, str) or "claims" in tree or "roles" in tree:
            raise Malformed("token is a text, and stands alone")
        # From no address: an operator's attempts are no attack.
        try:
            access: Access = await services.access.authenticate(token)
        except Unauthenticated as error:
            # Not 401: the credential of the request itself is good.
            raise Malformed(f"token is not accepted: {error.message}") from error
        return access.principal
    claims, roles = tree.get("claims", {}), tree.get("roles", [])
    if not isinstance(claims, dict) or not isinstance(claims.get("sub", ""), str):
        raise Malformed("claims is an object, of which `sub` is a text")
    if not isinstance(roles, list) or not all(isinstance(role, str) for role in roles):
        raise Malformed("roles is a list of texts")
    return Principal(claims.get("sub", ""), claims, frozenset(roles))


async def _document(services: Services, shape: Shape) -> Document:
    """Return a document. Raises `NotFound`, `TooLarge` and `Unavailable`."""
    services.sync.tracking.require(shape.name)
    with translated(f"a document of {shape.name} can't be read"):
        node = await stored_node(services.stores.data, shape.name, parse_id(str(shape.id)), _MAX_DOCUMENT)
    if node is None:
        raise NotFound(f"there is no document {shape}")
    found: Document = node.document
    return found


routes = [
    Endpoint("/v1/admin/access", read, methods=["GET"], access=AccessLevel.OBSERVER, name="admin_access"),
    Endpoint("/v1/admin/access/explain", explain, methods=["POST"], access=AccessLevel.OPERATOR),
]

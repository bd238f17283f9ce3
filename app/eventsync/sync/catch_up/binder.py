"""Binding: from the shape that a client asks for to what its principal sees of it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import partial
from typing import Any

from eventsync.access.access import Access
from eventsync.access.audit import NOT_GRANTED
from eventsync.domain.access.claims import UnusableClaim, list_of, scalar_of
from eventsync.domain.access.grants import ReadGrant, RulePart
from eventsync.domain.access.redaction import Redaction
from eventsync.domain.names import not_readable
from eventsync.domain.positions import Seq
from eventsync.domain.predicates.definitions import Definition, Route
from eventsync.domain.predicates.routed_shape import RoutedShape
from eventsync.domain.shapes import InvalidShape, Shape
from eventsync.domain.views import Clause, View
from eventsync.errors import Forbidden, Malformed, NotTracked, Unavailable, UnknownShape
from eventsync.stores.log.definitions import ActiveDefinition, Definitions, Fill
from eventsync.stores.log.tracking import Tracking


def forbidden(shape: Shape) -> Forbidden:
    """Return the error for a shape that a principal may read nothing of. It is the same if there is no such shape."""
    return Forbidden(f"{shape} is not there, or you may not read it", reason=NOT_GRANTED)


class Binder:
    """Binds shapes by the definitions that are active, and by the rules that an access obeys. Closed while in doubt."""

    def __init__(self, tracking: Tracking, definitions: Definitions) -> None:
        self._tracking = tracking
        self._definitions = definitions

    def bind(self, shape: Shape, access: Access) -> Shape:
        """Return a shape with its route, or with its view if the principal may not see all of it.

        Raises the error of an `InvalidShape`; `Forbidden` if it may read nothing, also of a shape that does not exist;
        else `NotTracked`, `UnknownShape`, `InvalidPredicate` for its parameters, and `Unavailable` while its
        collection, its definition or that of a rule is not active yet.
        """
        if isinstance(shape, InvalidShape):
            raise shape.error
        if access.is_open:
            return self._whole(shape)
        collection = shape.name if shape.declared is None else self._definitions.collection_of(shape.name)
        # An operator learns that there is no such shape. To all others it is like one that they may not read.
        if collection is None and access.is_operator:
            return self._whole(shape)
        grant = None if collection is None else access.grant(collection)
        if grant is None or not (grant.everything or grant.parts):
            raise forbidden(shape)
        try:
            whole = self._whole(shape, partial(_filled, claims=access.principal.rule_claims))
        except NotTracked as error:
            # The reason and the remedy are for operators.
            raise error if access.is_operator else NotTracked(not_readable(str(collection))) from error
        if not grant.everything or grant.redaction is not None or _is_filled(whole):
            return self._seen(whole, grant)
        return whole

    def is_same(self, shape: Shape, by: Access, now: Access) -> bool:
        """Return True if a shape that was bound by one access is surely the same by the one in place of it."""
        # The same grant, claims and activations make the same view.
        return (
            shape.route is not None and now.has_grant_of(by, shape.collection) and self._definitions.is_current(shape)
        )

    def _whole(self, shape: Shape, fill: Fill | None = None) -> Shape:
        """Return a shape as those see it who may see everything. `fill` adds the parameters that are claims."""
        if shape.declared is None:
            try:
                self._tracking.require(shape.name)
            except NotTracked as error:
                raise self._definitions.not_a_collection(shape.name) or error from error
            return shape if shape.route is None else Shape(shape.name, shape.id)
        # A declared shape is not bound without an active collection.
        return self._definitions.bind(shape, fill)

    def _seen(self, shape: Shape, grant: ReadGrant) -> Shape:
        """Return a shape with the view that a grant makes of it."""
        conditions, activations = [], list[tuple[str, int]]()
        since = self._tracking.tracked_from(shape.collection)
        if (route := shape.route) is not None:
            _check_parameters(shape, grant.redaction)
            conditions.append(Clause.of([route]))
            activations += route.activations
            since = Seq(max(since, route.since))
        for name, active in self._active(grant.parts):
            activations.append((name, active.shape.revision))
            since = Seq(max(since, active.since))
        if not grant.everything:
            conditions.append(Clause.of(grant.parts))
        view = View.of(str(shape), shape.collection, conditions, grant.redaction, since=since, activations=activations)
        return Shape(shape.name, shape.id, shape.declared, view)

    def _active(self, parts: Iterable[RulePart]) -> Iterable[tuple[str, ActiveDefinition]]:
        """Yield the definition of each part, with its activation. Raises `Unavailable` if one is not active."""
        for part in parts:
            try:
                active = self._definitions.resolve(part.name)
            except UnknownShape as error:
                # Servers learn of rules before they learn of the definitions that the rules are made of.
                raise _inactive(part) from error
            if active.shape.digest != part.definition.digest.hex():
                raise _inactive(part)
            yield part.name, active


def _filled(definition: Definition, declared: RoutedShape, claims: Mapping[str, Any]) -> RoutedShape:
    """Return a shape with the values that its definition takes from claims.

    Raises `Forbidden` for a claim that is missing or unusable, and if the client gives another value.
    """
    values, given = declared.parameters(), dict(declared.values)
    try:
        for name, path in definition.claims.items():
            values[name] = list_of(claims, path) if name in definition.lists else [scalar_of(claims, path)]
        filled = RoutedShape.of(declared.name, values)
    except (Malformed, UnusableClaim) as error:
        text = f"{declared} takes a value from a claim that you don't have, or that is no value for it"
        raise Forbidden(text, reason="claim") from error
    for name, texts in filled.values:
        if not texts or given.get(name, texts) != texts:
            raise Forbidden(f"{name} of {declared} is a claim, and not what you ask for", reason="claim")
    return filled


def _is_filled(shape: Shape) -> bool:
    """Return True if a shape means something else to those who have other claims. So its text is no name of it."""
    return isinstance(shape.route, Route) and shape.route.shape != shape.declared


def _check_parameters(shape: Shape, redaction: Redaction | None) -> None:
    """Raise `Forbidden` for a declared shape with a parameter at a hidden path: its value could be found by trying."""
    if not isinstance(shape.route, Route):
        return
    if is_guessable(shape.route.definition, redaction):
        raise Forbidden(f"{shape} has a parameter at a path that is hidden from you", reason="hidden")


def is_guessable(definition: Definition, redaction: Redaction | None) -> bool:
    """Return True for a declared shape with a parameter at a hidden path that clients give a value."""
    return redaction is not None and any(
        redaction.hides(path)
        for branch in definition.branches
        for name, path in zip(definition.types, branch.paths, strict=True)
        if name not in definition.claims
    )


def _inactive(part: RulePart) -> Unavailable:
    return Unavailable(
        f"the read rules of {part.definition.collection} are about to become active: is a worker running?"
    )

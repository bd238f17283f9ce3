"""Pure and synchronous: values, patches, positions, frames, plans. No driver, no framework."""

__all__ = [
    "bson_scan",
    "condition",
    "encoded_state",
    "entity_tag",
    "event_key",
    "events",
    "ids",
    "log_checks",
    "patches",
    "plan",
    "points",
    "policies",
    "positions",
    "predicates",
    "protocol",
    "replay",
    "segments",
    "shapes",
    "stamp",
    "values",
]

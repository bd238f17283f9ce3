"""Access: principals, and what the rules file lets each of them read and write. Pure.

`rules` compiles `[auth]`, `[roles]` and `[collections]`. Out of it come, for one principal and one collection, a
`ReadGrant` (`grants`) and a `WriteGuard` (`guards`). `redaction` hides fields of documents and patches.
"""

__all__ = ["auth", "claims", "explanations", "grants", "guards", "principal", "redaction", "removals", "rules"]

"""Authentication and access: credentials are verified, and principals get their rights by the rules in force."""

__all__ = ["access", "audit", "authenticator", "control", "live", "secret_file", "tokens"]

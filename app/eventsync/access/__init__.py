"""Access: who asks, and what they may do. Credentials are verified here, against the rules in force."""

__all__ = ["access", "audit", "authenticator", "control", "live", "secret_file", "tokens"]

"""Sessions and their subscriptions."""

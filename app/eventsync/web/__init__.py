"""Static pages: the live table and the API reference."""

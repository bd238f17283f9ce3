"""Tools that tests share and fixtures can't be: clients of the protocol, and processes."""

"""Clients of many makes behind one interface: Python, curl, Node.js and a browser, on all three transports."""

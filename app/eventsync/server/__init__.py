"""The HTTP server: uvicorn with bounds on untrusted connections, deadlines, and the table from error to answer."""

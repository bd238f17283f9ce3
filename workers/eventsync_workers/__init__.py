"""The worker process: it turns committed changes into events."""

"""The worker process: a leader sequences committed changes into events, beside jobs that keep the log small."""

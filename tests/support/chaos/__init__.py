"""Instruments that prove the event log exact under faults: recorder, checker, nemeses, and the rig that runs them."""

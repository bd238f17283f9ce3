"""Instruments that prove the event log exact under faults: a recorder, a checker, nemeses and the rig that runs them."""

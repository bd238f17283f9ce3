"""Examination of a deployment, for `eventsync doctor`: MongoDB, the archive, this machine and the settings.

Nothing is written. Whatever the MongoDB user may not read is a finding of its own, and the rest is examined all the
same.
"""

from eventsync.doctor.examination import examine
from eventsync.doctor.findings import Finding, Level

__all__ = ["Finding", "Level", "examine"]

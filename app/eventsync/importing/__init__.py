"""Import of documents from a file, in order for each document, resumable at any place.

`records` splits the file into documents, `items` makes a write of each, `targets` carries out many of them (through
`NodeStorage`, or through a server's `documents:batch`), `progress` remembers how far an import has come, and `importer`
connects them.
"""

from eventsync.importing.importer import Importer, Totals
from eventsync.importing.items import Mode
from eventsync.importing.progress import ImportJob, ProgressFile
from eventsync.importing.records import Place, read_records
from eventsync.importing.targets import DatabaseTarget, ServerTarget, Target

__all__ = [
    "DatabaseTarget",
    "ImportJob",
    "Importer",
    "Mode",
    "Place",
    "ProgressFile",
    "ServerTarget",
    "Target",
    "Totals",
    "read_records",
]

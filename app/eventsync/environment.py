"""Detection of misspelt environment variables: those with our prefix that are no setting."""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Iterable
from typing import Final

from eventsync.errors import ConfigurationError

_FOREIGN: Final = re.compile(r"TEST_\w+|(\w+_)?SERVICE_(HOST|PORT(_\w+)?)|(\w+_)?PORT_\d+_\w+", re.ASCII)
"""Names after the prefix that are accepted: those of the test suite, and those that Kubernetes sets in a container for
each Service whose name begins with `eventsync`.
"""


def check_environment(prefix: str, names: Iterable[str]) -> None:
    """Raise `ConfigurationError` for a variable with the prefix but none of these names after it."""
    known = {name.upper() for name in names}
    for variable, value in sorted(os.environ.items()):
        name = variable.upper().removeprefix(prefix)
        if variable.upper().startswith(prefix) and name not in known and not _is_foreign(name, value):
            meant = suggestion(name, known, prefix=prefix)
            raise ConfigurationError(f"the environment variable {variable} is no setting{meant}")


def _is_foreign(name: str, value: str) -> bool:
    # Kubernetes sets the address of a Service as a URL, which the setting `port` never is.
    is_address = name.endswith("_PORT") and value.startswith(("tcp://", "udp://"))
    return is_address or _FOREIGN.fullmatch(name) is not None


def suggestion(name: str, known: Iterable[str], *, prefix: str = "") -> str:
    """Return the end of a message about an unknown name: the closest known name, or a pointer to the list."""
    near = difflib.get_close_matches(name, known, n=1)
    return f"; did you mean {prefix}{near[0]}?" if near else "; `eventsync settings` lists them"

from __future__ import annotations

from pathlib import Path

import pytest

from support import silent_names


@pytest.mark.slow
@pytest.mark.skipif(not silent_names.possible(), reason="namespaces need root and unshare")
def test_a_member_whose_name_is_gone_does_not_delay_the_failover(tmp_path: Path) -> None:
    found = silent_names.failover(tmp_path)
    assert found["statuses"][-1] in {200, 201}
    # Until there is a primary a write is answered, too.
    assert set(found["statuses"][:-1]) <= {503}
    assert found["other"] == 200
    assert found["events"]

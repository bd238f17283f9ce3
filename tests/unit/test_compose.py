"""The promises of `mongo-replset.yml` that stand in it. It was run on a real Docker daemon, which few machines have."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parents[2]
FILE: dict[str, Any] = yaml.safe_load((ROOT / "mongo-replset.yml").read_text())
SERVICES: dict[str, dict[str, Any]] = FILE["services"]
OURS = {name: service for name, service in SERVICES.items() if service["image"] == "eventsync"}


def test_one_service_builds_the_image_that_the_others_use() -> None:
    assert [name for name, service in OURS.items() if "build" in service] == ["initiate"]
    for name in OURS.keys() - {"initiate"}:
        assert OURS[name]["pull_policy"] == "never"
        assert OURS[name]["depends_on"]["initiate"]["condition"] == "service_completed_successfully"


def test_our_containers_can_do_little() -> None:
    for name, service in OURS.items():
        assert service["read_only"] is True, name
        assert service["cap_drop"] == ["ALL"], name
        assert service["security_opt"] == ["no-new-privileges:true"], name


def test_only_loopback_is_published_and_only_by_the_server() -> None:
    assert {name: service["ports"] for name, service in SERVICES.items() if "ports" in service} == {
        "server": ["127.0.0.1:${EVENTSYNC_PORT:-8000}:8000"]
    }


def test_any_host_is_not_allowed() -> None:
    for name in ("server", "worker"):
        assert OURS[name]["environment"]["EVENTSYNC_ALLOWED_HOSTS"] == "${EVENTSYNC_ALLOWED_HOSTS:-server}"


def test_all_data_is_in_named_volumes() -> None:
    mongos = [service for service in SERVICES.values() if service["image"].startswith("mongo:")]
    assert len(mongos) == 3
    for service in mongos:
        assert service["tmpfs"] == ["/data/configdb"]
        assert [volume.partition(":")[2] for volume in service["volumes"]] == ["/data/db"]
    used = {volume.partition(":")[0] for service in SERVICES.values() for volume in service.get("volumes", ())}
    assert used == set(FILE["volumes"])


def test_a_worker_is_healthy_by_its_own_file() -> None:
    file = OURS["worker"]["environment"]["EVENTSYNC_HEALTH_FILE"]
    assert file in OURS["worker"]["healthcheck"]["test"][1]
    assert Path(file).parent.as_posix() in OURS["worker"]["tmpfs"]

"""The files for platforms: valid, with settings, ports and commands that exist, and with no rights beyond need."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

from eventsync import __version__
from eventsync.cli import _FURTHER, _OWN
from eventsync.settings import PREFIX, Settings

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"
KUBERNETES = DEPLOY / "kubernetes"
UNITS = sorted((DEPLOY / "systemd").glob("*.service"))
IMAGE = (ROOT / "Dockerfile").read_text()
COMMANDS = {*_OWN, *_FURTHER, "worker"}
GUIDE = (ROOT / "docs" / "guides" / "kubernetes.md").read_text()
WORKER_PORT = 8001
PORT = Settings.model_fields["port"].default
USER = 10001
VERSIONS = ("1.29", kubernetes_validate.latest_version())
"""The versions of Kubernetes that the guide names."""

FILES = sorted(file for file in DEPLOY.rglob("*") if file.is_file())


def resources() -> list[dict[str, Any]]:
    """All resources that the kustomization names."""
    names = yaml.safe_load((KUBERNETES / "kustomization.yaml").read_text())["resources"]
    return [item for name in names for item in yaml.safe_load_all((KUBERNETES / name).read_text())]


RESOURCES = resources()
OF_KIND = {kind: [item for item in RESOURCES if item["kind"] == kind] for kind in {item["kind"] for item in RESOURCES}}
WORKLOADS = {item["metadata"]["name"]: item["spec"]["template"] for item in OF_KIND["Deployment"]}


def container(name: str) -> dict[str, Any]:
    (found,) = WORKLOADS[name]["spec"]["containers"]
    return dict(found)


def set_in(name: str) -> dict[str, str | None]:
    """Return the values of a container's environment variables; None for a reference."""
    return {item["name"]: item.get("value") for item in container(name)["env"]}


def block(page: str, beginning: str) -> str:
    """Return the code block of a page that begins so."""
    found = re.search(rf"^```\w+\n({re.escape(beginning)}.*?)^```$", page, re.MULTILINE | re.DOTALL)
    assert found is not None, beginning
    return found[1]


# --- all of them ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(DEPLOY)))
def test_settings_in_the_files_exist(file: Path) -> None:
    text = file.read_text()
    named = set(re.findall(rf"\b{PREFIX}[A-Z0-9_]*[A-Z0-9]\b", text))
    assert named <= {PREFIX + name.upper() for name in Settings.model_fields}
    if file.suffix in {".yml", ".yaml"}:
        assert all(item is not None for item in yaml.safe_load_all(text))


# --- systemd ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("unit", UNITS, ids=lambda file: file.name)
def test_units_run_commands_that_exist_and_restart_when_that_helps(unit: Path) -> None:
    text = unit.read_text()
    command = re.search(r"^ExecStart=/opt/eventsync/bin/eventsync (\w+)", text, re.MULTILINE)
    assert command is not None
    assert command[1] in COMMANDS
    assert unit.name == f"eventsync-{command[1]}.service"
    assert "RestartPreventExitStatus=2 65\n" in text
    stop = re.search(r"^TimeoutStopSec=(\d+)$", text, re.MULTILINE)
    assert stop is not None
    assert int(stop[1]) > Settings.model_fields["drain_timeout"].default + 5


def test_units_allow_as_many_files_as_a_server_has_sockets() -> None:
    (serve,) = (unit.read_text() for unit in UNITS if "serve" in unit.name)
    limit = re.search(r"^LimitNOFILE=(\d+)$", serve, re.MULTILINE)
    assert limit is not None
    assert int(limit[1]) >= Settings.model_fields["max_sockets"].default + 500


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="needs systemd-analyze")
@pytest.mark.parametrize("unit", UNITS, ids=lambda file: file.name)
def test_units_are_valid_and_hardened(unit: Path, tmp_path: Path) -> None:
    found = tmp_path / unit.name
    text = unit.read_text().replace("/opt/eventsync/bin/eventsync", sys.executable).replace("=kill", "=/bin/kill")
    found.write_text(text)
    verified = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", found], capture_output=True, text=True, check=False
    )
    assert verified.returncode == 0, verified.stderr
    assert unit.name not in verified.stderr, verified.stderr
    # 0 is nothing that an attacker could use; a unit without these lines has 9.2.
    exposed = subprocess.run(
        ["systemd-analyze", "security", "--offline=true", "--threshold=20", "--no-pager", found],
        capture_output=True,
        text=True,
        check=False,
    )
    assert exposed.returncode == 0, exposed.stdout[-300:] + exposed.stderr


# --- Kubernetes -------------------------------------------------------------------------------------------------------


def test_all_files_are_in_the_kustomization() -> None:
    tree = yaml.safe_load((KUBERNETES / "kustomization.yaml").read_text())
    assert {*tree["resources"], "kustomization.yaml"} == {file.name for file in KUBERNETES.iterdir()}
    assert tree["images"] == [{"name": "eventsync", "newTag": __version__}]


@pytest.mark.parametrize("resource", RESOURCES, ids=lambda item: f"{item['kind']}-{item['metadata']['name']}")
def test_resources_follow_the_schemas_of_kubernetes(resource: dict[str, Any]) -> None:
    for version in VERSIONS:
        kubernetes_validate.validate(resource, version, strict=True)


@pytest.mark.parametrize("name", WORKLOADS)
def test_pods_may_do_no_more_than_they_need(name: str) -> None:
    spec, box = WORKLOADS[name]["spec"], container(name)
    assert spec["automountServiceAccountToken"] is False
    assert spec["enableServiceLinks"] is False, "the Service `eventsync` would set EVENTSYNC_PORT"
    pod = spec["securityContext"]
    assert (pod["runAsNonRoot"], pod["runAsUser"], pod["runAsGroup"]) == (True, USER, USER)
    assert pod["seccompProfile"] == {"type": "RuntimeDefault"}
    assert box["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    assert [mount["mountPath"] for mount in box["volumeMounts"]] == ["/tmp"]  # noqa: S108 - the container's own
    assert box["resources"]["limits"]["memory"]
    assert spec["terminationGracePeriodSeconds"] > Settings.model_fields["drain_timeout"].default + 5 + 5


@pytest.mark.parametrize("name", WORKLOADS)
def test_passwords_are_references(name: str) -> None:
    (uri,) = (item for item in container(name)["env"] if item["name"] == "EVENTSYNC_MONGODB_URI")
    assert uri["valueFrom"]["secretKeyRef"] == {"name": "eventsync", "key": f"{container(name)['name']}-mongodb-uri"}
    assert "Secret" not in OF_KIND
    assert not any("mongodb://" in file.read_text() for file in KUBERNETES.iterdir())


@pytest.mark.parametrize("name", WORKLOADS)
def test_pods_run_commands_of_the_image(name: str) -> None:
    box = container(name)
    assert box["image"] == "eventsync"
    assert set(box["args"]) <= COMMANDS
    assert "command" not in box, "the entry point of the image is the command"
    assert 'ENTRYPOINT ["eventsync"]' in IMAGE


def test_servers_are_reached_on_their_port() -> None:
    assert set_in("eventsync-serve")["EVENTSYNC_PORT"] == str(PORT)
    assert f"EXPOSE {PORT}" in IMAGE
    (service,) = OF_KIND["Service"]
    assert service["spec"]["ports"][0]["targetPort"] == "http"
    assert service["spec"]["selector"] == {"app.kubernetes.io/component": "server"}


@pytest.mark.parametrize(("name", "port", "number"), [("serve", "http", PORT), ("worker", "metrics", WORKER_PORT)])
def test_processes_are_probed_and_scraped_on_their_port(name: str, port: str, number: int) -> None:
    box = container(f"eventsync-{name}")
    assert box["ports"] == [{"name": port, "containerPort": number}]
    probes = {kind: box[kind]["httpGet"] for kind in ("startupProbe", "livenessProbe", "readinessProbe")}
    assert {kind: probe["path"] for kind, probe in probes.items()} == {
        "startupProbe": "/healthz",
        "livenessProbe": "/healthz",
        "readinessProbe": "/readyz",
    }
    assert {probe["port"] for probe in probes.values()} == {port}
    assert WORKLOADS[f"eventsync-{name}"]["metadata"]["annotations"] == {
        "prometheus.io/scrape": "true",
        "prometheus.io/port": str(number),
        "prometheus.io/path": "/metrics",
    }


def test_workers_listen_where_they_are_probed() -> None:
    found = set_in("eventsync-worker")
    assert (found["EVENTSYNC_WORKER_HOST"], found["EVENTSYNC_WORKER_PORT"]) == ("0.0.0.0", str(WORKER_PORT))


def test_prometheus_finds_the_pods_by_the_jobs_that_the_alerts_name() -> None:
    (scrape,) = yaml.safe_load(block(GUIDE, "scrape_configs:"))["scrape_configs"]
    kept = {item["target_label"]: item for item in scrape["relabel_configs"] if "target_label" in item}
    component = "app.kubernetes.io/component"
    labels = {item["metadata"]["labels"][component] for item in WORKLOADS.values()}
    pattern, replacement = kept["job"]["regex"], kept["job"]["replacement"].replace("$1", r"\1")
    jobs = {re.sub(pattern, replacement, f"eventsync;{label}") for label in labels}
    own = yaml.safe_load((DEPLOY / "prometheus" / "prometheus.yml").read_text())
    assert jobs == {scrape["job_name"] for scrape in own["scrape_configs"]}
    assert kept["job"]["source_labels"] == [
        "__meta_kubernetes_pod_label_app_kubernetes_io_name",
        "__meta_kubernetes_pod_label_app_kubernetes_io_component",
    ]


def test_selectors_select_one_workload_each() -> None:
    component = "app.kubernetes.io/component"
    labels = {item["metadata"]["labels"][component] for item in WORKLOADS.values()}
    assert labels == {"server", "worker"}
    selectors = [item["spec"]["selector"]["matchLabels"][component] for item in OF_KIND["PodDisruptionBudget"]]
    assert sorted(selectors) == ["server", "worker"]
    for item in OF_KIND["Deployment"]:
        chosen = item["spec"]["selector"]["matchLabels"]
        assert chosen.items() <= item["spec"]["template"]["metadata"]["labels"].items()
        assert item["spec"]["replicas"] > 1
        assert item["spec"]["strategy"]["rollingUpdate"]["maxUnavailable"] == 0


def test_networks_are_closed_but_for_one_port_of_each() -> None:
    policies = {item["metadata"]["name"]: item["spec"] for item in OF_KIND["NetworkPolicy"]}
    for name, port in {"serve": "http", "worker": "metrics"}.items():
        assert policies[f"eventsync-{name}"]["ingress"] == [{"ports": [{"port": port, "protocol": "TCP"}]}]
    assert {port["port"] for rule in policies["eventsync-egress"]["egress"] for port in rule["ports"]} == {
        53,
        27017,
        443,
    }


# --- compose and the image --------------------------------------------------------------------------------------------


def test_prometheus_reads_the_processes_of_the_compose_file() -> None:
    base = yaml.safe_load((ROOT / "mongo-replset.yml").read_text())["services"]
    read = yaml.safe_load((DEPLOY / "compose" / "prometheus.yml").read_text())
    found = {scrape["job_name"]: scrape["dns_sd_configs"][0] for scrape in read["scrape_configs"]}
    # Those that the alerts name.
    own = yaml.safe_load((DEPLOY / "prometheus" / "prometheus.yml").read_text())
    assert found.keys() == {scrape["job_name"] for scrape in own["scrape_configs"]}
    assert {name for one in found.values() for name in one["names"]} == base.keys() & {"server", "worker"}
    assert base["server"]["ports"] == [f"127.0.0.1:${{EVENTSYNC_PORT:-8000}}:{found['eventsync-server']['port']}"]
    assert base["worker"]["environment"]["EVENTSYNC_WORKER_PORT"] == str(found["eventsync-worker"]["port"])
    # The directory of the rules has other files, too.
    assert [Path(file).name for file in read["rule_files"]] == own["rule_files"]


def test_monitoring_is_limited_too_and_its_files_are_in_the_repository() -> None:
    services = yaml.safe_load((DEPLOY / "compose" / "monitoring.yml").read_text())["services"]
    for name, service in services.items():
        assert service["read_only"] is True, name
        assert service["cap_drop"] == ["ALL"], name
        assert all(port.startswith("127.0.0.1:") for port in service["ports"]), name
        for volume in service["volumes"]:
            source = volume.partition(":")[0]
            if source.startswith("./deploy/compose/"):
                assert (ROOT / source).is_file(), source
            elif source.startswith("./"):
                assert source in {"./deploy/prometheus", "./deploy/grafana"}


def test_image_has_the_version_of_the_package_and_a_user() -> None:
    assert f"ARG VERSION={__version__}\n" in IMAGE
    assert "org.opencontainers.image.version=${VERSION}" in IMAGE
    assert f"\nUSER {USER}:{USER}\n" in IMAGE

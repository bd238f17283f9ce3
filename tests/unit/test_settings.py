from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from eventsync import running_dev
from eventsync.errors import ConfigurationError
from eventsync.settings import PREFIX, DevSettings, Settings, load_settings


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    for name in [name for name in os.environ if name.startswith(PREFIX)]:
        monkeypatch.delenv(name)


def test_an_option_outranks_the_environment_which_outranks_the_file(monkeypatch: pytest.MonkeyPatch) -> None:
    Path("eventsync.toml").write_text('port = 1\nhost = "file"\ndatabase = "file"\n')
    monkeypatch.setenv("EVENTSYNC_PORT", "2")
    monkeypatch.setenv("EVENTSYNC_HOST", "environment")
    settings = load_settings(port=3, host=None, database=None)
    assert (settings.port, settings.host, settings.database) == (3, "environment", "file")


def test_the_file_is_the_named_one_else_here_else_the_one_of_a_running_dev(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / ".eventsync").mkdir()
    for file in (".eventsync/eventsync.toml", "eventsync.toml", "named.toml"):
        Path(file).write_text(f'database = "{file[:5]}"')
    names = []
    monkeypatch.setenv("EVENTSYNC_CONFIG", "named.toml")
    names.append(load_settings(database=None).database)
    monkeypatch.delenv("EVENTSYNC_CONFIG")
    names.append(load_settings(database=None).database)
    Path("eventsync.toml").unlink()
    Path(".eventsync/eventsync.toml").write_text('database = "dev"')
    names.append(load_settings(database=None).database)
    assert names == ["named", "event", "dev"]


def test_dev_never_reads_what_a_dev_has_left(tmp_path: Path) -> None:
    (tmp_path / ".eventsync").mkdir()
    Path(".eventsync/eventsync.toml").write_text('mongodb_uri = "mongodb://gone"')
    assert load_settings().mongodb_uri == "mongodb://gone"
    assert load_settings(DevSettings).mongodb_uri is None


@pytest.mark.parametrize("text", ["a,b", " a , b,", '["a", "b"]'])
def test_a_list_is_commas_in_the_environment_and_a_list_in_the_file(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if text.startswith("["):
        Path("eventsync.toml").write_text(f"collections = {text}")
    else:
        monkeypatch.setenv("EVENTSYNC_COLLECTIONS", text)
    assert load_settings().collections == ("a", "b")


@pytest.mark.parametrize(
    ("toml", "said"),
    [
        ("port = 70000", "port:"),
        ("prot = 1", "prot: no such setting; did you mean port?"),
        ("[eventsync]\nport = 1", "eventsync: no such setting"),
        ("port = ", "can't be read"),
        ('log_database = "app"', "log_database must not be"),
        ('database = "a/b"', "database:"),
        ('database = "a\\u0000b"', "database:"),
        (f'database = "{"ä" * 27}"', "is too long for a database"),
        *((f'database = "{name}"', "MongoDB's own database") for name in ("admin", "local", "config")),
        *((f'log_database = "{name}"', "MongoDB's own database") for name in ("admin", "local", "config")),
        ('log_database = "App"', "differ only in case"),
        ('log_database = "a b"', "log_database:"),
        ("heartbeat = inf", "heartbeat:"),
        ("heartbeat = nan", "heartbeat:"),
        ('log_level = "loud"', "log_level:"),
        ("write_deadline = 12", "request_timeout must be longer than write_deadline: a write would be answered before"),
        ("request_timeout = 9.5", "request_timeout must be longer than write_deadline"),
        ("pin_ttl = 30", "pin_ttl must be longer than send_timeout"),
        ("stale_after = 1", "stale_after must be longer than checkpoint_interval"),
        ("checkpoint_interval = 5", "barrier_timeout must be longer than checkpoint_interval"),
        ("operation_ttl = 10", "operation_ttl must be longer than request_timeout"),
        ("mongodb_timeout = 0.0004", "mongodb_timeout:"),
        ("lease_period = 0.0004", "lease_period:"),
        *((f"{name}_timeout = 1e7", f"{name}_timeout: Input should be") for name in ("mongodb", "query", "send")),
        *((f"{name} = 1e11", f"{name}:") for name in ("hot_age", "retention_age", "snapshot_period", "ticket_ttl")),
    ],
)
def test_invalid_settings_are_named(toml: str, said: str) -> None:
    Path("eventsync.toml").write_text(toml)
    with pytest.raises(ConfigurationError) as raised:
        load_settings()
    assert said in raised.value.message
    assert "\n" not in raised.value.message


@pytest.mark.parametrize(
    ("variable", "said"),
    [
        ("EVENTSYNC_PROT", "the environment variable EVENTSYNC_PROT is no setting; did you mean EVENTSYNC_PORT?"),
        ("EVENTSYNC_MONGO_URI", "did you mean EVENTSYNC_MONGODB_URI?"),
        ("EVENTSYNC_DATABSE", "did you mean EVENTSYNC_DATABASE?"),
        ("EVENTSYNC_CONFG", "did you mean EVENTSYNC_CONFIG?"),
        ("eventsync_archiv_url", "eventsync_archiv_url is no setting; did you mean EVENTSYNC_ARCHIVE_URL?"),
        ("EVENTSYNC_ZZZZZZ", "`eventsync settings` lists them"),
    ],
)
def test_a_misspelt_variable_is_refused(variable: str, said: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(variable, "hunter2")
    with pytest.raises(ConfigurationError) as raised:
        load_settings()
    assert said in raised.value.message
    assert "hunter2" not in raised.value.message


@pytest.mark.parametrize(
    "variable",
    [
        "EVENTSYNC_TEST_MONGODB_URI",
        "EVENTSYNC_SERVICE_HOST",
        "EVENTSYNC_SERVER_SERVICE_PORT_HTTP",
        "EVENTSYNC_SERVER_PORT",
        "EVENTSYNC_SERVER_PORT_8000_TCP_ADDR",
        "EVENTSYNC_TOKEN",
    ],
)
def test_variables_that_are_no_settings_are_accepted(variable: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(variable, "tcp://10.0.0.1:8000")
    assert load_settings().port == 8000


def test_a_file_that_can_not_be_read_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "eventsync.toml").write_bytes(b'database = "\xff"')
    with pytest.raises(ConfigurationError, match="the configuration file can't be read"):
        load_settings()
    monkeypatch.setenv("EVENTSYNC_CONFIG", str(tmp_path))
    with pytest.raises(ConfigurationError, match="is not a file"):
        load_settings()


def test_commands_find_a_dev_that_runs_elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = tmp_path / "elsewhere.toml"
    config.write_text('mongodb_uri = "mongodb://dev"\ndatabase = "dev"\n')
    running_dev.record(config)
    assert load_settings().database == "dev"
    assert load_settings(Settings).mongodb_uri is None, "a server or a worker joins no `dev` unasked"
    assert load_settings(DevSettings).mongodb_uri is None
    # What names a MongoDB of its own has nothing to do with it.
    assert load_settings(mongodb_uri="mongodb://own").database == "app"
    monkeypatch.setenv("EVENTSYNC_MONGODB_URI", "mongodb://own")
    assert load_settings().database == "app"
    monkeypatch.delenv("EVENTSYNC_MONGODB_URI")
    Path("eventsync.toml").write_text('database = "here"')
    assert load_settings().database == "here"
    Path("eventsync.toml").unlink()
    running_dev.forget()
    assert load_settings().database == "app"


def test_one_of_several_devs_has_to_be_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = tmp_path / "elsewhere.toml"
    config.write_text('database = "dev"\n')
    running_dev.record(config)
    records = tmp_path / "state" / "eventsync" / "dev"
    own = records / f"{os.getpid()}.json"
    (records / "1.json").write_text(own.read_text())
    with pytest.raises(ConfigurationError, match=r"several `eventsync dev` run; .* EVENTSYNC_CONFIG"):
        load_settings()
    monkeypatch.setenv("EVENTSYNC_CONFIG", str(config))
    assert load_settings().database == "dev"


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"config": 5}', "dead"])
def test_a_record_that_is_damaged_or_of_a_process_that_is_gone_counts_for_nothing(text: str, tmp_path: Path) -> None:
    config = tmp_path / "elsewhere.toml"
    config.write_text('database = "dev"\n')
    records = tmp_path / "state" / "eventsync" / "dev"
    records.mkdir(parents=True)
    dead = json.dumps({"config": str(config), "process": os.getpid(), "started": "1"})
    (records / "7.json").write_text(dead if text == "dead" else text)
    assert load_settings().database == "app"
    assert (records / "7.json").exists() is (text != "dead")


def test_a_configuration_file_that_is_missing_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EVENTSYNC_CONFIG", "none.toml")
    with pytest.raises(ConfigurationError, match=r"none\.toml"):
        load_settings()


def test_the_log_has_a_database_of_its_own() -> None:
    assert Settings(database="shop").log_db == "shop_eventsync"
    assert Settings(database="shop", log_database="log").log_db == "log"

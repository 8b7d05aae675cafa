from pathlib import Path

import pytest

from broker.config import settings as settings_file
from broker.config.settings import ConfigError


def load(tmp_path: Path, text: str) -> settings_file.Settings:
    file = tmp_path / "broker.toml"
    file.write_text(text, "utf-8")
    return settings_file.load(file)


def test_folders_are_relative_to_the_file(tmp_path: Path) -> None:
    settings = load(tmp_path, 'data = "store"\n[online]\nfolder = "/san/pictures"\n')
    assert settings.data == tmp_path / "store"
    assert settings.online_folder == Path("/san/pictures")
    assert settings.archive_folder == tmp_path / "store" / "archive"
    assert settings.database_url == f"sqlite:///{tmp_path / 'store' / 'broker.db'}"


def test_environment_overrides_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BROKER_SERVER__HTTP_PORT", "9999")
    settings = load(tmp_path, "[server]\nhttp_port = 8081\nthreads = 40\n")
    assert (settings.server.http_port, settings.server.threads) == (9999, 40)
    assert settings.public_url == "http://127.0.0.1:9999"


@pytest.mark.parametrize(("text", "key"), [
    ("[server]\nhttp_port = 99999\n", "server.http_port"),
    ("[server]\nhtpp_port = 8080\n", "server.htpp_port"),
    ("[sever]\nhttp_port = 8080\n", "sever"),
    ('[security]\nmode = "maybe"\n', "security.mode"),
    ("[server]\nthreads = 8\nretrieve_slots = 8\n", "server.retrieve_slots"),
    ("[server\n", "broker.toml"),
    ('[archive]\nurl = "http://namenode:9870/sdicom"\n', "archive.url: it is not like hdfs://host:port/path"),
    ('[archive]\nurl = "hdfs://namenode:8020"\n', "archive.url: it is not like hdfs://host:port/path"),
    ('[archive]\nurl = "hdfs://region/sdicom"\n', "archive.url: it has no port, and archive.hdfs.options no"),
    ('[archive.hdfs]\nkeytab = "k"\n', "archive.hdfs.keytab: it needs archive.hdfs.principal"),
    ("[archive.hdfs]\nblock_size = 1048577\n", "archive.hdfs.block_size"),
    ("[archive.hdfs]\nread_seconds = 0\n", "archive.hdfs.read_seconds"),
])
def test_a_wrong_setting_is_one_line_naming_file_and_key(tmp_path: Path, text: str, key: str) -> None:
    with pytest.raises(ConfigError) as error:
        load(tmp_path, text)
    line = str(error.value)
    assert "broker.toml" in line
    assert key in line
    assert "\n" not in line


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"nowhere\.toml"):
        settings_file.load(tmp_path / "nowhere.toml")


def test_an_archive_in_a_name_service(tmp_path: Path) -> None:
    settings = load(tmp_path, """
        [archive]
        url = "hdfs://region/sdicom"
        [archive.hdfs]
        principal = "broker/host@REGION"
        keytab = "broker.keytab"
        [archive.hdfs.options]
        "dfs.nameservices" = "region"
        "dfs.ha.namenodes.region" = "nn1,nn2"
        "dfs.namenode.rpc-address.region.nn1" = "one:8020"
        "dfs.namenode.rpc-address.region.nn2" = "two:8020"
    """)
    assert settings.archive.url == "hdfs://region/sdicom"
    assert settings.archive.hdfs.options["dfs.ha.namenodes.region"] == "nn1,nn2"
    assert settings.archive.hdfs.keytab == tmp_path / "broker.keytab"

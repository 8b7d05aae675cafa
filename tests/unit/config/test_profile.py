import shutil
from pathlib import Path

import pytest

from broker.config import profile as profiles
from broker.config.data import data
from broker.config.profile import Profile
from broker.config.settings import ConfigError
from broker.model.charsets import CharacterSets


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return Path(shutil.copytree(data("profiles") / "demo", tmp_path / "fujian"))


def test_the_demo_region_has_a_sending_hospital_and_an_origin(profile: Profile) -> None:
    assert {h.key: h.kind for h in profile.hospitals} == {"a": "sends", "b": "origin"}
    assert profile.hospital_by_ae("PACSA") is profile.hospital("a")
    assert profile.hospital_by_ae("PACSX") is None
    assert profile.domain_by_namespace("HOSPB") is profile.domain("2.999.3.1")


def test_a_region_is_added_by_adding_a_folder(folder: Path) -> None:
    assert profiles.load("fujian", folder.parent).folder == folder
    assert profiles.load(str(folder)).region.affinity_domain == "2.999.1.1"


def test_a_hospital_says_what_its_labels_mean_and_what_else_it_sends(folder: Path) -> None:
    file = folder / "hospitals.toml"
    text = file.read_text("utf-8").replace(
        'ae_title = "PACSA"',
        'ae_title = "PACSA"\ncharsets = { "ISO_IR 100" = "GB18030", "CHINESE" = "GBK" }\nsop_classes = ["1.3.12.2.1107.5.9.1"]')
    file.write_text(text, "utf-8")
    hospital = profiles.load(str(folder)).hospital("a")
    assert hospital is not None
    assert hospital.character_sets == CharacterSets("GB18030", (("CHINESE", "GBK"), ("ISO_IR 100", "GB18030")))
    assert hospital.sop_classes == ("1.3.12.2.1107.5.9.1",)


def test_an_unknown_profile_is_named() -> None:
    with pytest.raises(ConfigError, match="atlantis"):
        profiles.load("atlantis")


@pytest.mark.parametrize(("file", "old", "new", "expected"), [
    ("region.toml", '"2.999.1.1"', '"2.999.01.1"', "region.toml: affinity_domain"),
    ("region.toml", 'language = "zh-CN"', 'lagnuage = "zh-CN"', "region.toml: lagnuage"),
    ("region.toml", '"2.999.1.1"', '"2.999.77"', "the affinity domain 2.999.77"),
    ("domains.toml", 'title = "Affinity domain"', 'feeders = [{ application = "MPI" }]',
     "domain REGION.feeders: nobody may feed the affinity domain"),
    ("domains.toml", 'namespace = "HOSPA"', 'namespace = "HOSPA"\naliases = ["HOSPB"]', "aliases: HOSPB is used twice"),
    ("domains.toml", 'namespace = "HOSPA"', 'namespace = "HOSPA"\naliases = ["urn:oid:2.999.3.1"]',
     "aliases: 2.999.3.1 is used twice"),
    ("domains.toml", 'namespace = "HOSPA"', 'namespace = "HOSPA"\naliases = ["a|b"]', "not a name of an authority: 'a|b'"),
    ("domains.toml", 'address = "127.0.0.1"', 'address = "10.1.2.3/8"', "not an address or network: '10.1.2.3/8'"),
    ("domains.toml", 'address = "127.0.0.1"', 'certificate = "9f:86"', "not a SHA-256 fingerprint"),
    ("domains.toml", '"HOSPB"', '"HOSPA"', "namespace: HOSPA is used twice"),
    ("hospitals.toml", 'kind = "origin"', 'kind = "orgin"', "hospitals.toml: hospital b.kind"),
    ("hospitals.toml", 'ae_title = "PACSB"', 'ae_title = "PACSA"', "ae_title: PACSA is used twice"),
    ("hospitals.toml", "port = 11113\n", "", "hospital b: kind origin needs source_uid and port"),
    ("hospitals.toml", 'domain = "2.999.3.1"', 'domain = "2.999.8"', "hospital b.domain: 2.999.8"),
    ("hospitals.toml", 'charset = "GB18030"', 'charset = "GB18O30"', "not a character set: 'GB18O30'"),
    ("hospitals.toml", 'charset = "GB18030"', 'charset = "zlib"', "not a character set: 'zlib'"),
    ("hospitals.toml", 'charset = "GB18030"', 'charset = "GB18030"\ncharsets = { "ISO_IR 100" = "mandarin" }', "charsets"),
    ("hospitals.toml", 'charset = "GB18030"', 'charset = "GB18030"\nsop_classes = ["1.2.x"]', "not a UID: '1.2.x'"),
    ("retention.toml", "quiet_seconds = 2", "quiet_seconds = 0", "retention.toml: quiet_seconds"),
    ("codes.toml", "[publish]", "[publsh]", "codes.toml: publish"),
])
def test_a_wrong_profile_is_one_line_naming_file_and_key(folder: Path, file: str, old: str, new: str, expected: str) -> None:
    text = (folder / file).read_text("utf-8")
    assert old in text
    (folder / file).write_text(text.replace(old, new), "utf-8")
    with pytest.raises(ConfigError) as error:
        profiles.load(str(folder))
    assert expected in str(error.value)
    assert file in str(error.value) or "affinity domain" in expected
    assert "\n" not in str(error.value)

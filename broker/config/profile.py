"""A region's deployment profile: affinity domain, codes, assigning authorities, hospitals, retention.

`load(name_or_folder)` reads the TOML files of `FILES` in `profiles/<region>/` and checks them against each other. What a
region may decide is here; the code holds no OID, code or address of any region. See `profiles/README.md`.
"""

import ipaddress
import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator

from broker.config.data import data
from broker.config.hours import Hours
from broker.config.settings import ConfigError, first_problem
from broker.model.caller import ip_of
from broker.model.charsets import CharacterSets, check_charset
from broker.model.ids import is_oid, is_uid

URN_OID = "urn:oid:"    # how a URI names an OID (RFC 3061)


def _check_oid(text: str) -> str:
    if not is_oid(text):
        raise ValueError(f"not an OID: {text!r}")
    return text


def _check_uid(text: str) -> str:
    if not is_uid(text):
        raise ValueError(f"not a UID: {text!r}")
    return text


def _check_network(text: str) -> str:
    try:
        ipaddress.ip_network(text)
    except ValueError:
        raise ValueError(f"not an address or network: {text!r}") from None
    return text


def _check_fingerprint(text: str) -> str:
    found = text.replace(":", "").lower()
    if not re.fullmatch(r"[0-9a-f]{64}", found):
        raise ValueError("not a SHA-256 fingerprint: 64 hexadecimal digits")
    return found


def _check_alias(text: str) -> str:
    if not re.fullmatch(r"[^\s|,^&~]+", text):
        raise ValueError(f"not a name of an authority: {text!r}")
    return text.removeprefix(URN_OID)


Oid = Annotated[str, AfterValidator(_check_oid)]
Network = Annotated[str, AfterValidator(_check_network)]
Fingerprint = Annotated[str, AfterValidator(_check_fingerprint)]
Alias = Annotated[str, AfterValidator(_check_alias)]
Uid = Annotated[str, AfterValidator(_check_uid)]
Charset = Annotated[str, AfterValidator(check_charset)]


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Region(_Part):
    """region.toml: the affinity domain and our own identities in it."""

    name: str = Field(min_length=1)
    title: str = ""
    affinity_domain: Oid
    home_community: Oid | None = None
    repository_uid: Oid
    source_uid: Oid = Field(description="Retrieve Location UID of what the broker itself keeps")
    device_oid: Oid = Field(description="our application id in HL7 V3 messages")
    application: str = "BROKER"
    facility: str = "REGION"
    timezone: str = Field("+0800", pattern=r"^[+-]\d{4}$", description="zone of DICOM dates that carry none")
    language: str = "zh-CN"
    unknown_authority: Literal["refuse", "sender"] = Field(
        "refuse", description="a feed without PID-3.4: refuse it, or take the authority of its sender")


class Code(_Part):
    """A coded value; equality is (code, scheme), display is never compared."""

    code: str
    scheme: str
    display: str = ""


class Codes(_Part):
    """codes.toml: allowed codes per attribute (an attribute that is absent or empty is not checked) and what we publish."""

    allowed: dict[str, tuple[Code, ...]] = {}
    mime_types: tuple[str, ...] = ()
    publish: dict[str, Code] = Field(description="codes of our own manifests, by attribute")
    event_scheme: str = Field("1.2.840.10008.2.16.4", description="scheme of DICOM modality codes in eventCodeList")
    scheme_aliases: dict[str, str] = Field({}, description="designator -> OID, for DICOM code triplets")


class Feeder(_Part):
    """Who may feed a domain, by each door it uses: MSH-3/MSH-4 of an HL7 v2 sender, the device OID of a V3 sender, the address or
    network of a FHIR sender, the SHA-256 fingerprint of the certificate it shows, or both.
    """

    application: str = ""
    facility: str = ""
    device_oid: str = ""
    address: Network = ""
    certificate: Fingerprint = ""

    def is_at(self, address: str, certificate: str) -> bool:
        """Say whether this is the FHIR sender that calls from this address and shows this certificate (empty: none)."""
        if not (self.address or self.certificate):
            return False
        found = ip_of(address)
        is_near = not self.address or (found is not None and found in ipaddress.ip_network(self.address))
        return is_near and self.certificate in ("", certificate)


class Domain(_Part):
    """domains.toml: one assigning authority. `namespace` and `oid` are one to one."""

    oid: Oid
    namespace: str = Field(min_length=1, max_length=20)
    title: str = ""
    feeders: tuple[Feeder, ...] = ()
    aliases: tuple[Alias, ...] = Field((), description="further names of it in messages: URIs of FHIR, OIDs, namespaces")
    hidden: bool = Field(default=False, description="not shown to consumers")
    ordered: bool = Field(
        default=True, description="what a sender recorded earlier (EVN-2) than what it said last changes nothing; false = "
        "messages count in their order of arrival")
    link_duplicates: bool = Field(
        default=True, description="two of its ids may be found to be one person's by comparison; false = only a merge or a "
        "decision makes them so")


class Consumer(_Part):
    """consumers.toml: who is told when it changes which ids are one person's."""

    key: str = Field(pattern=r"^[a-z0-9][a-z0-9-]*$")
    title: str = ""
    transaction: Literal["ITI-10", "ITI-46", "ITI-64"] = Field(
        description="a PIX consumer by HL7 v2 or V3, or a document registry that keeps entries of ours")
    domains: tuple[Oid, ...] = Field((), description="ids it is told of (ITI-10, ITI-46); empty = of all domains that are shown")
    host: str = Field("", description="of ITI-10 and ITI-64")
    port: int = Field(0, ge=0, le=65535)
    tls: bool = Field(default=False, description="speak TLS there (ITI-10, ITI-64)")
    application: str = Field("", description="MSH-5")
    facility: str = Field("", description="MSH-6")
    charset: str = Field("UNICODE UTF-8", description="MSH-18 (HL7 table 0211)")
    url: str = Field("", description="endpoint of ITI-46")
    device_oid: Oid | None = Field(None, description="its application id in HL7 V3 messages")

    @model_validator(mode="after")
    def _can_be_reached(self) -> Self:
        if self.transaction == "ITI-46":
            if not self.url.startswith(("http://", "https://")) or self.device_oid is None:
                raise ValueError("ITI-46 needs url (http:// or https://) and device_oid")
        elif not self.host or not self.port:
            raise ValueError(f"{self.transaction} needs host and port")
        return self


class Limits(_Part):
    """What a hospital's PACS may be asked for, and how many associations it may hold here."""

    associations: int = Field(2, ge=1, le=64)
    connect_seconds: float = Field(5.0, gt=0)
    idle_seconds: float = Field(30.0, gt=0, description="silence after which a retrieve is given up")
    total_seconds: float = Field(600.0, gt=0, description="longest retrieve")
    hours: Hours = "00:00-24:00"
    incoming: int | None = Field(
        None, ge=1, le=4096, description="associations of a receiver process that stay its own when places are short; "
        "empty = an equal part")
    back_off_seconds: float = Field(
        10.0, ge=0, description="how long a PACS that does not answer is left alone, and not asked for what it could not send")
    requests: int = Field(100, ge=0, description="further requests of one fetch, in smaller pieces, after one that failed")


class Hospital(_Part):
    """hospitals.toml: one hospital and its PACS."""

    key: str = Field(pattern=r"^[a-z0-9][a-z0-9-]*$")
    title: str = ""
    kind: Literal["sends", "origin", "hosted"]
    domain: Oid = Field(description="assigning authority of its DICOM Patient IDs")
    source_uid: Oid | None = Field(
        None, description="Retrieve Location UID of what its PACS keeps (kind origin), or of what it sends; empty = the region's")
    source_id: Oid = Field(description="SubmissionSet.sourceId of what we publish for it")
    ae_title: str = Field(min_length=1, max_length=16)
    aliases: tuple[str, ...] = Field((), description="further calling AE titles that send for it")
    host: str = "127.0.0.1"
    port: int = Field(0, ge=0, le=65535, description="DICOM port of its PACS; 0 = it is never called")
    routes: tuple[Literal["get", "move"], ...] = ("move",)
    charset: Charset = Field("GB18030", description="of files that declare none")
    charsets: dict[str, Charset] = Field({}, description="what a label in Specific Character Set really is, by label")
    sop_classes: tuple[Uid, ...] = Field((), description="further storage classes that it may send")
    accession_issuer: Oid | None = None
    corrections: Literal["propose", "apply"] = Field(
        "propose", description="its objects sent again with another patient or name: wait for an operator, or are taken at once")
    limits: Limits = Limits()

    @cached_property
    def character_sets(self) -> CharacterSets:
        """How text of its files and answers is read."""
        return CharacterSets(self.charset, tuple(sorted(self.charsets.items())))


class Rule(_Part):
    """A row of [[rule]] in retention.toml: how long studies of a hospital, of a modality, or of both stay online."""

    name: str = Field(min_length=1, max_length=64, description="what a list of due studies gives as the reason")
    hospital: str = Field("", description="key of the hospital; empty = any")
    modality: str = Field("", description="a modality the study has a series of; empty = any")
    online_days: int = Field(ge=0, description="days from the study's date")
    unused_days: int = Field(0, ge=0, description="and days since it was last retrieved")


class Retention(_Part):
    """retention.toml: when a study counts as complete, when and how it is packed, what comes back for a while."""

    quiet_seconds: float = Field(60.0, gt=0, description="a study without a new object for so long is complete")
    online_days: int = Field(365, ge=0, description="days a study stays online for which no rule is made")
    unused_days: int = Field(0, ge=0, description="and days since it was last retrieved; rules of [[rule]] have their own")
    per_hospital: dict[str, int] = Field({}, description="online_days by hospital")
    per_modality: dict[str, int] = Field({}, description="online_days by modality")
    rule: tuple[Rule, ...] = Field((), description="further rules; of those that fit a study all must be over")
    grace_seconds: float = Field(0.0, ge=0, description="between the archived copy's proof and the online copy's end")
    cache_days: int = Field(30, ge=0, description="objects fetched from an origin are evicted after so many days")
    hours: Hours = Field("00:00-24:00", description="when the worker packs, in the region's time")
    bytes_per_second: int = Field(0, ge=0, description="most the worker packs on average; 0 = as fast as it can")
    studies_per_hour: int = Field(0, ge=0, description="most the worker packs; 0 = as many as it can")
    parallel: int = Field(2, ge=1, le=16, description="studies packed at once by one process")
    low_water: float = Field(0.0, ge=0, lt=100, description="per cent of the online disk: with less free room is made; 0 = off")
    high_water: float = Field(0.0, ge=0, lt=100, description="per cent that are free again when enough room was made")
    recall_reads: int = Field(0, ge=0, description="retrieves that bring a packed study back online for a while; 0 = never")
    recall_within_days: int = Field(7, ge=1, le=366, description="days within which they count")
    recall_days: int = Field(30, ge=1, description="days a recalled copy stays after its last retrieve")
    verify_days: int = Field(90, ge=0, description="days within which each container is read through once; 0 = never")
    verify_bytes_per_second: int = Field(20_000_000, ge=0, description="most that is read for it on average; 0 = any number")

    @model_validator(mode="after")
    def _marks_in_order(self) -> Self:
        if self.low_water > self.high_water:
            raise ValueError("high_water: must not be below low_water")
        return self

    @property
    def rules(self) -> tuple[Rule, ...]:
        """Every rule but the one of all other studies, the longest first."""
        short = [Rule(name=f"per_hospital.{key}", hospital=key, online_days=days, unused_days=self.unused_days)
                 for key, days in self.per_hospital.items()]
        short += [Rule(name=f"per_modality.{modality}", modality=modality, online_days=days, unused_days=self.unused_days)
                  for modality, days in self.per_modality.items()]
        return tuple(sorted((*short, *self.rule), key=lambda one: (-one.online_days, -one.unused_days, one.name)))


class Profile(_Part):
    """The whole profile."""

    region: Region
    codes: Codes
    domains: tuple[Domain, ...]
    hospitals: tuple[Hospital, ...]
    retention: Retention
    consumers: tuple[Consumer, ...] = ()
    folder: Path

    def hospital(self, key: str) -> Hospital | None:
        """Return the hospital with this key."""
        return next((h for h in self.hospitals if h.key == key), None)

    def hospital_by_ae(self, ae_title: str) -> Hospital | None:
        """Return the hospital that calls with this AE title."""
        return self._by_ae_title.get(ae_title)

    def model_copy(self, *, update: Mapping[str, Any] | None = None, deep: bool = False) -> Self:
        """Return a copy with other values; what was looked up in this one is not known there."""
        copy = super().model_copy(update=update, deep=deep)
        for looked_up in ("_by_ae_title", "_by_alias", "distinct_domains"):
            copy.__dict__.pop(looked_up, None)
        return copy

    @cached_property
    def _by_alias(self) -> dict[str, Domain]:
        return {alias: domain for domain in self.domains for alias in domain.aliases}

    def domain_by_alias(self, name: str) -> Domain | None:
        """Return the assigning authority that has this further name."""
        return self._by_alias.get(name)

    @cached_property
    def _by_ae_title(self) -> dict[str, Hospital]:
        """The hospitals by each AE title that sends for them; `load` refuses a title that two of them have."""
        return {title: hospital for hospital in self.hospitals for title in (hospital.ae_title, *hospital.aliases)}

    def domain(self, oid: str) -> Domain | None:
        """Return the assigning authority with this OID; the affinity domain is one of them."""
        return next((d for d in self.domains if d.oid == oid), None)

    @cached_property
    def distinct_domains(self) -> frozenset[str]:
        """The domains of which comparison never makes two ids one person's."""
        return frozenset(domain.oid for domain in self.domains if not domain.link_duplicates)

    def domain_by_namespace(self, namespace: str) -> Domain | None:
        """Return the assigning authority with this namespace."""
        return next((d for d in self.domains if d.namespace == namespace), None)


@dataclass(frozen=True, slots=True)
class File:
    """One file of a profile, `<name>.toml`, and the part of the profile that it holds: one `kind`, or a `[[row]]` for each.

    An `optional` file may be missing: then there are no rows.
    """

    name: str
    kind: type[_Part]
    row: str = ""
    optional: bool = False

    def read(self, folder: Path) -> Any:
        """Return what the file in `folder` holds, checked by itself. Raise `ConfigError` naming the file and the place in it."""
        file = folder / f"{self.name}.toml"
        if self.optional and not file.exists():
            return ()
        values = _toml(file)
        if not self.row:
            return _build(self.kind, values, str(file), "")
        rows = values.get(self.row, [])
        if not (isinstance(rows, list) and all(isinstance(row, dict) for row in rows)):
            raise ConfigError(f"{file}: {self.row}: must be tables, each headed [[{self.row}]]")
        return tuple(_build(self.kind, row, str(file), _named(self.row, row, n)) for n, row in enumerate(rows, 1))


FILES = (
    File("region", Region),
    File("codes", Codes),
    File("domains", Domain, "domain"),
    File("hospitals", Hospital, "hospital"),
    File("retention", Retention),
    File("consumers", Consumer, "consumer", optional=True),
)


def load(name: str, base: Path | None = None) -> Profile:
    """Read the profile called `name` (or at that path, relative to `base`). Raise `ConfigError` with one clear line."""
    places = (base or Path.cwd()) / name, data("profiles") / name
    folder = next((place for place in places if (place / "region.toml").is_file()), None)
    if folder is None:
        looked = " and ".join(str(place / "region.toml") for place in places)
        raise ConfigError(f"profile: there is no profile {name!r} (looked for {looked})")
    profile = Profile(folder=folder, **{file.name: file.read(folder) for file in FILES})
    _check(profile)
    return profile


def _named(key: str, row: dict[str, Any], number: int) -> str:
    """Return how people call a row, with a dot: by what it is named in the file, by its number only where it has no name."""
    name = next((row[field] for field in ("key", "namespace", "oid") if isinstance(row.get(field), str) and row[field]), None)
    return f"{key} {name}." if name else f"{key} number {number}."


def _toml(file: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(file.read_text("utf-8"))
    except OSError as error:
        raise ConfigError(f"{file}: it cannot be read ({error.strerror or type(error).__name__})") from error
    except (UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ConfigError(f"{file}: {error}") from error


def _build(kind: type[_Part], values: dict[str, Any], file: str, prefix: str) -> _Part:
    try:
        return kind(**values)
    except ValidationError as error:
        raise ConfigError(f"{file}: {prefix}{first_problem(error)}") from error


def _check(profile: Profile) -> None:
    domains, hospitals = profile.folder / "domains.toml", profile.folder / "hospitals.toml"
    _unique(domains, "oid", [d.oid for d in profile.domains])
    _unique(domains, "namespace", [d.namespace for d in profile.domains])
    _unique(domains, "aliases", [name for d in profile.domains for name in (d.oid, d.namespace, *d.aliases)])
    _unique(hospitals, "key", [h.key for h in profile.hospitals])
    _unique(hospitals, "ae_title", [t for h in profile.hospitals for t in (h.ae_title, *h.aliases)])
    _unique(hospitals, "source_uid", [h.source_uid for h in profile.hospitals if h.source_uid])
    affinity = profile.domain(profile.region.affinity_domain)
    if affinity is None:
        raise ConfigError(f"{domains}: the affinity domain {profile.region.affinity_domain} of region.toml is not listed")
    if affinity.feeders:
        where = f"{domains}: domain {affinity.namespace}.feeders"
        raise ConfigError(f"{where}: nobody may feed the affinity domain, its ids are issued by the broker")
    for hospital in profile.hospitals:
        where = f"{hospitals}: hospital {hospital.key}"
        if profile.domain(hospital.domain) is None:
            raise ConfigError(f"{where}.domain: {hospital.domain} is not in domains.toml")
        if hospital.kind == "origin" and not (hospital.source_uid and hospital.port):
            raise ConfigError(f"{where}: kind origin needs source_uid and port")
    _check_consumers(profile)
    named = [("per_hospital", key) for key in profile.retention.per_hospital]
    named += [(f"rule {rule.name}.hospital", rule.hospital) for rule in profile.retention.rule if rule.hospital]
    for where, key in named:
        if profile.hospital(key) is None:
            raise ConfigError(f"{profile.folder / 'retention.toml'}: {where}: {key!r} is not in hospitals.toml")


def _check_consumers(profile: Profile) -> None:
    file = profile.folder / "consumers.toml"
    _unique(file, "key", [consumer.key for consumer in profile.consumers])
    for consumer in profile.consumers:
        for oid in consumer.domains:
            domain = profile.domain(oid)
            if domain is None or domain.hidden:
                why = "is hidden from consumers" if domain else "is not in domains.toml"
                raise ConfigError(f"{file}: consumer {consumer.key}.domains: {oid} {why}")


def _unique(file: Path, key: str, values: list[str]) -> None:
    seen: set[str] = set()
    for value in values:
        if value in seen:
            raise ConfigError(f"{file}: {key}: {value} is used twice")
        seen.add(value)

"""`broker.toml`: where this installation listens, keeps its data and how much it takes.

Every key can be overridden by the environment as `BROKER_<SECTION>__<KEY>`. Relative folders are relative to the
file. A wrong key stops the start with one line naming file and key (`ConfigError`).
"""

import re
import tomllib
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, ValidationInfo, field_validator
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

_HDFS = re.compile(r"hdfs://(?P<host>[A-Za-z0-9._-]+)(:(?P<port>[0-9]{1,5}))?(/[A-Za-z0-9._-]+)+/?")


class ConfigError(Exception):
    """A wrong setting or profile; the text is one line naming file and key."""


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Server(_Section):
    """Sockets, pools and limits."""

    host: str = Field("127.0.0.1", description="address all servers listen on")
    http_port: int = Field(8080, ge=0, le=65535, description="SOAP, REST and pages")
    mllp_port: int = Field(2575, ge=0, le=65535, description="HL7 v2 over MLLP")
    dicom_port: int = Field(11112, ge=0, le=65535, description="DICOM")
    ae_title: str = Field("BROKER", min_length=1, max_length=16, description="our DICOM application entity title")
    public_url: str = Field("", description="how others reach the HTTP port; empty = http(s)://host:http_port")
    web_workers: int = Field(1, ge=1, le=64, description="web processes")
    threads: int = Field(32, ge=2, le=512, description="threads of a web process")
    retrieve_slots: int = Field(16, ge=1, le=512, description="retrieves at once in a web process; fewer than threads")
    plain_retrieve: bool = Field(
        default=False, description="take ITI-43 and RAD-69 requests that come as plain SOAP, too; answers stay MTOM")
    uploads: int = Field(
        16, ge=1, le=512, description="bodies over 256 KB that are read at once in a web process, in threads of their own")
    receivers: int = Field(1, ge=1, le=64, description="DICOM receiver processes on one port")
    max_associations: int = Field(64, ge=1, le=4096, description="DICOM associations of a receiver process")
    max_request: int = Field(16 << 20, ge=1024, description="bytes of one SOAP root part")
    max_body: int = Field(8 << 30, ge=1024, description="bytes of one HTTP request body")
    mllp_connections: int = Field(64, ge=1, le=16384, description="MLLP connections at once")
    max_parts: int = Field(10_000, ge=2, description="parts of one multipart request")
    max_listed: int = Field(
        10_000, ge=1, description="instances, documents or registry objects that one request lists (RAD-69, ITI-41, 42, 43)")
    max_message: int = Field(4 << 20, ge=1024, description="bytes of one MLLP frame")
    waiting_connections: int = Field(
        2000, ge=16, description="connections of a web or receiver process that have not asked for anything yet")
    min_rate: int = Field(4096, ge=1, description="bytes a second a peer must send in mid-message, over io_timeout seconds")
    io_timeout: float = Field(30.0, gt=0, description="seconds a peer may be silent in mid-message")
    idle_timeout: float = Field(300.0, gt=0, description="seconds a connection may stay open without a message")


class DatabaseSection(_Section):
    """The durable store."""

    url: str = Field("", description="SQLAlchemy URL; empty = SQLite in the data folder")


class RedisSection(_Section):
    """Coordination between machines."""

    url: str = Field("", description="redis:// URL; empty = inside this machine")


class OnlineSection(_Section):
    """Pictures in original format."""

    folder: Path | None = Field(None, description="empty = data/online")
    fsync: bool = Field(True, description="make every object durable before it is acknowledged")
    one_commit: bool = Field(True, description="where the file system keeps order (ext4 with ordered data, XFS), make an "
                                               "object and its name durable in one step, not two")


class HdfsSection(_Section):
    """How the archive's HDFS is used."""

    block_size: int = Field(256 << 20, ge=1 << 20, multiple_of=512, description="bytes of a block")
    replication: int = Field(3, ge=1, le=512, description="copies of each block; fewer than the cluster has DataNodes")
    user: str = Field("", description="user of the NameNode's permissions, without Kerberos; empty = the system's")
    options: dict[str, str] = Field({}, description="Hadoop client options, such as those of a name service")
    principal: str = Field("", description="Kerberos principal; empty = no Kerberos")
    keytab: Path | None = Field(None, description="file with the principal's key; empty = the tickets of the system")
    protection: Literal["", "authentication", "integrity", "privacy"] = Field(
        "", description="of bytes on their way, with Kerberos; empty = what the options say")
    web: tuple[str, ...] = Field(
        (), description="HTTP addresses of the NameNodes (http://host:9870), which tell of free room and live DataNodes")
    metadata_seconds: float = Field(5.0, gt=0, description="seconds the NameNode may take to answer")
    read_seconds: float = Field(10.0, gt=0, description="seconds a read may go without a byte")
    write_seconds: float = Field(10.0, gt=0, description="seconds the writing of a container may wait, beside size / write_rate")
    write_rate: float = Field(10e6, gt=0, description="bytes a second that writing is granted")

    @field_validator("keytab")
    @classmethod
    def _is_somebodys(cls, keytab: Path | None, others: ValidationInfo) -> Path | None:
        if keytab and not others.data.get("principal"):
            raise ValueError("it needs archive.hdfs.principal")
        return keytab


class ArchiveSection(_Section):
    """S-DICOM containers."""

    folder: Path | None = Field(None, description="empty = data/archive")
    hdfs: HdfsSection = HdfsSection()
    url: str = Field(
        "", description="folder in an HDFS: hdfs://host:port/path or hdfs://name-service/path; empty = archive.folder")

    @field_validator("url")
    @classmethod
    def _leads_somewhere(cls, url: str, others: ValidationInfo) -> str:
        where = _HDFS.fullmatch(url)
        if url and where is None:
            raise ValueError("it is not like hdfs://host:port/path")
        options = others.data["hdfs"].options if "hdfs" in others.data else {}
        if where and not where["port"] and f"dfs.ha.namenodes.{where['host']}" not in options:
            raise ValueError(f"it has no port, and archive.hdfs.options no dfs.ha.namenodes.{where['host']}")
        return url


class RepositorySection(_Section):
    """Documents (manifests and reports)."""

    folder: Path | None = Field(None, description="empty = data/documents")
    registry_url: str = Field("", description="ITI-42 endpoint of another registry; empty = our own, in the same transaction")
    submit_url: str = Field("", description="ITI-41 endpoint our manifests go to; empty = our own repository")


class RegistrySection(_Section):
    """What one stored query may ask and get."""

    max_objects: int = Field(2000, ge=1, description="objects in full in one answer; more are XDSTooManyResults")
    max_references: int = Field(50_000, ge=1, description="references (ObjectRef) in one answer")
    max_values: int = Field(10_000, ge=1, description="values of parameters in one stored query")


class OutboundSection(_Section):
    """Patience with the registry and the repository of others."""

    connect: float = Field(5.0, gt=0, description="seconds the registry or repository of others may take to accept a connection")
    silence: float = Field(60.0, gt=0, description="seconds such a peer may be silent")
    max_answer: int = Field(16 << 20, ge=1024, description="bytes of such a peer's answer")
    reply_to: tuple[str, ...] = Field(
        (), description="beginnings of addresses to which answers of SOAP are sent where wsa:ReplyTo asks for it; empty = none")
    ca: Path | None = Field(None, description="PEM file of the authorities of servers we call; empty = the system's")
    certificate: Path | None = Field(None, description="PEM file with the certificate that we show to servers we call")
    key: Path | None = Field(None, description="PEM file with its private key; empty = the certificate's file")


class TlsPort(_Section):
    """TLS of one port; with a certificate it speaks TLS only."""

    certificate: Path | None = Field(None, description="PEM file with our certificate, then its chain; empty = no TLS")
    key: Path | None = Field(None, description="PEM file with its private key, without password; empty = the certificate's file")
    client_ca: Path | None = Field(None, description="PEM file of the authorities of clients' certificates; empty = none asked")
    client_required: bool = Field(default=False, description="refuse clients that show no certificate of client_ca")
    minimum: Literal["1.2", "1.3"] = Field("1.2", description="lowest version of TLS")


class TlsSection(_Section):
    """TLS of the ports."""

    http: TlsPort = TlsPort()
    mllp: TlsPort = TlsPort()
    dicom: TlsPort = TlsPort()
    handshake: float = Field(5.0, gt=0, description="seconds a handshake may take")


class SecuritySection(_Section):
    """Who may call."""

    mode: Literal["off"] = Field("off", description="off: every caller is anonymous and may do everything")
    open_writes: bool = Field(
        default=False, description="while mode is off, take FHIR feeds (ITI-104) from other machines, too")


class AuditSection(_Section):
    """ATNA audit trail."""

    folder: Path | None = Field(None, description="append-only spool; empty = data/audit")
    source_id: str = Field("broker", min_length=1, description="AuditSourceID")
    site: str = Field("", description="AuditEnterpriseSiteID; empty = the region's name")


class Settings(BaseSettings):
    """All settings of one installation."""

    model_config = SettingsConfigDict(env_prefix="BROKER_", env_nested_delimiter="__", extra="forbid", frozen=True)

    profile: str = Field("demo", description="a region shipped with the broker, or a path to a profile folder")
    data: Path = Field(Path("broker-data"), description="folder for everything that has no folder of its own")
    server: Server = Server()
    database: DatabaseSection = DatabaseSection()
    redis: RedisSection = RedisSection()
    online: OnlineSection = OnlineSection()
    archive: ArchiveSection = ArchiveSection()
    repository: RepositorySection = RepositorySection()
    registry: RegistrySection = RegistrySection()
    outbound: OutboundSection = OutboundSection()
    tls: TlsSection = TlsSection()
    security: SecuritySection = SecuritySection()
    audit: AuditSection = AuditSection()

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],  # noqa: ARG003
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,  # noqa: ARG003
        file_secret_settings: PydanticBaseSettingsSource,  # noqa: ARG003
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Environment first, then the file (given as init values)."""
        return env_settings, init_settings

    @property
    def public_url(self) -> str:
        """Base URL others reach us by, without a trailing slash."""
        scheme = "https" if self.tls.http.certificate else "http"
        return self.server.public_url.rstrip("/") or f"{scheme}://{self.server.host}:{self.server.http_port}"

    @property
    def database_url(self) -> str:
        """SQLAlchemy URL of the durable store."""
        return self.database.url or f"sqlite:///{self.data / 'broker.db'}"

    @property
    def online_folder(self) -> Path:
        """Where original files live."""
        return self.online.folder or self.data / "online"

    @property
    def archive_folder(self) -> Path:
        """Where containers live."""
        return self.archive.folder or self.data / "archive"

    @property
    def documents_folder(self) -> Path:
        """Where documents live."""
        return self.repository.folder or self.data / "documents"

    @property
    def audit_folder(self) -> Path:
        """Where the audit spool lives."""
        return self.audit.folder or self.data / "audit"

    @property
    def run_folder(self) -> Path:
        """Where processes of this machine meet (sockets, locks)."""
        return self.data / "run"


def load(file: Path | None) -> Settings:
    """Read `file` (None: all defaults, under the current folder). Raise `ConfigError` with one clear line."""
    values: dict[str, Any] = {}
    name = str(file) if file else "defaults"
    base = file.resolve().parent if file else Path.cwd()
    if file:
        try:
            values = tomllib.loads(file.read_text("utf-8"))
        except OSError as error:
            raise ConfigError(f"{name}: it cannot be read ({error.strerror or type(error).__name__})") from error
        except (UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
            raise ConfigError(f"{name}: {error}") from error
    try:
        settings = Settings(**values)
    except ValidationError as error:
        raise ConfigError(f"{name}: {first_problem(error)}") from error
    if settings.server.retrieve_slots >= settings.server.threads:
        raise ConfigError(f"{name}: server.retrieve_slots: must be fewer than server.threads ({settings.server.threads})")
    return _absolute(settings, base)


def first_problem(error: ValidationError) -> str:
    """Return `key: what is wrong` of the first problem."""
    first = error.errors()[0]
    what = "there is no such key" if first["type"] == "extra_forbidden" else first["msg"].removeprefix("Value error, ")
    return f"{'.'.join(map(str, first['loc'])) or 'file'}: {what}"


def _absolute(settings: Settings, base: Path) -> Settings:
    def under(section: _Section) -> _Section:
        found: dict[str, Any] = {}
        for name in type(section).model_fields:
            value = getattr(section, name)
            if isinstance(value, Path):
                found[name] = base / value
            elif isinstance(value, _Section):
                found[name] = under(value)
        return section.model_copy(update=found) if found else section

    sections = {n: under(getattr(settings, n)) for n in ("online", "archive", "repository", "audit", "outbound", "tls")}
    return settings.model_copy(update={"data": base / settings.data, **sections})

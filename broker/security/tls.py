"""TLS by settings: contexts of the ports we serve and of the calls we begin, and what a peer's certificate says of it.

Versions and ciphers are those of BCP 195 (RFC 9325): TLS 1.2 with forward secrecy and AEAD, or 1.3. A context is made once
for each process: making one costs as much as a handshake.
"""

import ssl
from pathlib import Path

from broker.config.settings import ConfigError, OutboundSection, Settings, TlsPort
from broker.model.caller import Certificate

WIRES = ("http", "mllp", "dicom")
_CIPHERS = "ECDHE+AESGCM:ECDHE+CHACHA20"     # of TLS 1.2 (RFC 9325 4.2); those of 1.3 are all of this kind
_VERSIONS = {"1.2": ssl.TLSVersion.TLSv1_2, "1.3": ssl.TLSVersion.TLSv1_3}
_WORDS = {
    "KEY_VALUES_MISMATCH": "it does not belong to the certificate",
    "NO_START_LINE": "it holds nothing of this kind in PEM form",
    "NO_CERTIFICATE_OR_CRL_FOUND": "it holds no certificate in PEM form",
    "EE_KEY_TOO_SMALL": "its key is too short",
    "CA_MD_TOO_WEAK": "it is signed with a hash that is broken",
}


def server_context(name: str, port: TlsPort) -> ssl.SSLContext | None:
    """Return the context of a port, None where it is plain. `name` is its section, as `tls.http`.

    Raise `ConfigError` naming the key whose file is missing, is no certificate or key, or does not match.
    """
    if port.certificate is None:
        for key in ("key", "client_ca"):
            if getattr(port, key) is not None:
                raise ConfigError(f"{name}.{key}: it needs {name}.certificate")
        if port.client_required:
            raise ConfigError(f"{name}.client_required: it needs {name}.certificate")
        return None
    if port.client_required and port.client_ca is None:
        raise ConfigError(f"{name}.client_required: it needs {name}.client_ca")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    _strengthen(context, port.minimum)
    # An end without close_notify is common, and every wire knows by itself whether a message is whole. Without this OpenSSL
    # would call it an error, after which nothing can be sent: no A-ABORT, no 408 to one whose reading we ended ourselves.
    context.options |= ssl.OP_IGNORE_UNEXPECTED_EOF
    _load_own(context, name, port.certificate, port.key)
    if port.client_ca is not None:
        _load_authorities(context, f"{name}.client_ca", port.client_ca)
        context.verify_mode = ssl.CERT_REQUIRED if port.client_required else ssl.CERT_OPTIONAL
    return context


def client_context(outbound: OutboundSection) -> ssl.SSLContext:
    """Return the context of the calls that we begin. Raise `ConfigError` as `server_context` does."""
    context = ssl.create_default_context()
    _strengthen(context, "1.2")
    if outbound.ca is not None:
        _load_authorities(context, "outbound.ca", outbound.ca)
    if outbound.certificate is not None:
        _load_own(context, "outbound", outbound.certificate, outbound.key)
    elif outbound.key is not None:
        raise ConfigError("outbound.key: it needs outbound.certificate")
    return context


def check(settings: Settings) -> None:
    """Raise `ConfigError` for the first setting of TLS that cannot be used."""
    for wire in WIRES:
        server_context(f"tls.{wire}", getattr(settings.tls, wire))
    client_context(settings.outbound)


def peer_certificate(sock: ssl.SSLSocket) -> Certificate | None:
    """Return the verified certificate of a peer whose handshake is done, None where it showed none."""
    der, fields = sock.getpeercert(binary_form=True), sock.getpeercert()
    if not der or not fields:
        return None
    return Certificate.of(der, fields)


def _strengthen(context: ssl.SSLContext, minimum: str) -> None:
    context.minimum_version = _VERSIONS[minimum]
    context.set_ciphers(_CIPHERS)
    context.options |= ssl.OP_NO_RENEGOTIATION


def _load_own(context: ssl.SSLContext, name: str, certificate: Path, key: Path | None) -> None:
    _check_readable(f"{name}.certificate", certificate)
    if key is not None:
        _check_readable(f"{name}.key", key)
    try:
        context.load_cert_chain(certificate, key, password=_no_password)
    except ssl.SSLError as error:
        if _is_no_certificate(certificate):
            raise ConfigError(f"{name}.certificate: {certificate}: {_why(error)}") from error
        if key is None:
            raise ConfigError(f"{name}.key: empty, and {certificate} holds no key that can be used") from error
        raise ConfigError(f"{name}.key: {key}: {_why(error)}") from error
    except ValueError as error:
        raise ConfigError(f"{name}.key: {key or certificate}: the key has a password; only one without is taken") from error


def _load_authorities(context: ssl.SSLContext, name: str, file: Path) -> None:
    _check_readable(name, file)
    try:
        context.load_verify_locations(file)
    except ssl.SSLError as error:
        raise ConfigError(f"{name}: {file}: {_why(error)}") from error


def _no_password() -> str:
    """Be asked instead of the terminal."""
    raise ValueError("no password is known")


def _is_no_certificate(file: Path) -> bool:
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_verify_locations(file)
    except ssl.SSLError:
        return True
    return False


def _check_readable(name: str, file: Path) -> None:
    try:
        with file.open("rb"):
            pass
    except OSError as error:
        raise ConfigError(f"{name}: {file}: {error.strerror}") from error


def _why(error: ssl.SSLError) -> str:
    return _WORDS.get(error.reason or "NO_START_LINE", f"it cannot be used ({error.reason})")

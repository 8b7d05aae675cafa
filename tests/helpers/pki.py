"""Certificates made for a test: an authority, a server and clients of it, and those that must be refused."""

import datetime as dt
import ipaddress
import ssl
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

DAY = dt.timedelta(days=1)


class Authority:
    """A certificate authority whose files lie in `folder`: `ca.pem`, and `NAME.pem` with `NAME.key` of each it signs."""

    def __init__(self, folder: Path, name: str = "Test CA") -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        builder = _builder(self._name, self._name, self._key, DAY).add_extension(x509.BasicConstraints(True, None), True)
        self._certificate = builder.add_extension(_usage(signs_certificates=True), True).sign(self._key, hashes.SHA256())
        self.ca = folder / "ca.pem"
        self.ca.write_bytes(self._certificate.public_bytes(serialization.Encoding.PEM))

    def sign(self, name: str, days: int = 1, password: bytes = b"") -> tuple[Path, Path]:
        """Return certificate and key of `name` in hospital Demo, for localhost; with negative `days` it has expired."""
        hidden = serialization.BestAvailableEncryption(password) if password else serialization.NoEncryption()
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([
            x509.NameAttribute(NameOID.ORGANIZATION_NAME, "Demo"), x509.NameAttribute(NameOID.COMMON_NAME, name)])
        names = x509.SubjectAlternativeName([x509.DNSName("localhost"), x509.IPAddress(ipaddress.ip_address("127.0.0.1"))])
        builder = _builder(subject, self._name, key, days * DAY).add_extension(names, False)
        builder = builder.add_extension(_usage(signs_certificates=False), True)
        builder = builder.add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key()), False)
        certificate = builder.add_extension(x509.BasicConstraints(False, None), True).sign(self._key, hashes.SHA256())
        files = self.folder / f"{name}.pem", self.folder / f"{name}.key"
        files[0].write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
        files[1].write_bytes(key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, hidden))
        return files

    def port(self, *, required: bool = False, clients: bool = True) -> dict[str, Any]:
        """Return the settings of a TLS port with a certificate of this authority."""
        certificate, key = self.sign("server")
        asked: dict[str, Any] = {"client_ca": self.ca, "client_required": required} if clients else {}
        return {"certificate": certificate, "key": key, **asked}

    def client(
        self, name: str = "", *, by: "Authority | None" = None, maximum: ssl.TLSVersion = ssl.TLSVersion.MAXIMUM_SUPPORTED,
    ) -> ssl.SSLContext:
        """Return the context of a client that trusts this authority, with a certificate of its own (signed `by`) if named.

        In TLS 1.3 a server sends tickets: a client that looks whether anything came sees them. In 1.2 it sees nothing.
        """
        context = ssl.create_default_context(cafile=self.ca)
        context.maximum_version = maximum
        if name:
            context.load_cert_chain(*(by or self).sign(name))
        return context


def _builder(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePrivateKey, valid: dt.timedelta,
) -> x509.CertificateBuilder:
    now = dt.datetime.now(dt.UTC)
    begins = now - DAY if valid > dt.timedelta() else now + 2 * valid
    return (
        x509.CertificateBuilder().subject_name(subject).issuer_name(issuer).public_key(key.public_key())
        .serial_number(x509.random_serial_number()).not_valid_before(begins).not_valid_after(now + valid)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), False))


def _usage(*, signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs_certificates, key_cert_sign=signs_certificates, crl_sign=signs_certificates,
        content_commitment=False, key_encipherment=False, data_encipherment=False, key_agreement=False, encipher_only=False,
        decipher_only=False)

import datetime as dt
import ssl
from pathlib import Path
from typing import Any

import pytest

from broker.config.settings import ConfigError, OutboundSection, TlsPort
from broker.security import certificates, tls
from tests.helpers.pki import Authority


@pytest.fixture
def pki(tmp_path: Path) -> Authority:
    return Authority(tmp_path / "pki")


def test_a_port_without_a_certificate_is_plain() -> None:
    assert tls.server_context("tls.http", TlsPort()) is None


@pytest.mark.parametrize(("required", "clients", "mode"), [
    (False, False, ssl.CERT_NONE), (False, True, ssl.CERT_OPTIONAL), (True, True, ssl.CERT_REQUIRED)])
def test_clients_are_asked_for_a_certificate_as_set(pki: Authority, required: bool, clients: bool, mode: ssl.VerifyMode) -> None:
    context = tls.server_context("tls.http", TlsPort(**pki.port(required=required, clients=clients)))
    assert context is not None
    assert context.verify_mode is mode
    assert context.minimum_version is ssl.TLSVersion.TLSv1_2
    assert {cipher["protocol"] for cipher in context.get_ciphers()} == {"TLSv1.2", "TLSv1.3"}
    older = [cipher for cipher in context.get_ciphers() if cipher["protocol"] == "TLSv1.2"]
    assert all(cipher["aead"] and "ECDHE" in cipher["name"] for cipher in older)


def wrong(pki: Authority) -> dict[str, tuple[dict[str, Any], str]]:
    certificate, key = pki.sign("server")
    _, other = pki.sign("other")
    text = pki.folder / "text.pem"
    text.write_text("no certificate\n")
    missing = pki.folder / "missing.pem"
    return {
        "certificate missing": ({"certificate": missing}, f"tls.http.certificate: {missing}: No such file or directory"),
        "certificate no PEM": ({"certificate": text, "key": key}, f"tls.http.certificate: {text}: it holds nothing of this kind"),
        "key missing": (
            {"certificate": certificate, "key": missing}, f"tls.http.key: {missing}: No such file or directory"),
        "key no PEM": ({"certificate": certificate, "key": text}, f"tls.http.key: {text}: it holds nothing of this kind"),
        "key of another": (
            {"certificate": certificate, "key": other}, f"tls.http.key: {other}: it does not belong to the certificate"),
        "no key at all": ({"certificate": certificate}, f"tls.http.key: empty, and {certificate} holds no key"),
        "authority no PEM": (
            {"certificate": certificate, "key": key, "client_ca": text}, f"tls.http.client_ca: {text}: it holds no"),
        "required of nobody": (
            {"certificate": certificate, "key": key, "client_required": True},
            "tls.http.client_required: it needs tls.http.client_ca"),
        "key alone": ({"key": key}, "tls.http.key: it needs tls.http.certificate"),
        "authority alone": ({"client_ca": pki.ca}, "tls.http.client_ca: it needs tls.http.certificate"),
    }


@pytest.mark.parametrize("case", [
    "certificate missing", "certificate no PEM", "key missing", "key no PEM", "key of another", "no key at all",
    "authority no PEM", "required of nobody", "key alone", "authority alone"])
def test_what_is_wrong_is_said_with_key_and_file(pki: Authority, case: str) -> None:
    port, text = wrong(pki)[case]
    with pytest.raises(ConfigError) as raised:
        tls.server_context("tls.http", TlsPort(**port))
    assert str(raised.value).startswith(text)


def test_a_key_with_a_password_is_refused_and_nobody_is_asked(pki: Authority) -> None:
    certificate, key = pki.sign("server", password=b"secret")
    with pytest.raises(ConfigError, match=r"tls.dicom.key: .*the key has a password"):
        tls.server_context("tls.dicom", TlsPort(certificate=certificate, key=key))


def test_the_calls_we_begin_show_a_certificate_and_trust_the_region(pki: Authority) -> None:
    certificate, key = pki.sign("broker")
    context = tls.client_context(OutboundSection(ca=pki.ca, certificate=certificate, key=key))
    assert context.verify_mode is ssl.CERT_REQUIRED
    assert ssl.PEM_cert_to_DER_cert(pki.ca.read_text("ascii")) in context.get_ca_certs(binary_form=True)
    with pytest.raises(ConfigError, match=r"outbound\.key: it needs outbound\.certificate"):
        tls.client_context(OutboundSection(key=key))


def test_validity_is_that_of_the_whole_chain(pki: Authority, tmp_path: Path) -> None:
    chain = tmp_path / "chain.pem"
    chain.write_bytes(pki.sign("server", days=30)[0].read_bytes() + pki.ca.read_bytes())
    begins, ends = certificates.validity(chain)
    now = dt.datetime.now(dt.UTC)
    assert begins < now < ends < now + dt.timedelta(days=2)

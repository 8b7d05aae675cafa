"""What TLS costs: the same load into two brokers of one run, one of which has a server certificate on the port."""

import contextlib
import os
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

from broker.config.settings import Settings, load
from tests.bench import dicom, pictures, scene, soap
from tests.bench.harness import Figure, Notes, Round
from tests.helpers.pki import Authority

_SIZE = 512


def with_tls(made: Settings, wire: str, pki: Authority) -> Settings:
    """Return the settings with a server certificate on one port; their file says the same."""
    certificate, key = pki.sign("server")
    config = made.data.parent / "broker.toml"
    with config.open("a", encoding="utf-8") as file:
        file.write(f'[tls.{wire}]\ncertificate = "{certificate}"\nkey = "{key}"\n')
    return load(config)


def _parts(where: Path) -> tuple[Path, Path, Authority]:
    folders = where / "plain", where / "tls"
    for folder in folders:
        folder.mkdir()
    return *folders, Authority(where / "pki")


@contextlib.contextmanager
def _cstore(notes: Notes) -> Iterator[Round]:
    sent = pictures.made(_SIZE)
    with scene.folder() as where:
        plain, secure, pki = _parts(where)
        options = ("+tla", "+cf", str(pki.ca))
        with dicom.receiving(plain) as one, dicom.receiving(secure, tls=lambda made: with_tls(made, "dicom", pki)) as other:
            into_plain = dicom.Receive(one, sent, 1, notes)
            into_tls = dicom.Receive(other, sent, 1, notes, options)
            yield lambda: (into_tls.ours(), into_plain.ours())
            into_tls.say()
            into_plain.say()
    notes.add("storescu +tla for the first figures, plain for the others; both include the sender's own work")


@contextlib.contextmanager
def _iti18(notes: Notes) -> Iterator[Round]:
    with scene.folder() as where, contextlib.ExitStack() as stack:
        plain, secure, pki = _parts(where)
        rates: list[Callable[[], float]] = []
        for folder, authority in ((secure, pki.ca), (plain, None)):     # each knows patients of its own
            settings = scene.settings(folder)
            settings = with_tls(settings, "http", pki) if authority else settings
            with scene.parts(settings) as app:
                load = scene.Load(folder, soap.queries(app), authority=authority)
            pid = stack.enter_context(scene.web(settings))
            rates.append(partial(load.rate, settings.server.http_port, b"</ExtrinsicObject>"))
            notes.add(f"worker's peak {scene.peak_memory(pid)}")
        yield lambda: (rates[0](), rates[1]())
    notes.add(f"kept connections; {os.cpu_count()} cores, the load's own TLS among them")


FIGURES: list[Figure] = [
    Figure("tls.cstore.plain", "the same without TLS", "objects/s", 0.6, 0.85, _cstore),
    Figure("tls.iti18.plain", "the same without TLS", "requests/s", 0.6, 0.85, _iti18),
]

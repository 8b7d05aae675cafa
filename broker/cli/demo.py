"""`broker demo`: the whole story on this machine, from a patient's registration to her pictures from three places."""

import signal
import sys
import threading
import time
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.filesize import decimal
from rich.table import Table

from broker.app.whole import App
from broker.demo import data as demo_data
from broker.demo.stage import Stage, stage
from broker.demo.story import STEPS, Row, Story
from broker.model.errors import BrokerError

Hdfs = Annotated[str, typer.Option("--hdfs", metavar="URL", help="folder in an HDFS for the archive; two replicas")]
Once = Annotated[bool, typer.Option("--once", help="end after the table; exit status 1 when a step failed")]


def demo(once: Once = False, hdfs: Hdfs = "") -> None:
    """Play the broker's story with two hospitals on this machine, and keep it running to try things out."""
    console = Console()
    for number in (signal.SIGINT, signal.SIGTERM):      # also where a shell started us with SIGINT ignored
        signal.signal(number, signal.default_int_handler)
    try:
        with console.status("starting the broker and hospital B's PACS …") as status, stage(Path("broker-data"), hdfs) as place:
            status.stop()
            _welcome(console, place)
            with closing(App(place.settings, place.profile)) as app:
                _play(console, Story(place, app))
            if not once:
                _farewell(console, place)
                threading.Event().wait()
    except KeyboardInterrupt:
        console.print("stopped")
    except BrokerError as error:
        console.print(f"[red]failed:[/red] {error}", highlight=False)
        console.print("see broker.log and hospital-b/pacs.log in broker-data/demo", highlight=False)
        raise typer.Exit(1) from error


def _play(console: Console, story: Story) -> None:
    try:
        for number, (title, step) in enumerate(STEPS, 1):
            console.print(f"[bold]{number}. {title}[/bold]", highlight=False, soft_wrap=True)
            started = time.monotonic()
            with console.status("…"):
                said = step(story)
            console.print(f"   {said} [dim]({time.monotonic() - started:.1f} s)[/dim]", highlight=False, soft_wrap=True)
    finally:
        _show(console, story.rows)


def _show(console: Console, rows: Sequence[Row]) -> None:
    table = Table("asked", "where it was", "objects", "bytes", "seconds", title="What was asked, and where it came from")
    for row in rows:
        table.add_row(
            row.what, row.place, f"{len(row.pictures)} of {row.asked}", decimal(sum(picture.size for picture in row.pictures)),
            "" if row.seconds is None else f"{row.seconds:.2f}")
    if rows:
        console.print(table)


def _welcome(console: Console, place: Stage) -> None:
    server = place.settings.server
    console.print(
        f"The broker runs: SOAP and HTTP {place.settings.public_url}, HL7 v2 {server.host}:{server.mllp_port}, "
        f"DICOM {server.ae_title} {server.host}:{server.dicom_port}. "
        f"Hospital B's PACS is {place.pacs.program}, {place.pacs.node.ae_title} port {place.pacs.node.port}. "
        f"The archive is {place.settings.archive.url or place.settings.archive_folder}.",
        highlight=False, soft_wrap=True)


def _farewell(console: Console, place: Stage) -> None:
    patient, options = f"HOSPA:{demo_data.PATIENT_A}", f"--config {place.config}"
    called = sys.argv[0] if Path(sys.argv[0]).name == "broker" else f"{sys.executable} -m broker"
    console.print(
        "\nThe region keeps running until Ctrl-C. Three things to try in another terminal:\n"
        f"  {called} query {patient} {options}\n"
        f"  {called} fetch {patient} --to pictures {options}\n"
        f"  curl {place.settings.public_url}/services", highlight=False, soft_wrap=True)

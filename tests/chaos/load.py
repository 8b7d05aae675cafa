"""Work in parallel until told to stop: submit, receive, feed, fetch, pack and look. What is acknowledged is journalled.

A sender whose answer was cut sends the same thing again, as senders do, until it has an answer.
"""

import contextlib
import hashlib
import http.client
import os
import random
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping

from tests.chaos import doors, studies
from tests.chaos.asking import B_PATIENT, LATER, NO_ANSWER, OURS, THEIRS, affinity_id, differences, refs
from tests.chaos.doors import Cut
from tests.chaos.journal import Document, Journal, Picture
from tests.chaos.link import Link
from tests.chaos.studies import OLD, RECENT, Shot
from tests.chaos.submission import submission
from tests.chaos.watcher import Watcher
from tests.helpers import dicom, mllp
from tests.helpers.region import Region

_PAUSE = 0.3
_KNOWN = {"XDSRegistryDuplicateUniqueIdInRegistry", "XDSDuplicateUniqueIdInRegistry"}

_ADT = """
MSH|^~\\&|HIS-A|HOSPA|BROKER|REGION|20261101101500||ADT^A04^ADT_A01|{control}|P|2.3.1||||||GB 18030-2000
EVN||20261101101500
PID|||{value}^^^HOSPA&2.999.2.1&ISO^PI||{name}^^^^^L||{birth}|F
PV1||O
"""


class Load:
    """The senders and readers. `start` them, `stop` them; `journal` then holds what was acknowledged."""

    def __init__(self, region: Region, pacs: dicom.Orthanc, line: Link, journal: Journal, seed: int) -> None:
        self._region, self._pacs, self._line, self._journal, self._seed = region, pacs, line, journal, seed
        self._stop = threading.Event()
        self._threads: list[threading.Thread] = []
        self._affinity: list[str] = []

    def start(self) -> None:
        """Begin; returns when patients to write reports about are known."""
        dice = random.Random(f"{self._seed}/patients")
        values = [f"A-{dice.getrandbits(40):x}" for _ in range(3)]
        for value in values:
            self._feed(dice, value)
        self._affinity = [affinity_id(self._region.mllp_port, value) for value in values]
        watcher = Watcher(self._region, self._journal, self._affinity, self._stop)
        kinds: list[Callable[[random.Random], None]] = [
            self._submit, self._submit, self._receive, self._receive, self._fetch, self._fetch, self._fetch, self._migrate,
            self._look, watcher.watch]
        for number, kind in enumerate(kinds):
            dice = random.Random(f"{self._seed}/{number}")
            self._threads.append(threading.Thread(target=self._run, args=(kind, dice), name=f"{kind.__name__}-{number}"))
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """Let each finish what it is doing."""
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def _run(self, kind: Callable[[random.Random], None], dice: random.Random) -> None:
        while not self._stop.is_set():
            kind(dice)

    def _again(self, attempt: Callable[[], bool]) -> bool:
        """Repeat until it is done (True) or the load ends (False)."""
        while not attempt():
            if self._stop.wait(_PAUSE):
                return False
        return True

    def _submit(self, dice: random.Random) -> None:
        """ITI-41 with one to three reports of random bytes, now and then large ones."""
        sizes = [dice.randrange(1, 4 << 20 if dice.random() < 0.1 else 200_000) for _ in range(dice.randint(1, 3))]
        content = {f"Doc{n}": (studies.uid(dice), dice.randbytes(size)) for n, size in enumerate(sizes)}
        set_uid = studies.uid(dice)
        patient = dice.choice(self._affinity)
        self._journal.sent[set_uid] = frozenset(unique_id for unique_id, _ in content.values())
        xml = submission(set_uid, patient, content)
        data = {key: body for key, (_, body) in content.items()}
        cut = False

        def attempt() -> bool:
            nonlocal cut
            try:
                with self._journal.under_way("submission"):
                    answer = doors.submit(self._region.http_port, xml, data)
            except Cut:
                self._journal.count("submissions cut")
                cut = True
                return False
            codes = {code for code, *_ in answer.errors}
            if answer.status != "Success" and codes <= LATER:
                return False
            if answer.status == "Success" or (cut and codes <= _KNOWN):
                repeated = answer.status != "Success"
                self._journal.acknowledge_documents(
                    Document(unique_id=unique_id, sha1=hashlib.sha1(body, usedforsecurity=False).hexdigest(), size=len(body),
                             patient=patient, submission_set=set_uid, repeated=repeated) for unique_id, body in content.values())
                self._journal.count("submissions acknowledged")
            else:
                self._journal.blame(f"submission {set_uid} answered {answer.status} {answer.errors}")
            return True
        self._again(attempt)
        self._stop.wait(dice.uniform(0, 1))

    def _receive(self, dice: random.Random) -> None:
        """A study of hospital A by storescu; its patient is fed before or after; some come twice, some with other bytes."""
        value = f"A-{dice.getrandbits(40):x}"
        early = dice.random() < 0.5
        if early:
            self._feed(dice, value)
        shots = studies.study(
            self._region.folder / "sent", dice, value, date=OLD if dice.random() < 0.7 else RECENT, count=dice.randint(3, 16),
            pixels=dice.choice((64, 128, 256, 512)))
        whole = self._store(shots)
        if whole and dice.random() < 0.15:
            self._store(shots)
            self._journal.count("studies sent twice")
        if whole and (not self._journal.aside or dice.random() < 0.15):
            self._store_other(dice, shots[0])
        studies.drop(shots)
        if not early:
            self._feed(dice, value)
        self._stop.wait(dice.uniform(0, 1.5))

    def _store(self, shots: list[Shot]) -> bool:
        left = list(shots)

        def attempt() -> bool:
            done = stored(left, self._line.port)
            for shot in left[:done]:
                self._journal.acknowledge_picture(shot.picture)
            del left[:done]
            if left:
                self._journal.count("associations cut")
            return not left
        return self._again(attempt)

    def _store_other(self, dice: random.Random, shot: Shot) -> None:
        picture = shot.picture
        other = studies.shoot(
            shot.file.with_name("other.dcm"), dice, (picture.study, picture.series, picture.sop), patient=picture.patient,
            date=OLD if picture.old else RECENT, number=1, pixels=64)
        if self._again(lambda: stored([other], self._line.port) == 1):
            self._journal.acknowledge_aside(other.picture)
        studies.drop([other])

    def _feed(self, dice: random.Random, value: str) -> None:
        """ITI-8 of a new patient; the same MSH-10 again until there is an answer."""
        control = f"m-{dice.getrandbits(60):x}"
        name = "^".join("".join(chr(dice.randrange(0x4E00, 0x9FA5)) for _ in range(2)) for _ in range(2))
        birth = f"{dice.randrange(1930, 2020)}{dice.randrange(1, 13):02}{dice.randrange(1, 29):02}"
        message = _ADT.format(control=control, value=value, name=name, birth=birth)

        def attempt() -> bool:
            try:
                with self._journal.under_way("feed"):
                    answer = mllp.segment(mllp.send(self._region.mllp_port, message), "MSA")
            except NO_ANSWER:
                self._journal.count("feeds cut")
                return False
            if answer[1:3] == ["AA", control]:
                self._journal.acknowledge_patient(value, control)
            else:
                self._journal.blame(f"feed {control} answered {answer[1:3]}")
            return True
        self._again(attempt)

    def _fetch(self, dice: random.Random) -> None:
        """A study of hospital B: into its PACS, `broker publish`, then by RAD-69 series by series, each a C-MOVE; then whole."""
        shots = studies.study(
            self._region.folder / "origin", dice, B_PATIENT, date=RECENT, count=24, pixels=dice.choice((128, 256)), series=8)
        self._pacs.upload(shot.file for shot in shots)
        wanted = {shot.picture.sop: shot.picture for shot in shots}
        studies.drop(shots)
        study_uid = shots[0].picture.study
        self._journal.kept[study_uid] = frozenset(wanted)
        if not self._again(lambda: self._command("publish", "--hospital", "b", "--study", study_uid)):
            return
        self._journal.acknowledge_origin(study_uid, wanted.values())
        by_series: dict[str, dict[str, Picture]] = {}
        for picture in wanted.values():
            by_series.setdefault(picture.series, {})[picture.sop] = picture
        for part in (*by_series.values(), wanted):
            if not self._again(lambda part=part: self._take(part, THEIRS)):     # type: ignore[misc]
                return

    def _take(self, pictures: Mapping[str, Picture], source: str) -> bool:
        """One RAD-69; True when every picture came."""
        try:
            answer = doors.retrieve_pictures(self._region.http_port, refs(pictures, source))
        except Cut:
            self._journal.count("retrieves cut")
            return False
        wrong = differences(pictures, answer)
        if wrong:
            self._journal.blame(f"RAD-69 gave wrong bytes of {wrong}")
        if answer.status == "Success" and len(answer.documents) < len(pictures):
            self._journal.blame(f"RAD-69 said Success and sent {len(answer.documents)} of {len(pictures)}")
        whole = len(answer.documents) == len(pictures)
        self._journal.count("retrieves whole" if whole else "retrieves partial")
        return whole

    def _migrate(self, dice: random.Random) -> None:
        """`broker migrate`, again and again."""
        if self._command("migrate"):
            self._journal.count("runs of broker migrate")
        self._stop.wait(dice.uniform(0, 1))

    def _look(self, dice: random.Random) -> None:
        """RAD-69 of what hospital A sent, wherever it is now: rows follow within a second, bytes are never wrong."""
        known = list(self._journal.studies().values())
        if known:
            study = dice.choice(known[-20:])
            if dice.random() < 0.2:
                self._break_off(study)
            else:
                self._take(study, OURS)
        self._stop.wait(dice.uniform(0, 1))

    def _break_off(self, study: Mapping[str, Picture]) -> None:
        """RAD-69 by one that goes away in the middle of the answer."""
        with contextlib.suppress(OSError, http.client.HTTPException):
            doors.Held(self._region.http_port, refs(study, OURS)).close()
            self._journal.count("retrieves left by their reader")

    def _command(self, *arguments: str) -> bool:
        """Run a broker command, which may be killed like a role; True when it ended well."""
        done = subprocess.run(
            [sys.executable, "-m", "broker", *arguments, "--config", str(self._region.config)], capture_output=True, check=False,
            stdin=subprocess.DEVNULL, env=os.environ)
        if done.returncode not in {0, 1, -9}:
            self._journal.blame(f"broker {arguments[0]} ended with {done.returncode}: {done.stderr[-300:]!r}")
        return done.returncode == 0


def stored(shots: list[Shot], port: int) -> int:
    """Send by storescu; return how many were acknowledged with success: the first ones, it stops at the first trouble."""
    done = subprocess.run(
        ["storescu", "-v", "-R", "-to", "10", "-ta", "20", "-td", "20", "-aet", "PACSA", "-aec", "BROKER", "127.0.0.1", str(port),
         *(str(shot.file) for shot in shots)],
        capture_output=True, text=True, check=False, env={**os.environ, "TCP_NODELAY": "1"})
    return (done.stdout + done.stderr).count("Received Store Response (Success)")

import os
import subprocess
import sys
from pathlib import Path

import pytest

from broker.run import heartbeat
from tests.helpers.waiting import eventually


def test_a_heartbeat_is_seen_while_it_lives(tmp_path: Path) -> None:
    beat = heartbeat.Heartbeat(tmp_path, "receiver")
    beat.start()
    assert heartbeat.living(tmp_path) == {"receiver": 1}
    beat.stop()
    assert heartbeat.living(tmp_path) == {}


@pytest.mark.outside
def test_a_killed_process_is_gone_at_once(tmp_path: Path) -> None:
    beat = f"heartbeat.Heartbeat(Path({str(tmp_path)!r}), 'fetch').start(); input()"
    code = f"from pathlib import Path; from broker.run import heartbeat; {beat}"
    with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE) as process:
        eventually(lambda: heartbeat.living(tmp_path) == {"fetch": 1})
        process.kill()
        process.wait()
        assert heartbeat.living(tmp_path) == {}
    assert len(list((tmp_path / "roles").iterdir())) == 1
    os.utime(next((tmp_path / "roles").iterdir()), (0, 0))
    assert heartbeat.living(tmp_path) == {}
    assert list((tmp_path / "roles").iterdir()) == []

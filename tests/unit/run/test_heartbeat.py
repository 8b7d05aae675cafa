import os
import subprocess
import sys
import time
from pathlib import Path

from broker.run import heartbeat


def test_a_heartbeat_is_seen_while_it_lives(tmp_path: Path) -> None:
    beat = heartbeat.Heartbeat(tmp_path, "receiver")
    beat.start()
    assert heartbeat.living(tmp_path) == {"receiver": 1}
    beat.stop()
    assert heartbeat.living(tmp_path) == {}


def test_a_killed_process_is_gone_at_once(tmp_path: Path) -> None:
    beat = f"heartbeat.Heartbeat(Path({str(tmp_path)!r}), 'fetch').start(); input()"
    code = f"from pathlib import Path; from broker.run import heartbeat; {beat}"
    with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE) as process:
        end = time.monotonic() + 20
        while heartbeat.living(tmp_path) != {"fetch": 1}:
            assert time.monotonic() < end
            time.sleep(0.02)
        process.kill()
        process.wait()
        assert heartbeat.living(tmp_path) == {}
    assert len(list((tmp_path / "roles").iterdir())) == 1
    os.utime(next((tmp_path / "roles").iterdir()), (0, 0))
    assert heartbeat.living(tmp_path) == {}
    assert list((tmp_path / "roles").iterdir()) == []

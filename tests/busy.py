"""Run a command on a machine whose cores are busy: `python -m tests.busy python -m pytest …`.

One endless loop per core (two at least) runs beside it and ends with it, also when it is killed. Ends with its status.
"""

import os
import subprocess
import sys

LOOP = "import os\nparent = os.getppid()\nwhile os.getppid() == parent: sum(range(100_000))"


def main(command: list[str]) -> int:
    loops = [subprocess.Popen([sys.executable, "-c", LOOP]) for _ in range(max(2, os.cpu_count() or 2))]
    try:
        return subprocess.run(command, check=False).returncode
    finally:
        for loop in loops:
            loop.kill()
            loop.wait()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

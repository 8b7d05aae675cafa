"""`python -m tests.bench [pattern]`: all figures of all areas."""

import sys

from tests.bench import archive, harness, soap, transfer

if __name__ == "__main__":
    harness.main([*soap.FIGURES, *transfer.FIGURES, *archive.FIGURES], sys.argv[1:])

"""`python -m tests.bench [pattern]`: all figures of all areas."""

import sys

from tests.bench import archive, dicom, harness, soap, transfer

if __name__ == "__main__":
    harness.main([*soap.FIGURES, *transfer.FIGURES, *archive.FIGURES, *dicom.FIGURES], sys.argv[1:])

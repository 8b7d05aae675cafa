"""`python -m tests.bench [pattern]`: all figures of all areas."""

import logging
import sys

from broker.cli import _log
from tests.bench import archive, dicom, harness, hdfs, patients, rebuild, registration, soap, start, tls, transfer

if __name__ == "__main__":
    _log.configure("bench", logging.WARNING)
    harness.main([
        *start.FIGURES, *soap.FIGURES, *registration.FIGURES, *transfer.FIGURES, *archive.FIGURES, *rebuild.FIGURES,
        *tls.FIGURES, *dicom.FIGURES, *hdfs.FIGURES, *patients.FIGURES], sys.argv[1:])

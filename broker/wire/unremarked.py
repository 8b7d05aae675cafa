"""pydicom without its remarks: on odd input it warns, and so prints and remembers what others sent."""

import contextlib
import logging
import warnings
from collections.abc import Iterator

logging.getLogger("pydicom").setLevel(logging.CRITICAL)


@contextlib.contextmanager
def unremarked() -> Iterator[None]:
    """Let nothing be warned about inside."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield

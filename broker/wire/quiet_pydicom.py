"""pydicom without its remarks: on odd input it warns, and so prints and remembers what others sent."""

import contextlib
import logging
import warnings
from collections.abc import Iterator

OWN = r"pydicom\."      # modules that warn about values, also when pynetdicom reads them

logging.getLogger("pydicom").setLevel(logging.CRITICAL)
warnings.filterwarnings("ignore", module=OWN)


@contextlib.contextmanager
def quiet_pydicom() -> Iterator[None]:
    """Let nothing be warned about inside, wherever a warning says that it comes from."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield

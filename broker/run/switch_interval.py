"""How long a thread keeps the interpreter while others wait for it: shorter than usual where pictures come in (decision 41)."""

import contextlib
import sys
from collections.abc import Iterator

SWITCH_INTERVAL = 0.0003    # seconds; with CPython's 0.005 every received PDU waits that long behind the index thread


@contextlib.contextmanager
def short_switch_interval() -> Iterator[None]:
    """Shorten the switch interval of this process inside the block; left out, everything works, and receiving is slower."""
    usual = sys.getswitchinterval()
    sys.setswitchinterval(SWITCH_INTERVAL)
    try:
        yield
    finally:
        sys.setswitchinterval(usual)

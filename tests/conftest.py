"""Tests run side by side, and so do the processes that they start: threads that wait let others work."""

import os
import signal
import sys
from collections.abc import Iterator

import pytest

# Read by OpenMP when it is loaded, here and in every child: by default threads spin while they wait, and two
# processes of two threads each on two cores then take ten times as long as one after the other.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

# A shell's background job ignores Ctrl-C, and so would every process that a test interrupts.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(autouse=True)
def torch_of_its_own() -> Iterator[None]:
    """A test has one thread, since others run beside it, and subnormal numbers as they are: a run sets both
    in its process, which is that of other tests too.
    """
    if "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(1)
    yield
    if "torch" in sys.modules:
        sys.modules["torch"].set_flush_denormal(False)

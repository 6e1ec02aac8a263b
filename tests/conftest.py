"""Tests run side by side, and so do the processes that they start: threads that wait let others work."""

import os
import sys
from collections.abc import Iterator

import pytest

# Read by OpenMP when it is loaded, here and in every child: by default threads spin while they wait, and two
# processes of two threads each on two cores then take ten times as long as one after the other.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")


@pytest.fixture(autouse=True)
def subnormal_numbers() -> Iterator[None]:
    """As they were before a test: a run makes them 0 in its process, which is that of other tests too."""
    yield
    if "torch" in sys.modules:
        sys.modules["torch"].set_flush_denormal(False)

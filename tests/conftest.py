"""Tests run side by side, and so do the processes that they start: threads that wait let others work."""

import os

# Read by OpenMP when it is loaded, here and in every child: by default threads spin while they wait, and two
# processes of two threads each on two cores then take ten times as long as one after the other.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

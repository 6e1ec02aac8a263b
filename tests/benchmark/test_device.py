"""Devices as runs use them."""

import subprocess
import sys

ON_EVERY_THREAD = """
import torch
from benchmark.device import use_device

use_device("cpu", 2)
tiny = torch.full((4_000_000,), 1e-39, requires_grad=True)
product = tiny * 1.0
(gradient,) = torch.autograd.grad(product, tiny, torch.full_like(product, 1e-39))
print(int(product.count_nonzero()), int(gradient.count_nonzero()))
"""


def test_subnormal_numbers_are_0_on_every_thread_of_a_process():
    """In a process of its own: threads take it over when they are made."""
    command = [sys.executable, "-c", ON_EVERY_THREAD]
    found = subprocess.run(command, capture_output=True, text=True, check=True)
    assert found.stdout.split() == ["0", "0"]

"""Section 4 of "Attention Is All You Need", written again from measurements."""

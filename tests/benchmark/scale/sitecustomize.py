"""A run's process that writes its record as soon as Python has started; see `measure_scale`.

A child process imports this file by itself when its folder is on PYTHONPATH.
"""

import hashlib
import json
import os
import sys


def _write(template, run_folder):
    with open(template, encoding="utf-8") as file:
        document = json.load(file)
    with open(os.path.join(run_folder, "config.yaml"), encoding="utf-8") as file:
        seed = int(file.read().rpartition("seed: ")[2])
    del document["checksum_sha256"]
    document["run_id"] = os.path.basename(run_folder)
    document["seed"] = document["experiment"]["seed"] = seed
    rest = json.dumps(document, indent=1).encode()[2:]
    checksum = hashlib.sha256(rest).hexdigest().encode()
    with open(os.path.join(run_folder, "record.json"), "wb") as file:
        file.write(b'{\n "checksum_sha256": "' + checksum + b'",\n' + rest)


if os.environ.get("SEQBENCH_STUB_RECORD") and "cell" in sys.orig_argv:
    _write(os.environ["SEQBENCH_STUB_RECORD"], sys.orig_argv[sys.orig_argv.index("cell") + 1])
    os._exit(0)

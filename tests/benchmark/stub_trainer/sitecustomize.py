"""Stands in for training in a child process: each seed does what SEQBENCH_TEST_BEHAVIOUR says of it.

A child process imports this file by itself when a test puts its folder on PYTHONPATH.
"""

import importlib.abc
import importlib.machinery
import json
import os
import shutil
import signal
import subprocess
import sys
import time
import types

GRACE_SECONDS = 3.0


def _run_cell(experiment, run_folder, options):
    from benchmark.config import UserError
    from benchmark.engines.child import failed_record

    behaviour = json.loads(os.environ.get("SEQBENCH_TEST_BEHAVIOUR", "{}")).get(str(experiment.seed), "done")
    with open(run_folder / "starts", "a") as file:
        file.write(f"{os.getpid()}\n")
    if behaviour == "raise beside one that sleeps":
        while not list(run_folder.parent.glob("*/sleeping")):
            time.sleep(0.05)
        behaviour = "raise"
    if behaviour == "raise":
        raise RuntimeError("the loss\nhas two lines")
    if behaviour == "oom_device":
        import torch

        raise torch.OutOfMemoryError("CUDA out of memory")
    if behaviour == "oom_host":
        bytearray(2**60)
    if behaviour == "oom_limit":
        import resource

        import torch

        with open("/proc/self/statm") as file:
            mapped = int(file.read().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (mapped + 2**28, resource.RLIM_INFINITY))
        torch.ones(2**28)
    if behaviour == "oom_kernel":
        held = []
        while True:
            held.append(b"x" * 2**24)
    if behaviour == "vanish":
        shutil.rmtree(run_folder.parent.parent)
    if behaviour in ("kill", "kill at 1 GiB"):
        if behaviour != "kill":
            assert b"x" * 2**30
        os.kill(os.getpid(), signal.SIGKILL)
    if behaviour == "exit 0":
        sys.stderr.write("\x1b[31mhalf\rlast words\x1b[0m\n")
        sys.stderr.flush()
        os._exit(0)
    if behaviour == "user":
        raise UserError("task.train: no such file")
    if behaviour == "full":
        from benchmark.store import StorageError

        raise StorageError("x: 5 bytes could not be written: No space left on device")
    if behaviour in ("sleep", "stubborn"):
        if behaviour == "stubborn":
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
        subprocess.Popen([sys.executable, "-S", "-c", "import time; time.sleep(600)"])
        with open(run_folder / "sleeping", "w") as file:
            file.write(str(os.getpid()))
        time.sleep(600)
    record = failed_record(experiment, options, "")
    status = "diverged" if behaviour == "diverged" else "done"
    return record.model_copy(update={"status": status, "failure": None, "steps": experiment.training.steps})


def _resolve(asked, options):
    import dataclasses

    from benchmark.study import Resolved

    resolved = []
    for one in asked:
        training = one.experiment.training
        steps = training.steps or int(10 * training.seconds)
        update = {"steps": steps, "seconds": None, "precision": "float32"}
        experiment = dataclasses.replace(one.experiment, training=training.model_copy(update=update))
        resolved.append(Resolved(experiment=experiment))
    return resolved


def _measure_speed(experiments, options, run_id, *, overhead):
    from benchmark.engines.child import failed_speed_record

    record = failed_speed_record(run_id, experiments, options, "")
    return record.model_copy(update={"status": "done", "failure": None})


class _Interrupted(Exception):
    exit_code = 143


def _no_preflight(*_):
    """Which would load torch."""


_MODULES = {
    "benchmark.check": dict.fromkeys(("preflight_hooks", "preflight_model", "preflight_task"), _no_preflight),
    "benchmark.measure.speed": {"measure_speed": _measure_speed},
    "benchmark.trainer": {
        "run_cell": _run_cell,
        "Interrupted": _Interrupted,
    },
    "benchmark.resolution": {"resolve": _resolve},
}


class _Finder(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    def find_spec(self, name, path=None, target=None):
        return importlib.machinery.ModuleSpec(name, self) if name in _MODULES else None

    def create_module(self, spec):
        return types.ModuleType(spec.name)

    def exec_module(self, module):
        from benchmark.engines import child

        child.GRACE_SECONDS = GRACE_SECONDS
        module.__dict__.update(_MODULES[module.__name__])


sys.meta_path.insert(0, _Finder())

"""wandb beside a study: a mirror of the records, which may be absent or slow without changing a result.

The mode is chosen once, before the first run starts: wandb itself would ask for a key, or wait for a network,
in the middle of a study.
"""

from __future__ import annotations

import importlib.util
import logging
import netrc
import os
import re
import sys
import threading
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar, cast, get_args
from urllib.parse import urlsplit

from pydantic import ValidationError

from benchmark.config import UserError, one_line

if TYPE_CHECKING:
    from pytorch_lightning.loggers import WandbLogger

Mode = Literal["online", "offline", "disabled"]
MODES: tuple[str, ...] = get_args(Mode)
T = TypeVar("T")
_LOG = logging.getLogger(__name__)

PROBE_SECONDS = 5.0
"""How long a study waits for the server's first answer before it goes on offline."""

START_SECONDS = 20.0
"""How long one run waits for the server to accept it before it goes on offline."""

FINISH_SECONDS = 120.0
"""How long the end of a run waits for uploads; what is left stays on disk, and `wandb sync` takes it."""

KEY_CHARACTERS = 40
"""A shorter key is refused by wandb itself."""


class NotStarted(Exception):
    """wandb does not start, not even offline; why, in one line."""


def choose_mode(requested: str, env: Mapping[str, str] = os.environ) -> tuple[Mode, str]:
    """What `requested` (`auto` or a mode) means here, and why, in one line for the user.

    `auto` is the variable WANDB_MODE, else `online`. Without a key that can be one or an answer from the
    server, `online` becomes `offline`: runs are kept on disk, and `wandb sync` uploads them. Takes
    `PROBE_SECONDS` at most.

    Raises:
        UserError: there is no such mode, or the server's address is none.
    """
    if requested not in ("auto", *MODES):
        raise UserError(f"wandb: must be one of auto, {', '.join(MODES)}, got {requested!r}")
    wanted, source = requested, "as asked"
    if requested == "auto":
        wanted, source = _mode_of_environment(env)
    key = env.get("WANDB_API_KEY", "")
    if wanted != "disabled" and key != key.strip():
        return "disabled", "wandb is disabled (WANDB_API_KEY begins or ends with a blank or a line end)"
    if wanted != "disabled" and importlib.util.find_spec("wandb") is None:
        return "disabled", "wandb is disabled (it is not installed)"
    if wanted != "online":
        return cast(Mode, wanted), f"wandb is {wanted} ({source})"
    address = env.get("WANDB_BASE_URL") or "https://api.wandb.ai"
    parts = urlsplit(address)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise UserError(f"WANDB_BASE_URL: must be an http or https address, got {address!r}")
    missing = _missing_key(parts.hostname, env)
    if missing:
        return "offline", f"wandb is offline ({missing}; `wandb login` sets one, `wandb sync` uploads later)"
    if not _answers(address, PROBE_SECONDS):
        return "offline", f"wandb is offline (no answer from {parts.hostname}; `wandb sync` uploads later)"
    return "online", f"wandb is online at {parts.hostname} ({source})"


def _mode_of_environment(env: Mapping[str, str]) -> tuple[str, str]:
    value = env.get("WANDB_MODE", "")
    if not value:
        return "online", "the default"
    mode = {"dryrun": "offline", "run": "online"}.get(value, value)
    if mode not in MODES:
        raise UserError(f"WANDB_MODE: must be one of {', '.join(MODES)}, got {value!r}")
    return mode, "WANDB_MODE"


def _missing_key(host: str, env: Mapping[str, str]) -> str:
    """Why there is no key for `host`, without a word of what is in its place; empty where there is one."""
    if key := env.get("WANDB_API_KEY"):
        return _fault(key, "WANDB_API_KEY")
    if env.get("WANDB_IDENTITY_TOKEN_FILE"):
        return ""
    home = Path(env.get("HOME") or Path.home())
    files = [Path(env["NETRC"])] if env.get("NETRC") else [home / ".netrc", home / "_netrc"]
    for file in files:
        try:
            found = netrc.netrc(file).hosts.get(host)
        except (OSError, netrc.NetrcParseError, UnicodeDecodeError):
            continue
        if found is not None:
            return _fault(found[2] or "", f"the key in {file}")
    return "no API key here"


def _fault(key: str, name: str) -> str:
    """What is wrong with a key's form, as wandb would say only when the first run starts."""
    if re.fullmatch(r"[\w-]+(\.[\w-]+){2}", key):  # a token of a session
        return ""
    secret = key.partition("-")[2] or key  # before it: the name of a server of one's own
    if not re.fullmatch(r"[\w-]*", secret):
        return f"{name} has characters that are none of a key"
    if len(secret) < KEY_CHARACTERS:
        return f"{name} has {len(secret)} characters, and a key has {KEY_CHARACTERS} or more"
    return ""


def _answers(address: str, seconds: float) -> bool:
    """Whether anything that speaks HTTP is at `address`, whatever it says."""
    answered = threading.Event()

    def ask() -> None:
        try:
            with urllib.request.urlopen(address, timeout=seconds):
                answered.set()
        except urllib.error.HTTPError:
            answered.set()
        except (OSError, ValueError):
            return

    # a thread, because looking up a name heeds no time-out
    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(seconds)
    return answered.is_set()


_WHOLE = "seqbench-whole"


def run_directory(study_folder: Path) -> Path:
    """Where wandb keeps its files of a study: WANDB_DIR, else the study's own folder."""
    return Path(os.environ.get("WANDB_DIR") or study_folder)


def project() -> str:
    """The wandb project of every run."""
    return os.environ.get("WANDB_PROJECT") or "seqbench"


def lightning_logger(
    mode: Mode,
    *,
    study: str,
    run_id: str,
    experiment_document: Mapping[str, Any],
    directory: Path,
    device_class: str,
    is_trial: bool = False,
) -> tuple[WandbLogger | None, Mode]:
    """Lightning's logger of one run, started, and the mode that it runs in; none if `mode` is `disabled`.

    `experiment_document` becomes the run's config, nested as in YAML; `device_class` is `cpu` or `cuda`.
    Where the server refuses the run or does not answer within `START_SECONDS`, the run is kept offline in
    `directory` instead; where wandb does not start at all, the run goes on without it.
    """
    if mode == "disabled":
        return None, mode
    from pytorch_lightning.loggers import WandbLogger

    def start(mode: Mode) -> tuple[WandbLogger, Mode]:
        directory.mkdir(parents=True, exist_ok=True)
        # Started here and handed over: Lightning's own start passes options that wandb warns of.
        run = start_run(
            mode,
            study=study,
            run_id=run_id,
            experiment_document=experiment_document,
            directory=directory,
            device_class=device_class,
            is_trial=is_trial,
        )
        return WandbLogger(experiment=run, save_dir=directory), mode

    try:
        return or_offline(mode, start)
    except NotStarted as error:
        _LOG.warning("wandb does not start, and the run goes on without it: %s", error)
        return None, "disabled"


def start_run(
    mode: Mode,
    *,
    study: str,
    run_id: str,
    experiment_document: Mapping[str, Any],
    directory: Path,
    device_class: str,
    is_trial: bool = False,
) -> Any:
    """wandb's run of one cell: its id is the run's, its group the study, its type `search` or `train`."""
    import wandb

    return wandb.init(
        dir=directory,
        project=project(),
        id=run_id,
        resume="allow",
        group=study,
        job_type="search" if is_trial else "train",
        tags=_tags(experiment_document, device_class),
        config=dict(experiment_document),
        mode=mode,
        settings=quiet_settings(),
    )


def or_offline(mode: Mode, start: Callable[[Mode], T]) -> T:
    """`start(mode)`; where the server refuses or is silent, `start("offline")`, and a line says so.

    Raises:
        NotStarted: that fails too.
    """
    import wandb

    if mode == "online":
        try:
            return start("online")
        except Exception as error:
            _LOG.warning("wandb is offline from here on: %s", reason(error))
            wandb.teardown()
    try:
        return start("offline")
    except Exception as error:
        raise NotStarted(reason(error)) from error


def reason(error: Exception) -> str:
    """What went wrong in wandb, in one line. Of settings without their values: a key is one of them."""
    if isinstance(error, ValidationError):
        fields = [(".".join(map(str, one["loc"])), one["msg"]) for one in error.errors()]
        return one_line("; ".join(f"{name}: {text}" for name, text in fields))
    return one_line(f"{type(error).__name__}: {error}")


def finish(status: str) -> None:
    """End the run that this process has logged, once its record is written: a server may be slow."""
    wandb = sys.modules.get("wandb")
    run = None if wandb is None else wandb.run
    if run is None:
        return

    def end() -> None:
        run.finish()
        settle()
        mark_whole(run, status)

    guarded(end)


def settle() -> None:
    """Wait until wandb's own process has ended: it may write a run's file after the run has finished."""
    wandb = sys.modules.get("wandb")
    if wandb is not None:
        guarded(wandb.teardown)


def mark_whole(run: Any, status: str) -> None:
    """Note in the folder of a run that has ended that all of it was logged: its record has this status."""
    (Path(run.dir).parent / _WHOLE).write_text(f"{status}\n", encoding="utf-8")


def is_uploaded(folder: Path) -> bool:
    """Whether the server has got what is in a run's folder, or was to get it while it was made."""
    return not folder.name.startswith("offline-") or any(folder.glob("*.synced"))


def is_whole(folder: Path, status: str) -> bool:
    """Whether all of a run with this status was logged there."""
    try:
        return (folder / _WHOLE).read_text(encoding="utf-8").strip() == status
    except (OSError, UnicodeDecodeError):
        return False


def guarded(send: Callable[[], object]) -> None:
    """Send something to a logger; what goes wrong there is said and changes no result."""
    try:
        send()
    except Exception as error:
        _LOG.warning("not logged: %s", reason(error))


def quiet_settings() -> Any:
    """wandb prints nothing, captures no output, and gives up on a server that does not answer."""
    import wandb

    return wandb.Settings(
        silent=True, console="off", init_timeout=START_SECONDS, finish_timeout=FINISH_SECONDS
    )


def _tags(document: Mapping[str, Any], device_class: str) -> list[str]:
    names = [Path(str(document[section]["name"])).stem for section in ("model", "task")]
    return [name[:64] for name in (*names, device_class) if name]

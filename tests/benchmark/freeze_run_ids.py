"""Write the ids in golden_run_ids.json again: `python -m tests.benchmark.freeze_run_ids`.

Only after a version was raised, or before any result with the old ids was published.
"""

import json
from pathlib import Path

from benchmark.config import experiment_from

GOLDEN = Path(__file__).parent / "golden_run_ids.json"


def main() -> None:
    golden = json.loads(GOLDEN.read_text(encoding="utf-8"))
    for one in golden.values():
        one["run_id"] = experiment_from(one["experiment"], files_allowed=False).run_id()
    GOLDEN.write_text(json.dumps(golden, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()

"""What every comparison of scores should have, said under each table of quality.

The four questions are those that Marie et al. 2021 put to 769 papers on machine translation.
"""

from __future__ import annotations

from collections.abc import Mapping

from benchmark.report.comparison import Group
from benchmark.report.layout import metric_title
from benchmark.report.significance import undecided_because


def checklist(group: Group) -> list[str]:
    """The four answers in one line; none for runs that scored nothing."""
    if not group.scored:
        return []
    metrics = list(dict.fromkeys(metric for _, metric in group.scored))
    answers = {
        "significance tested": _yes_unless(undecided_because(group)),
        "same data and preprocessing": _yes_unless(_unequal_preprocessing(group)),
    }
    if "bleu" in metrics:
        others = [metric_title(one) for one in metrics if one != "bleu"]
        answers["a metric beyond BLEU"] = f"yes ({', '.join(others)})" if others else "no"
    answers["signatures shown"] = _yes_unless("" if group.conditions.signatures else "there are none")
    return [
        f"Checklist (Marie et al. 2021): {'; '.join(f'{one}: {answer}' for one, answer in answers.items())}; "
        "no score is copied from elsewhere."
    ]


def _yes_unless(reason: str) -> str:
    return f"no, {reason}" if reason else "yes"


def _unequal_preprocessing(group: Group) -> str:
    """Rows of a table have one task, data and vocabulary; the longest pair that is kept is a setting."""
    lengths = set()
    for record in group.records:
        data = record.experiment.get("data")
        lengths.add(data.get("maximum_tokens") if isinstance(data, Mapping) else None)
    return "data.maximum_tokens varies" if len(lengths) > 1 else ""

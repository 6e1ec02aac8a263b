"""One output under the scores that the literature mixes up, and how the score depends on sentence length.

The same translations differ by more between these ways to count than papers differ from each other: BLEU of
Vaswani et al. (2017) is tokenised and splits compounds, much work on Multi30k is tokenised and lower-cased
(Post 2018 measured up to 1.8 points between such habits). Computed from stored output and raw references.
"""

from __future__ import annotations

import re
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from benchmark.measure.quality import METRICS
from benchmark.measure.significance import summarise
from benchmark.report.comparison import Cell, Group, group_titles
from benchmark.report.heading import group_heading
from benchmark.report.layout import NOT_MEASURED, Column, Table
from benchmark.report.rounding import mean_text
from benchmark.report.sentence_significance import Outputs
from benchmark.report.significance import row_name
from benchmark.report.study_results import StudyResults
from tasks import VALIDATION

LENGTHS = (10, 15, 20, 30)
"""Words of the reference at which a new class of lengths begins."""
CITE = (
    "Cite the first column, with its signature: cased, detokenised, against the raw reference, which anyone "
    "can compute again. The others are for reading older papers, each of which counted in its own way."
)

Score = Callable[[Sequence[str], Sequence[str]], float]


@dataclass(frozen=True, kw_only=True)
class Variant:
    """One way to score."""

    name: str
    title: tuple[str, ...]
    note: str
    score: Score


def _recorded(metric: str) -> Score:
    """As records have it."""
    return lambda hypotheses, references: METRICS[metric](hypotheses, references).value


def _bleu(**settings: Any) -> Score:
    def score(hypotheses: Sequence[str], references: Sequence[str]) -> float:
        from sacrebleu.metrics.bleu import BLEU

        return BLEU(force=True, **settings).corpus_score(list(hypotheses), [list(references)]).score

    return score


def _tokenised(sentences: Sequence[str]) -> list[str]:
    from sacrebleu.tokenizers.tokenizer_13a import Tokenizer13a

    tokenise = Tokenizer13a()
    return [tokenise(sentence) for sentence in sentences]


_HYPHEN = re.compile(r"(?<=\S)-(?=\S)")


def split_compounds(sentence: str) -> str:
    """Hyphens inside words as words of their own, `##AT##-##AT##`: as the paper's scores were made."""
    return _HYPHEN.sub(" ##AT##-##AT## ", sentence)


def _compound_split(hypotheses: Sequence[str], references: Sequence[str]) -> float:
    sides = [[split_compounds(one) for one in _tokenised(side)] for side in (hypotheses, references)]
    return _bleu(tokenize="none", smooth_method="none")(*sides)


def _sentence_mean(hypotheses: Sequence[str], references: Sequence[str]) -> float:
    from sacrebleu.metrics.bleu import BLEU

    metric = BLEU(effective_order=True)
    pairs = zip(hypotheses, references, strict=True)
    return statistics.fmean(metric.sentence_score(ours, [theirs]).score for ours, theirs in pairs)


def _length_ratio(hypotheses: Sequence[str], references: Sequence[str]) -> float:
    ours, theirs = (sum(len(one.split()) for one in _tokenised(side)) for side in (hypotheses, references))
    return ours / theirs if theirs else float("nan")


VARIANTS = (
    Variant(
        name="bleu",
        title=("BLEU",),
        note="BLEU: sacrebleu's default: cased, tokeniser 13a, raw reference; multi-bleu.perl gives the same "
        "where both sides are so tokenised.",
        score=_recorded("bleu"),
    ),
    Variant(
        name="bleu_lower_cased",
        title=("BLEU", "lower-", "cased"),
        note="Lower-cased: the same without case, as most work on Multi30k.",
        score=_bleu(lowercase=True),
    ),
    Variant(
        name="bleu_international",
        title=("BLEU", "tok intl"),
        note="Tok intl: sacrebleu's international tokeniser, which splits at every symbol of Unicode.",
        score=_bleu(tokenize="intl"),
    ),
    Variant(
        name="bleu_compound_split",
        title=("BLEU", "compound-", "split"),
        note="Compound-split: tokenised, hyphens inside words split, unsmoothed: as the Transformer paper "
        "counted; on WMT14 en-de some 0.5 to 1 points more.",
        score=_compound_split,
    ),
    Variant(
        name="bleu_blanks",
        title=("BLEU", "blanks", "alone"),
        note="Blanks alone: words between blanks, punctuation stuck to them, as after a plain split.",
        score=_bleu(tokenize="none"),
    ),
    Variant(
        name="bleu_mean_of_sentences",
        title=("mean of", "sentence", "BLEU"),
        note="Mean of sentence BLEU: which is no corpus BLEU, and often taken for it.",
        score=_sentence_mean,
    ),
    Variant(name="chrf", title=("chrF",), note="", score=_recorded("chrf")),
    Variant(
        name="length_ratio",
        title=("length", "ratio"),
        note="Length ratio: words of the output to those of the reference, tokenised.",
        score=_length_ratio,
    ),
)


def _length_class(reference: str) -> int:
    words = len(reference.split())
    return sum(words >= begin for begin in LENGTHS)


def length_classes() -> list[str]:
    """Names of the classes of lengths, from short to long."""
    ends = [*(str(one - 1) for one in LENGTHS), ""]
    begins = ["1", *map(str, LENGTHS)]
    return [
        f"{begin} to {end}" if end else f"{begin} and more" for begin, end in zip(begins, ends, strict=True)
    ]


def forensic_rows(study: StudyResults, outputs: Outputs) -> list[dict[str, Any]]:
    """Every variant for each row, test split and seed, and BLEU by length; flat, at full precision."""
    rows = []
    for number, group in enumerate(study.groups, start=1):
        for cell in group.cells:
            for record in cell.done:
                for split in _splits(group):
                    lines = outputs.lines(record, split, "bleu")
                    if lines is None:
                        continue
                    references = outputs.references.of(record, split)[: len(lines)]
                    row: dict[str, Any] = {
                        "table": number,
                        "model": cell.model,
                        "settings": cell.label,
                        "split": split,
                        "seed": record.seed,
                        **{one.name: one.score(lines, references) for one in VARIANTS},
                    }
                    classes = [_length_class(one) for one in references]
                    for index, name in enumerate(length_classes()):
                        chosen = [i for i, one in enumerate(classes) if one == index]
                        row[f"sentences_of_{name.replace(' ', '_')}_words"] = len(chosen)
                        row[f"bleu_of_{name.replace(' ', '_')}_words"] = (
                            VARIANTS[0].score([lines[i] for i in chosen], [references[i] for i in chosen])
                            if chosen
                            else None
                        )
                    rows.append(row)
    return rows


def _splits(group: Group) -> list[str]:
    return list(
        dict.fromkeys(split for split, metric in group.scored if metric == "bleu" and split != VALIDATION)
    )


def forensic_tables(study: StudyResults, rows: Sequence[dict[str, Any]]) -> list[Table]:
    """Two tables for each group and split: the variants, and BLEU by sentence length; means over seeds."""
    tables = []
    titles = group_titles(study.name, study.groups)
    for number, (group, title) in enumerate(zip(study.groups, titles, strict=True), start=1):
        for split in _splits(group):
            mine = [row for row in rows if row["table"] == number and row["split"] == split]
            cells = [cell for cell in group.cells if _of(mine, cell)]
            if not cells:
                continue
            tables.append(
                Table(
                    title=f"{title}: the same output, scored in other ways, {split}",
                    heading=[*group_heading(group), CITE],
                    columns=[
                        Column(title=("model",), is_text=True),
                        *(Column(title=one.title, note=one.note) for one in VARIANTS),
                    ],
                    rows=[
                        [row_name(cell), *(_mean(_of(mine, cell), one.name) for one in VARIANTS)]
                        for cell in cells
                    ],
                    labels=1,
                )
            )
            sentences = {
                name: mine[0][f"sentences_of_{name.replace(' ', '_')}_words"] for name in length_classes()
            }
            tables.append(
                Table(
                    title=f"{title}: BLEU by words of the reference, {split}",
                    heading=group_heading(group),
                    columns=[
                        Column(title=("model",), is_text=True),
                        *(
                            Column(title=(name, f"({sentences[name]:,})"), note=_BY_LENGTH)
                            for name in length_classes()
                        ),
                    ],
                    rows=[
                        [
                            row_name(cell),
                            *(
                                _mean(_of(mine, cell), f"bleu_of_{name.replace(' ', '_')}_words")
                                for name in length_classes()
                            ),
                        ]
                        for cell in cells
                    ],
                    labels=1,
                )
            )
    return tables


_BY_LENGTH = "In brackets the number of sentences; BLEU of few sentences says little."


def _of(rows: Sequence[dict[str, Any]], cell: Cell) -> list[dict[str, Any]]:
    return [row for row in rows if (row["model"], row["settings"]) == (cell.model, cell.label)]


def _mean(rows: Sequence[dict[str, Any]], name: str) -> str:
    values = [row[name] for row in rows if row[name] is not None]
    if not values:
        return NOT_MEASURED
    summary = summarise(values)
    return mean_text(summary.mean, summary.half_width)

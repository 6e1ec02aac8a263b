"""The section written again: Table 1, the claims with their verdicts, and figures, as Markdown and text."""

from __future__ import annotations

import textwrap
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmark.report.escaping import for_markdown, for_terminal
from benchmark.report.layout import Column, Table, markdown_lines, terminal_lines
from benchmark.report.placing import made_aside
from benchmark.store import write_atomic
from benchmark.why.claims import CLAIMS, Claim
from benchmark.why.facts import Facts, unsettled
from benchmark.why.finding import CONTRADICTED, SUPPORTED, UNDECIDED, Finding
from benchmark.why.table import further_tables, table_1

TITLE = "Why self-attention, measured"
STRUCTURAL = "follow from how layers are built, and are checked"


def first_paragraph(scale: str | None = None) -> str:
    """What the page is, of measurements at `scale` where they are of one that is known."""
    measurements = f"measurements at scale {scale}" if scale else "measurements"
    return (
        f'Section 4 of "Attention Is All You Need" (Vaswani et al. 2017), from {measurements}. A verdict '
        "follows from the records by a test in the code; where something was not measured, or its "
        "interval leaves it open, it is not decidable here. Claims that follow from how layers are built are "
        "checked, and counted apart from those that a measurement could turn."
    )


def findings(facts: Facts) -> list[tuple[Claim, Finding]]:
    """Every claim with its verdict, in the paper's order."""
    return [(claim, claim.finding(facts)) for claim in CLAIMS]


def claim_rows(facts: Facts) -> list[dict[str, Any]]:
    """The ledger as plain values."""
    return [
        {
            "claim": claim.number,
            "sentence": claim.sentence,
            "prediction": claim.prediction,
            "test": claim.test,
            "follows_from_structure": claim.is_structural,
            "verdict": finding.verdict,
            "effect": finding.effect,
            "conditions": list(finding.conditions),
            "runs": list(finding.runs),
        }
        for claim, finding in findings(facts)
    ]


def why_tables(facts: Facts) -> list[Table]:
    """Table 1 and what goes with it, and the claims with their verdicts."""
    ledger = findings(facts)
    claims = Table(
        title="The claims",
        heading=[count_of(ledger)],
        columns=[Column(title=(name,), is_text=True) for name in ("claim", "verdict", "says", "measured")],
        rows=[[claim.number, finding.verdict, claim.sentence, finding.effect] for claim, finding in ledger],
        labels=1,
        last_notes=["Predictions, tests and conditions: seqbench why, or --format html."],
    )
    return [table_1(facts), *further_tables(facts), claims]


def terminal_page(facts: Facts, width: int = 120) -> str:
    """Table 1 and the ledger in lines of `width` characters."""
    lines = terminal_lines(table_1(facts), width)
    for table in further_tables(facts):
        lines += ["", "", *terminal_lines(table, width)]
    ledger = findings(facts)
    lines += ["", "", "The claims", ""]
    for claim, finding in ledger:
        lines.append(f"{claim.number:6} {finding.verdict:20}  {_wrapped(claim.sentence, width, 30)}")
        lines.append(f"{'':30}{_wrapped(finding.effect, width, 30)}")
    return "\n".join([*lines, "", count_of(ledger)]) + "\n"


def _wrapped(text: str, width: int, indent: int) -> str:
    lines = textwrap.wrap(for_terminal(text), max(40, width - indent))
    return f"\n{' ' * indent}".join(lines)


def count_of(ledger: Sequence[tuple[Claim, Finding]]) -> str:
    """How many claims have which verdict, in words; those that follow from how layers are built apart."""
    parts = []
    for is_structural, what in ((True, STRUCTURAL), (False, "are decided by measurements")):
        verdicts = Counter(one.verdict for claim, one in ledger if claim.is_structural == is_structural)
        words = (SUPPORTED, CONTRADICTED, UNDECIDED)
        shown = ", ".join(f"{verdicts[word]} {word}" for word in words if verdicts[word])
        parts.append(f"{verdicts.total()} {what}: {shown}")
    return "; ".join(parts)


def write_page(facts: Facts, folder: Path, scale: str) -> Path:
    """`why.md` with its figures beside it; the path of the page. What is there stays until all is whole, and
    figures that are no longer drawn go.

    Raises:
        StorageError: it cannot be written.
    """
    from benchmark.why.figures import FIGURES, draw  # takes matplotlib, which tables do without

    with made_aside(folder) as new:
        figures = draw(facts, new)
        write_atomic(new / "why.md", _page(facts, figures, scale).encode())
        drawn = [name for name, _ in figures]
        for name in (*drawn, "why.md"):
            (new / name).replace(folder / name)
        for name in {f"{name}.svg" for name in FIGURES} - set(drawn):
            (folder / name).unlink(missing_ok=True)
    return folder / "why.md"


def _page(facts: Facts, figures: Sequence[tuple[str, str]], scale: str) -> str:
    ledger = findings(facts)
    lines = [
        f"# {TITLE}",
        "",
        first_paragraph(scale),
        "",
        *markdown_lines(table_1(facts)),
        "",
        *(line for table in further_tables(facts) for line in (*markdown_lines(table), "")),
        "## The claims",
        "",
        f"{count_of(ledger)}.",
        "",
        "| | claim | verdict | measured |",
        "|:---|:---|:---|:---|",
        *(
            f"| {claim.number} | {for_markdown(claim.sentence)} | **{finding.verdict}** | "
            f"{for_markdown(finding.effect)} |"
            for claim, finding in ledger
        ),
        "",
        *(line for claim, finding in ledger for line in _details(claim, finding)),
    ]
    if figures:
        lines += ["## Figures", ""]
        for name, caption in figures:
            lines += [f"![{for_markdown(caption)}]({name})", "", for_markdown(caption), ""]
    lines += ["## How it was measured", "", *_provenance(facts)]
    return "\n".join(lines) + "\n"


def _details(claim: Claim, finding: Finding) -> list[str]:
    return [
        f"### {claim.number}: {finding.verdict}",
        "",
        for_markdown(claim.sentence),
        "",
        f"- measured: {for_markdown(finding.effect)}",
        *(f"- {for_markdown(one)}" for one in claim.notes(finding)),
        *([f"- from the records of {', '.join(finding.runs)}"] if finding.runs else []),
        "",
    ]


def _provenance(facts: Facts) -> list[str]:
    lines = []
    for record in facts.records:
        provenance = record.provenance
        what = f"{record.kind} of {record.subject}: run {record.run_id}, {provenance.device}, "
        what += f"{provenance.threads} threads, {provenance.precision}, torch {provenance.torch_version}, "
        what += f"commit {provenance.commit[:12]}{' (changed)' if provenance.dirty else ''}"
        if record.timing_method:
            what += f"; {record.timing_method}"
        if record.noisy:
            what += f"; noisy: {'; '.join(record.noise)}"
        if (drifting := unsettled(record)) > 0:
            what += f"; {drifting} of its series never settled"
        if record.failure:
            what += f"; failed: {record.failure}"
        lines.append(f"- {for_markdown(what)}")
    return lines

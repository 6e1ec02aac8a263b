"""Figures of trained models: accuracy against distance, signal before and after training, attention maps."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from benchmark.measure.significance import summarise
from benchmark.record import LayerRecord, Row
from benchmark.report.drawing import BLUE, COLOR_OF, GUIDE, VERMILION, WIDTH, figure_of, panels, plain_ticks
from benchmark.report.escaping import for_terminal
from benchmark.why.facts import Facts, Missing, number
from benchmark.why.learning import DISTANCE_TASKS, Distances, distances

MODELS = {
    model: (COLOR_OF[model], mark) for model, mark in (("transformer", "o"), ("convs2s", "^"), ("lstm", "s"))
}


def accuracy(facts: Facts) -> tuple[Figure, str]:
    """Mean over seeds with its interval, against distance; the trained lengths end at the dotted line."""
    found: dict[str, dict[str, Distances]] = {}
    for task in DISTANCE_TASKS:
        for model in MODELS:
            try:
                found.setdefault(task, {})[model] = distances(facts, task, model)
            except Missing:
                continue
    tasks = [task for task, models in found.items() if models]
    if not tasks:
        raise Missing("nothing was trained")
    figure, axes = panels(len(tasks), 2, 2.7)
    for axis, task in zip(axes, tasks, strict=True):
        for model, one in found[task].items():
            every = {**one.trained, **one.beyond}
            summaries = [summarise(list(values.values())) for values in every.values()]
            color, mark = MODELS[model]
            axis.errorbar(
                list(every),
                [summary.mean for summary in summaries],
                yerr=[summary.half_width or 0.0 for summary in summaries],
                color=color, marker=mark, markersize=4, capsize=2, linewidth=1, label=model,
            )  # fmt: skip
        longest = max(max(one.trained) for one in found[task].values())
        axis.axvline(longest, color=GUIDE, linestyle=":")
        axis.set_title(f"{task} (trained up to distance {longest})")
        axis.set_xlabel("distance, positions")
        axis.set_ylabel("accuracy, %")
        axis.set_ylim(-3, 103)
        axis.legend()
    return figure, (
        "Accuracy against the distance that a task asks to bridge, mean over seeds with 95 % interval; right "
        "of the dotted line beyond what training has shown."
    )


def signal(facts: Facts) -> tuple[Figure, str]:
    """From the source, before training and after, of each model on each task."""
    records = [
        record
        for record in facts.records
        if (record.kind, record.status) == ("signal", "done")
        and any("training" in row.conditions for row in record.rows)
    ]
    if not records:
        raise Missing("no signal of a trained model was measured")
    by_model: dict[str, list[LayerRecord]] = {}
    for record in sorted(records, key=lambda record: record.subject.partition(" on ")[::-1]):
        by_model.setdefault(record.subject.partition(", seed")[0], []).append(record)
    figure, axes = panels(len(by_model), 3, 2.2, sharey=True)
    for axis, (name, record) in (
        (axis, (name, record))
        for axis, (name, seeds) in zip(axes, by_model.items(), strict=True)
        for record in seeds
    ):
        rows = [row for row in record.rows if row.quantity == "norm" and row.conditions["from"] == "source"]
        longest = max(number(row, "n") for row in rows)
        for training, color, line in (("after", BLUE, "-"), ("before", VERMILION, "--")):
            points = [
                (number(row, "distance"), row.value)
                for row in rows
                if row.conditions["training"] == training and row.conditions["n"] == longest and row.value > 0
            ]
            if points:
                label = f"{training} training" if record is by_model[name][0] else None
                axis.plot(*zip(*points, strict=True), line, color=color, linewidth=0.7, label=label)
        axis.set_title(for_terminal(name).replace(" on ", "\non "))
        axis.set_yscale("log")
        axis.set_xlabel("distance, positions")
        axis.xaxis.set_major_locator(MaxNLocator(integer=True))
    plain_ticks(axes[0].yaxis)
    figure.supylabel("norm of d output / d source", fontsize="medium")
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncol=2)
    return figure, "What reaches the answer from the source, before training and after; a line for each seed."


def heads(facts: Facts) -> tuple[Figure, str]:
    """Every head of the encoder of a trained Transformer on one sentence."""
    record, rows = _first(facts, "encoder")
    words = _words(record)["source"]
    layers, number_of_heads = (int(max(number(row, name) for row in rows)) for name in ("layer", "head"))
    side = 2 * WIDTH / (number_of_heads + 1)
    figure = figure_of(2 * WIDTH, 0.6 + side * layers)
    axes = figure.subplots(layers, number_of_heads, squeeze=False)
    for layer, line in enumerate(axes, 1):
        for head, axis in enumerate(line, 1):
            image = axis.imshow(_matrix(rows, layer, head), cmap="viridis", vmin=0, vmax=1)
            axis.set_title(f"layer {layer}, head {head}")
            _label(axis, words if head == 1 else [], words if layer == layers else [])
    figure.colorbar(image, ax=axes, shrink=0.5, label="weight")
    return figure, f"Where the heads of an encoder look: from the word at the left ({record.subject})."


def sources(facts: Facts) -> tuple[Figure, str]:
    """Where each architecture looks in the source, in its last layer, heads averaged."""
    chosen = []
    for model in MODELS:
        try:
            chosen.append(_first(facts, "source", model))
        except Missing:
            continue
    if not chosen:
        raise Missing("no attention was measured")
    figure, axes = panels(len(chosen), 1, 1.4)
    for axis, (record, rows) in zip(axes, chosen, strict=True):
        words = _words(record)
        last = int(max(number(row, "layer") for row in rows))
        count = int(max(number(row, "head") for row in rows))
        mean = np.mean([_matrix(rows, last, head) for head in range(1, count + 1)], axis=0)
        axis.imshow(mean, cmap="viridis", vmin=0, vmax=1, aspect="auto")
        axis.set_title(for_terminal(record.subject))
        _label(axis, words["target"], words["source"])
    return figure, "Where the target looks in the source: last layer, heads averaged."


def _first(facts: Facts, part: str, model: str = "transformer") -> tuple[LayerRecord, list[Row]]:
    """The attention record of one seed, of the last task, and its rows of a part."""
    found = [
        record
        for record in facts.records
        if (record.kind, record.status) == ("attention", "done") and record.subject.startswith(model)
    ]
    if not found:
        raise Missing(f"the attention of no {model} was measured")
    lowest = min(number_of_seed(record) for record in found)
    record = [one for one in found if number_of_seed(one) == lowest][-1]
    rows = [row for row in record.rows if row.quantity == "attention" and row.conditions.get("part") == part]
    if not rows:
        raise Missing(f"{record.subject} has no such attention")
    return record, rows


def number_of_seed(record: LayerRecord) -> int:
    seed = record.settings.get("seed")
    return seed if isinstance(seed, int) else 0


def _words(record: LayerRecord) -> dict[str, list[str]]:
    row = next(row for row in record.rows if row.quantity == "words")
    return {
        side: [for_terminal(str(word)) for word in _list(row.conditions[side])]
        for side in ("source", "target")
    }


def _list(value: Any) -> Iterator[Any]:
    return iter(value if isinstance(value, list) else [])


def _matrix(rows: Sequence[Row], layer: int, head: int) -> Any:
    mine = [row for row in rows if (row.conditions["layer"], row.conditions["head"]) == (layer, head)]
    return np.array([row.samples for row in sorted(mine, key=lambda row: number(row, "query"))])


def _label(axis: Any, down: Sequence[str], across: Sequence[str]) -> None:
    axis.grid(visible=False)
    axis.set_yticks(range(len(down)), down, fontsize=5)
    axis.set_xticks(range(len(across)), across, fontsize=5, rotation=90)
    if not down:
        axis.set_yticks([])
    if not across:
        axis.set_xticks([])

"""Published figures keep the digits of their source and stand in tables of their own."""

from benchmark.report.layout import NOT_MEASURED
from benchmark.report.published import published, published_tables


def test_every_table_has_a_source_and_says_how_it_is_known():
    assert len(published()) >= 4
    for table in published_tables(topic for one in published() for topic in one.beside):
        assert any(remark.startswith("Source: ") for remark in table.remarks)
        assert table.heading == ["not measured here"]


def test_figures_keep_their_digits():
    (table,) = published_tables(["table-2"])
    ensemble = next(row for row in table.rows if row[0] == "GNMT + RL ensemble")
    assert ensemble == ["GNMT + RL ensemble", "26.30", "41.16", "1.8e+20", "1.1e+21"]
    assert ["ByteNet", "23.75", *[NOT_MEASURED] * 3] in table.rows


def test_the_papers_own_costs_follow_from_time_and_rate():
    """Training time x GPUs x assumed rate, from the paper's section 5 and its footnote."""
    (table,) = published_tables(["table-2"])
    cost = {row[0]: float(row[3]) for row in table.rows if row[3] != NOT_MEASURED}
    for system, hours, gpus, teraflops in (
        ("Transformer (base)", 12, 8, 9.5),
        ("Transformer (big)", 3.5 * 24, 8, 9.5),
        ("ConvS2S", 18.5 * 24, 1, 6.0),
    ):
        computed = hours * 3600 * gpus * teraflops * 1e12
        assert abs(cost[system] / computed - 1) < 0.01, system


def test_a_topic_without_a_table_has_none():
    assert published_tables(["reverse"]) == []

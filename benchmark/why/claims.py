"""The claims of section 4 and of the paper's introduction, each with what decides it.

A claim names its prediction and its test; the test reads records and gives the effect and the verdict
(`counted`, `timed`, `vanishing`, `learning`). Thresholds stand there, in the repository, and docs/why.md
tells which tests have changed since they were first measured. The paper's own unit decides: mixing operations
for complexity, kernel depth for sequential operations, hops for path length. Other units are printed as
conditions.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from benchmark.why.cells import KERNEL, NEIGHBOURHOOD
from benchmark.why.counted import (
    PAPER_WIDTH,
    at_once,
    complexity,
    desiderata,
    in_order,
    k_times_dearer,
    layers_needed,
    neighbourhood,
    parallel_training,
    paths,
    restricted,
    same_terms,
    separable,
    sequential,
    short_sentences,
)
from benchmark.why.facts import Facts, Missing
from benchmark.why.finding import FAR, NEAR, UNDECIDED, Finding
from benchmark.why.learning import (
    EQUAL_SECONDS,
    LEARNED,
    heads_differ,
    learned_over_distance,
    trains_faster,
    translates_better,
)
from benchmark.why.timed import faster_when_short
from benchmark.why.vanishing import vanishing


@dataclass(frozen=True, kw_only=True)
class Claim:
    number: str
    """As in the paper's section 4, in the order of its sentences; I and C: what its introduction and
    conclusion say, or rest on.
    """
    sentence: str
    """In our words."""
    prediction: str
    test: str
    decide: Callable[[Facts], Finding]
    is_structural: bool = False
    """It follows from how the layers are built: measuring checks them and the arithmetic, and no machine or
    training could turn it.
    """

    def notes(self, finding: Finding) -> list[str]:
        """What is said beneath a verdict."""
        checked = ["it follows from how layers are built: measuring checks it"] if self.is_structural else []
        return [f"predicted: {self.prediction}", f"test: {self.test}", *checked, *finding.conditions]

    def finding(self, facts: Facts) -> Finding:
        """The verdict, with the runs whose records were read for it; undecided where something is missing."""
        facts.read.clear()
        try:
            found = self.decide(facts)
        except Missing as missing:
            found = Finding(verdict=UNDECIDED, effect=str(missing))
        return replace(found, runs=tuple(sorted(facts.read)))


CLAIMS: tuple[Claim, ...] = (
    Claim(
        number="S4.1",
        sentence="Three things tell layers apart: operations per layer, how much of them has to run in "
        "order, and how long paths between positions are.",
        prediction="no two of the paper's four rows of Table 1 grow alike in all three",
        test=f"exponents in n of mixing operations, kernel depth and hops: a pair within {NEAR} in all three "
        "contradicts",
        decide=desiderata,
        is_structural=True,
    ),
    Claim(
        number="S4.2",
        sentence="A layer costs n^2 d (self-attention), n d^2 (recurrent), k n d^2 (convolutional), r n d "
        "(restricted self-attention).",
        prediction="exponents of n and d: 2 and 1, 1 and 2, 1 and 2, 1 and 1; of k and r: 1",
        test="power laws through mixing operations, whose sum with the projections has to be what is "
        f"counted: all within {NEAR} supports, one off by {FAR} contradicts",
        decide=complexity,
        is_structural=True,
    ),
    Claim(
        number="S4.3",
        sentence="Self-attention connects all positions with a constant number of sequential operations, a "
        "recurrent layer needs n.",
        prediction="kernel depth grows with n to the 0 (self-attention, convolution, restricted), and 1 "
        "(recurrent)",
        test=f"power laws through kernel depth: all within {NEAR}, and equal at every length where it is to "
        f"be constant, supports; one off by {FAR} contradicts",
        decide=sequential,
        is_structural=True,
    ),
    Claim(
        number="S4.4",
        sentence="The longest path is 1 (self-attention), n (recurrent), log_k n (convolutional, dilated), "
        "n / r (restricted).",
        prediction=f"hops: 1, n, ceil(log_k n), ceil((n - 1) / (r / 2)), with k = {KERNEL}, "
        f"r = {NEIGHBOURHOOD}",
        test="equal at every length, and no connection where there must be none, also in whole models where "
        "that was looked for",
        decide=paths,
        is_structural=True,
    ),
    Claim(
        number="S4.5",
        sentence="Shorter paths make relations over a distance easier to learn.",
        prediction="recall and agreement: at the largest trained distance a Transformer is more accurate "
        "than an LSTM, and its accuracy has fallen less from the smallest distance on",
        test="both over seeds, sign-flip tests: on one task at least, and on no task an LSTM more accurate "
        "at the largest distance, which contradicts; who is behind there must have learned the task at the "
        f"smallest distance ({LEARNED:.0f} % on average), or that task decides nothing",
        decide=learned_over_distance,
    ),
    Claim(
        number="S4.6",
        sentence="Self-attention is faster than a recurrent layer as long as n < d.",
        prediction="less time at every timed n < d, forward and backward, full batches, against a fused LSTM",
        test="paired ratio of times at every point, and its 95 % interval: beyond the A/A noise at all, and "
        "slower from no length below d on at any width (interval), supports; slower at one point "
        "contradicts, by intervals that hold at all points together",
        decide=faster_when_short,
    ),
    Claim(
        number="S4.7",
        sentence="Sentences in subwords are most often shorter than the width of models.",
        prediction=f"more than half of the sentences have n < {PAPER_WIDTH}",
        test="share of the training sentences and its 95 % interval",
        decide=short_sentences,
    ),
    Claim(
        number="S4.8",
        sentence="For long sequences attention restricted to r neighbours costs less, with paths of n / r.",
        prediction="operations linear in n, path linear in n, and less time than full self-attention at the "
        "longest n",
        test="exponents as in S4.2; paired ratio of times beyond the A/A noise, where the time of full "
        f"attention on one sequence grows with n (to a power of {FAR} at least)",
        decide=restricted,
    ),
    Claim(
        number="S4.9",
        sentence="One convolution with k < n does not connect all positions; it takes n / k contiguous "
        "layers, or log_k n dilated ones.",
        prediction="ceil((n - 1) / (k - 1)) and ceil(log_k n) layers",
        test="the smallest stack that connects all positions, found by search, equal at every length",
        decide=layers_needed,
        is_structural=True,
    ),
    Claim(
        number="S4.10",
        sentence="A convolution costs k times as much as a recurrent layer.",
        prediction="a ratio of k, of mixing operations at equal width",
        test=f"ratio / k at k = 3, 5, 9: all within {NEAR} of 1 supports, all off by {FAR} contradicts",
        decide=k_times_dearer,
        is_structural=True,
    ),
    Claim(
        number="S4.11",
        sentence="A separable convolution costs k n d + n d^2.",
        prediction="counted operations 2 k n d + 2 n d^2",
        test="equal within 1 % at every point",
        decide=separable,
        is_structural=True,
    ),
    Claim(
        number="S4.12",
        sentence="With k = n the cost of a separable convolution grows as that of self-attention with a "
        "feed-forward layer.",
        prediction="both are a n^2 d + b n d^2",
        test="least squares on counted operations: both terms positive, and no point off by more than 1 %",
        decide=same_terms,
        is_structural=True,
    ),
    Claim(
        number="S4.13",
        sentence="Training drives the heads of an encoder layer apart in what they look at.",
        prediction="their divergence is higher after training than before",
        test="Jensen-Shannon divergence of their weights after training against before, sign-flip tests over "
        "seeds: above on one task at least and below on none supports, the reverse contradicts; heads that "
        "only become sharper are further apart too, which this does not tell from roles",
        decide=heads_differ,
    ),
    Claim(
        number="I.1",
        sentence="A recurrence computes in the order of positions.",
        prediction="at least one step for each position, however many processors there are for this program",
        test="ideal depth of at least n at every length; one below n contradicts",
        decide=in_order,
        is_structural=True,
    ),
    Claim(
        number="I.2",
        sentence="In an LSTM before training, with a forget bias of 1, gradients vanish over distance (as "
        "Hochreiter 1991 has it of recurrences; not in the paper itself).",
        prediction="exponential decay with distance",
        test="law of decay at every length and position: exponential and falling at all supports, no decay "
        "contradicts",
        decide=vanishing,
    ),
    Claim(
        number="I.3",
        sentence="A convolution sees a neighbourhood.",
        prediction="one layer connects all positions at no n > k, nor does a ConvS2S encoder of few layers",
        test="smallest connecting stack above 1; encoder unconnected at the longest sentence",
        decide=neighbourhood,
        is_structural=True,
    ),
    Claim(
        number="I.4",
        sentence="Self-attention sees the whole sentence at once.",
        prediction="one layer, one hop",
        test="hops and layers of 1 at every length",
        decide=at_once,
        is_structural=True,
    ),
    Claim(
        number="I.5",
        sentence="Training a Transformer is parallel over positions, training a recurrent model is not.",
        prediction="kernel depth under teacher forcing, forward and backward: constant in n, and growing",
        test="equal at every length for the Transformer, or contradicted; more than 1.5 times from the first "
        "to the last for the LSTM, or not decided",
        decide=parallel_training,
        is_structural=True,
    ),
    Claim(
        number="C.1",
        sentence="The Transformer translates better, at a fraction of the training cost.",
        prediction="higher BLEU than ConvS2S and an LSTM after equal seconds of training",
        test="sign-flip tests over seeds, in every study of translation beside this one whose models trained "
        f"for equal seconds (as run, within {EQUAL_SECONDS:.0%}): higher than both in one at least and lower "
        "than another in none supports, the reverse contradicts",
        decide=translates_better,
    ),
    Claim(
        number="C.2",
        sentence="For translation the Transformer trains faster than recurrent or convolutional "
        "architectures.",
        prediction="fewer target tokens per second in ConvS2S and in an LSTM",
        test="ratios of speed, beyond A/A noise, in every speed record of the studies beside this one: "
        "faster than all others in one at least, and slower than one of them in none, supports; the reverse "
        "contradicts",
        decide=trains_faster,
    ),
)

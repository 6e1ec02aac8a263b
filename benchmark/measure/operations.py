"""Operations of training steps in closed form: what a model's contractions come to on batches as they are."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from models import ModelConfig
from tasks.data.batching import Shapes

PASSES = 3
"""The backward pass multiplies each matrix twice where the forward pass does once."""


def training_operations(
    config: ModelConfig, vocabulary_size: int, shapes: Shapes
) -> NDArray[np.float64] | None:
    """(N,) operations of each of N steps: 2 per multiply-add, forward and backward.

    Padding counts as the words do, except in the output projection, which is made of words alone, as on a CPU
    (an accelerator projects padding, too). None for a model without a closed form (`ModelConfig.theory`).
    """
    pairs, which = np.unique(
        np.stack((shapes.source_length, shapes.target_length), 1), axis=0, return_inverse=True
    )
    body, projection = np.empty(len(pairs)), np.empty(len(pairs))
    try:
        for number, (source, target) in enumerate(pairs.tolist()):
            without_words = config.theory(0, source, target).operations
            body[number] = without_words
            projection[number] = (
                config.theory(vocabulary_size, source, target).operations - without_words
            ) / target
    except NotImplementedError:
        return None
    which = which.reshape(-1)
    result: NDArray[np.float64] = PASSES * (
        shapes.sentences * body[which] + shapes.target_tokens * projection[which]
    )
    return result

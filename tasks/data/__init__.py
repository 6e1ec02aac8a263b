"""From raw pairs to batches: vocabulary, token ids on disk, order of an epoch, the one data module."""

"""Who runs the cells of a study."""

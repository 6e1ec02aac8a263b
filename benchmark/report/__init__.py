"""Records to tables: a pure function of a study's folder. Rounding happens here only; torch is not needed."""

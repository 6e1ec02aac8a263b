"""The harness: experiments, training, measurement, records and reports."""

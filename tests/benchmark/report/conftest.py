"""A study's folder for the tests of reports."""

import pytest

from benchmark.config import dump_yaml
from benchmark.record import record_bytes


@pytest.fixture
def study_folder(tmp_path):
    """A writer of records and cells into the folder of one study, which it returns."""

    def write(*records, cells=(), **fields):
        folder = tmp_path / "a-study"
        for record in records:
            run = folder / "runs" / record.run_id
            run.mkdir(parents=True, exist_ok=True)
            (run / "record.json").write_bytes(record_bytes(record))
        folder.mkdir(exist_ok=True)
        if cells:
            header = {"study": "a-study", "schema_version": 1, "measure": ["train"], **fields}
            document = {**header, "cells": list(cells)}
            (folder / "study.yaml").write_text(dump_yaml(document))
        return folder

    return write

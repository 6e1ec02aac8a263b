"""The house: pinned versions are allowed ones, and nothing in the repository names a registry."""

import re
import tomllib
from importlib import metadata

import pytest
from packaging.requirements import Requirement

from benchmark.config import ROOT

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
REQUIREMENTS = [
    Requirement(text)
    for text in PROJECT["project"]["dependencies"] + PROJECT["project"]["optional-dependencies"]["dev"]
]
PINS = {
    name.lower(): version
    for name, _, version in (
        line.partition("==")
        for line in (ROOT / "constraints.txt").read_text(encoding="utf-8").split("\n")
        if line and not line.startswith("#")
    )
}


@pytest.mark.parametrize("requirement", REQUIREMENTS, ids=str)
def test_pinned_and_installed_versions_are_allowed(requirement):
    assert requirement.specifier.contains(PINS[requirement.name.lower()])
    assert requirement.specifier.contains(metadata.version(requirement.name))


@pytest.mark.parametrize("version", ["2.6.2", "2.6.3"])
def test_the_lightning_versions_that_carried_malware_are_refused(version):
    lightning = next(one for one in REQUIREMENTS if one.name == "pytorch-lightning")
    assert not lightning.specifier.contains(version)
    assert metadata.version("pytorch-lightning") not in ("2.6.2", "2.6.3")


def test_only_one_lightning_is_imported():
    for path in [*ROOT.glob("benchmark/**/*.py"), *ROOT.glob("models/**/*.py"), *ROOT.glob("tasks/**/*.py")]:
        assert not re.search(r"^\s*(import|from) lightning\b", path.read_text(encoding="utf-8"), re.M), path


CLOCKS = {
    "benchmark/measure/timing.py": "the clock that everything measured is timed with",
    "benchmark/measure/energy.py": "when the counters of a processor are due to be read again",
    "benchmark/progress.py": "when the next line is due",
    "benchmark/report/placing.py": "how old a folder is that a killed process may have left",
    "benchmark/running.py": "how long a study has been going, for what is left of it",
    "benchmark/trainer.py": "how long a run took in all, validations and evaluation included",
}
"""Who may ask for the time, and what for: a speed comes from `Clock` alone, which waits for the device."""


def test_there_is_one_clock():
    asked = re.compile(
        r"\btime\.(time|perf_counter|monotonic|process_time|thread_time)(_ns)?\(|^\s*from time import"
        r"|\btimeit\b",
        re.M,
    )
    found = {
        path.relative_to(ROOT).as_posix()
        for package in ("models", "tasks", "benchmark")
        for path in (ROOT / package).glob("**/*.py")
        if asked.search(path.read_text(encoding="utf-8"))
    }
    assert found == CLOCKS.keys()


def test_no_file_of_the_house_names_a_registry():
    for name in ("pyproject.toml", "constraints.txt", "Makefile", ".ci/run"):
        text = (ROOT / name).read_text(encoding="utf-8")
        assert not re.search(
            r"index-url|find-links|extra-index|trusted-host|https?://\S*(pypi|simple)", text
        ), name


def test_the_citation_has_the_version_of_the_project():
    citation = (ROOT / "CITATION.cff").read_text(encoding="utf-8")
    assert f"version: {PROJECT['project']['version']}\n" in citation


IMPORT = re.compile(r"^\s*(?:import|from) (models|tasks|benchmark|configs)\b", re.M)


@pytest.mark.parametrize(
    ("package", "allowed"),
    [("models", {"models"}), ("tasks", {"tasks"}), ("benchmark", {"models", "tasks", "benchmark"})],
)
def test_dependencies_point_one_way(package, allowed):
    for path in (ROOT / package).glob("**/*.py"):
        found = set(IMPORT.findall(path.read_text(encoding="utf-8")))
        assert found <= allowed, path


def test_the_tree_in_the_readme_is_that_of_the_packages():
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    tree = readme.split("## What lies where")[1].split("```")[1]
    named: set[str] = set()
    folders: list[str] = []
    for line in tree.strip().split("\n"):
        depth, name = (len(line) - len(line.lstrip())) // 2, line.split()[0]
        folders[depth:] = [name]
        if name.endswith((".py", ".md")):
            named.add("".join(folders))
    found = {
        path.relative_to(ROOT).as_posix()
        for package in ("models", "tasks", "benchmark")
        for path in (ROOT / package).glob("**/*.py")
        if not path.name.startswith("__")
    } | {path.relative_to(ROOT).as_posix() for path in (ROOT / "docs").glob("**/*.md")}
    assert named - {"models/__init__.py", "tasks/__init__.py"} == found

"""What is built, declared and pinned: nothing is forgotten, and nothing heavy is imported before it is needed."""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
import tarfile
import zipfile
from importlib.metadata import PackageNotFoundError, distribution, packages_distributions, version
from pathlib import Path
from typing import Any

import pytest
from packaging.markers import default_environment
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).parents[2]
PYTHONS = ("3.10", "3.11", "3.12", "3.13")

pytestmark = pytest.mark.skipif(not (ROOT / "constraints.txt").is_file(), reason="needs the whole source tree")


def project() -> dict[str, Any]:
    return tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def environment(python: str, extra: str = "") -> dict[str, str]:
    found = {k: str(v) for k, v in default_environment().items()}
    return {**found, "python_version": python, "python_full_version": f"{python}.0", "extra": extra}


def declared(python: str | None = None) -> list[Requirement]:
    """All declared dependencies, or those of one Python."""
    extras = project()["optional-dependencies"].values()
    found = [Requirement(r) for r in (*project()["dependencies"], *(r for extra in extras for r in extra))]
    return [r for r in found if python is None or r.marker is None or r.marker.evaluate(environment(python))]


def pins(python: str) -> dict[str, str]:
    """Name and version of every pin that applies to a Python; two for one name are an error."""
    found: dict[str, str] = {}
    for line in (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines():
        if not line.strip() or line.startswith("#"):
            continue
        requirement = Requirement(line)
        if requirement.marker is None or requirement.marker.evaluate(environment(python)):
            name = canonicalize_name(requirement.name)
            assert name not in found, f"{name} is pinned twice for Python {python}"
            assert re.fullmatch(r"==[^*,]+", str(requirement.specifier)), line
            found[name] = str(requirement.specifier)[2:]
    return found


# Versions.


def test_the_version_is_the_same_everywhere():
    import dreamy_lens

    citation = (ROOT / "CITATION.cff").read_text(encoding="utf-8")
    # The package's own number is the one place; the build reads it.
    assert re.fullmatch(r"\d+\.\d+\.\d+", dreamy_lens.__version__) and project()["dynamic"] == ["version"]
    assert re.search(r"^version: (.*)$", citation, re.M)[1] == dreamy_lens.__version__  # pyright: ignore[reportOptionalSubscript]
    if (ROOT / ".git").exists():
        assert version("dreamy-lens") == dreamy_lens.__version__, "install the checkout again"


def test_the_supported_pythons_are_the_same_everywhere():
    classifiers = [c.rpartition(" ")[2] for c in project()["classifiers"] if "Python :: 3." in c]
    workflow = (ROOT / ".github" / "workflows" / "ci.yml").read_text(encoding="utf-8")
    assert tuple(classifiers) == PYTHONS
    assert f"python: [{', '.join(f'{chr(34)}{p}{chr(34)}' for p in PYTHONS)}]" in workflow
    assert all(f"{p}.0" in SpecifierSet(project()["requires-python"]) for p in PYTHONS)
    assert "3.9.20" not in SpecifierSet(project()["requires-python"])


def test_the_oldest_transformer_lens_is_among_what_is_tested():
    workflow = (ROOT / ".github" / "workflows" / "ci.yml").read_text(encoding="utf-8")
    tested = re.search(r"transformer-lens==([\d.]+)", workflow)
    ours = next(r for r in declared() if r.name == "transformer-lens")
    assert tested and min(s.version for s in ours.specifier if s.operator == ">=") in (
        tested[1],
        tested[1].removesuffix(".0"),
    )


@pytest.mark.parametrize("python", PYTHONS)
def test_every_declared_dependency_is_pinned_within_its_range(python: str):
    pinned = pins(python)
    for requirement in declared(python):
        version = pinned.get(canonicalize_name(requirement.name))
        assert version is not None, f"{requirement.name} is not in constraints.txt for Python {python}"
        assert requirement.specifier.contains(version, prereleases=True), f"{requirement} excludes the pinned {version}"


@pytest.mark.parametrize("python", PYTHONS)
def test_every_dependency_of_a_dependency_is_pinned_within_its_range(python: str):
    """As far as the metadata of what is installed here can tell: a distribution of another version is not followed."""
    pinned, seen = pins(python), set()
    ours = ("transformers", "transformer-lens", "torch")
    if any(distribution(n).version.partition("+")[0] not in {pins(other)[n] for other in PYTHONS} for n in ours):
        pytest.skip("this environment has other versions than constraints.txt")
    waiting = [(r, "dreamy-lens") for r in declared(python)]
    while waiting:
        requirement, wanted_by = waiting.pop()
        name = canonicalize_name(requirement.name)
        if wanted_by == "torch" and name not in pinned:
            continue  # what brings CUDA, which torch pins by itself
        version = pinned.get(name)
        assert version is not None, f"{wanted_by} needs {requirement}: not in constraints.txt for Python {python}"
        assert requirement.specifier.contains(version, prereleases=True), (
            f"{wanted_by} needs {requirement}, not {version}"
        )
        try:
            installed = distribution(name)
        except PackageNotFoundError:
            continue
        for extra in ("", *requirement.extras):
            if (name, extra) in seen or installed.version.partition("+")[0] != version:
                continue
            seen.add((name, extra))
            inner = [Requirement(r) for r in installed.requires or ()]
            waiting += [(r, name) for r in inner if r.marker is None or r.marker.evaluate(environment(python, extra))]
    if python == f"{sys.version_info.major}.{sys.version_info.minor}":
        assert len(seen) > 50, "the environment is not the one of constraints.txt, so that next to nothing was checked"


def test_what_the_package_imports_is_declared_and_what_is_declared_is_imported():
    imported = set()
    for path in (ROOT / "dreamy_lens").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                imported |= {alias.name.partition(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
                imported.add(node.module.partition(".")[0])
    imported -= {"dreamy_lens", *sys.stdlib_module_names}
    owners = packages_distributions()
    found = {canonicalize_name(name) for module in imported for name in owners.get(module, [module])[:1]}
    optional = project()["optional-dependencies"]
    extras = {canonicalize_name(Requirement(r).name) for name in ("adapters", "llm", "ray") for r in optional[name]}
    found -= {"triton"}  # comes with torch for CUDA, and is looked for before it is imported
    assert found - extras == {canonicalize_name(Requirement(r).name) for r in project()["dependencies"]}
    assert extras <= found


# What is built.


def python_and_data_files() -> set[str]:
    files = (p for p in (ROOT / "dreamy_lens").rglob("*") if p.is_file() and "__pycache__" not in p.parts)
    return {p.relative_to(ROOT).as_posix() for p in files}


def test_the_wheel_has_the_whole_package_with_weights_and_type_marker_and_nothing_else(tmp_path: Path):
    from hatchling.builders.wheel import WheelBuilder

    (wheel,) = WheelBuilder(str(ROOT)).build(directory=str(tmp_path), versions=["standard"])
    with zipfile.ZipFile(wheel) as archive:
        names = {n for n in archive.namelist() if not n.endswith("/")}
        metadata = archive.read(next(n for n in names if n.endswith(".dist-info/METADATA"))).decode()
        points = archive.read(next(n for n in names if n.endswith(".dist-info/entry_points.txt"))).decode()
    inside = {n for n in names if ".dist-info/" not in n}
    assert inside == python_and_data_files()
    model = "dreamy_lens/models/embedded/docstrings-neox-5m"
    assert {
        "dreamy_lens/py.typed",
        *(f"{model}/{n}" for n in ("model.safetensors", "tokenizer.json", "README.md")),
    } <= inside
    assert any(n.endswith("licenses/LICENSE") for n in names)
    assert "License-Expression: MIT" in metadata and "dreamy-lens = dreamy_lens.cli.main:main" in points
    assert Path(wheel).stat().st_size < 13_000_000


def test_the_source_distribution_can_be_tested_and_built_again(tmp_path: Path):
    from hatchling.builders.sdist import SdistBuilder
    from hatchling.builders.wheel import WheelBuilder

    (source,) = SdistBuilder(str(ROOT)).build(directory=str(tmp_path), versions=["standard"])
    with tarfile.open(source) as archive:
        archive.extractall(tmp_path, **({"filter": "data"} if hasattr(tarfile, "data_filter") else {}))
    (unpacked,) = (p for p in tmp_path.iterdir() if p.is_dir())
    expected = {"pyproject.toml", "README.md", "LICENSE", "Makefile", "constraints.txt", "CHANGELOG.md", "tests"}
    assert expected <= {p.name for p in unpacked.iterdir()}
    assert (unpacked / Path(__file__).relative_to(ROOT)).is_file()
    (wheel,) = WheelBuilder(str(unpacked)).build(directory=str(tmp_path), versions=["standard"])
    with zipfile.ZipFile(wheel) as archive:
        assert python_and_data_files() <= set(archive.namelist())


# What an import costs.


def test_importing_the_package_imports_nothing_heavy():
    heavy = (
        "torch",
        "plotly",
        "transformers",
        "transformer_lens",
        "pandas",
        "numpy",
        "IPython",
        "ipywidgets",
        "safetensors",
    )
    code = f"import sys, dreamy_lens; print([m for m in {heavy!r} if m in sys.modules])"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert ran.stdout.strip() == "[]", ran.stdout + ran.stderr


def test_every_public_name_can_be_imported():
    import dreamy_lens

    for name in dreamy_lens.__all__:
        assert getattr(dreamy_lens, name) is not None
    assert set(dreamy_lens.__all__) <= set(dir(dreamy_lens))


def test_tests_of_a_file_stay_in_one_process(request: pytest.FixtureRequest):
    """pytest-xdist 3.8 keeps no group together with pytest 9.2, so that every process makes all models and browsers.

    https://github.com/pytest-dev/pytest-xdist/issues/1386
    """
    assert version("pytest-xdist").startswith("3.8."), "if the issue is mended, the bound on pytest can go"
    if not os.environ.get("PYTEST_XDIST_WORKER"):
        pytest.skip("the tests run in one process")
    assert request.node.nodeid.endswith("@tests/project/test_packaging.py")

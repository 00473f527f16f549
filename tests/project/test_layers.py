"""The layers of the package: imports point downwards, there are no circles, and private names stay in their modules."""

from __future__ import annotations

import ast
import importlib
import inspect
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

import dreamy_lens

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).parents[2]
PACKAGE = Path(dreamy_lens.__file__).parent
CHECK_PRIVATE = ROOT / "tools" / "check_private.py"

pytestmark = pytest.mark.skipif(not CHECK_PRIVATE.is_file(), reason="needs the whole source tree")


def import_linter() -> dict[str, Any]:
    return tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["importlinter"]


def names_in(folder: Path) -> set[str]:
    """Modules and packages directly in a package's folder."""
    modules = {file.stem for file in folder.glob("*.py")} - {"__init__"}
    return modules | {file.parent.name for file in folder.glob("*/__init__.py")}


# Layers.


def lint_imports(folder: Path, monkeypatch: pytest.MonkeyPatch) -> bool:
    """Whether all contracts of a folder's pyproject.toml hold."""
    configuration = pytest.importorskip("importlinter.configuration")
    configuration.configure()
    from importlinter.application import use_cases

    monkeypatch.chdir(folder)
    quiet = {"no_logo": True} if "no_logo" in inspect.signature(use_cases.lint_imports).parameters else {}
    return use_cases.lint_imports(config_filename="pyproject.toml", cache_dir=None, **quiet)


def test_every_contract_holds(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    """As `make lint` checks too; the report of a broken contract names the imports that break it."""
    assert lint_imports(ROOT, monkeypatch), capsys.readouterr().out


@pytest.mark.parametrize(
    ("line", "holds"),
    [
        ("x = 1", True),
        ("from planted import html", True),
        ("from planted import api", False),
        ("def f():\n    from planted.api import x\n", False),
        ("from typing import TYPE_CHECKING\n\nif TYPE_CHECKING:\n    from planted.api import x\n", False),
    ],
)
def test_an_upward_arrow_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, line: str, holds: bool):
    """In a package with the settings of this one and three of its layers."""
    names = (f"planted_{abs(hash(line)) % 10**9}", "api", "models", "html")  # a new name, as modules are remembered
    (tmp_path / names[0]).mkdir()
    for name in ("__init__", *names[1:]):
        source = line if name == "models" else "x = 1"
        (tmp_path / names[0] / f"{name}.py").write_text(source.replace("planted", names[0]))
    kind = str(import_linter()["exclude_type_checking_imports"]).lower()
    (tmp_path / "pyproject.toml").write_text(
        f'[tool.importlinter]\nroot_packages = ["{names[0]}"]\nexclude_type_checking_imports = {kind}\n'
        '[[tool.importlinter.contracts]]\nname = "Imports point downwards"\ntype = "layers"\nexhaustive = true\n'
        f'containers = ["{names[0]}"]\nlayers = ["api", "models", "html"]\n'
    )
    monkeypatch.syspath_prepend(tmp_path)
    assert lint_imports(tmp_path, monkeypatch) == holds


def test_lazy_and_type_only_imports_count_and_no_import_is_excused():
    config = import_linter()
    assert config["exclude_type_checking_imports"] is False
    kinds = [contract["type"] for contract in config["contracts"]]
    assert "layers" in kinds and "acyclic_siblings" in kinds
    for contract in config["contracts"]:
        assert not {"ignore_imports", "unmatched_ignore_imports_alerting", "allow_indirect_imports"} & set(contract)
        assert contract.get("exhaustive", True) and not contract.get("exhaustive_ignores")


def test_every_module_is_in_one_layer():
    (layers,) = (contract["layers"] for contract in import_linter()["contracts"] if contract["type"] == "layers")
    declared = [name.strip(" ()") for layer in layers for name in layer.replace(":", "|").split("|")]
    assert len(declared) == len(set(declared))
    assert names_in(PACKAGE) == set(declared)


# Names.


def packages() -> list[str]:
    folders = [PACKAGE, *(file.parent for file in PACKAGE.rglob("__init__.py") if file.parent != PACKAGE)]
    return [".".join((PACKAGE.name, *folder.relative_to(PACKAGE).parts)) for folder in folders]


def imported_objects(package: str, source: str) -> Iterator[str]:
    """Names that a package's `__init__` imports from its modules, so that they are functions, classes or constants."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ImportFrom):
            prefix = package.rsplit(".", node.level - 1)[0] + "." if node.level else ""
            module = (prefix + (node.module or "")).rstrip(".")
            for name in node.names:
                here = PACKAGE.joinpath(*module.split(".")[1:])
                if not (module.split(".")[0] == PACKAGE.name and here.is_dir() and name.name in names_in(here)):
                    yield name.asname or name.name


def shadowed(package: str, folder: Path) -> set[str]:
    """Exported names that the import of a submodule of the same name would replace."""
    sources = [file.read_text(encoding="utf-8") for file in folder.glob("__init__.py*") if file.suffix != ".pyc"]
    objects = {name for source in sources for name in imported_objects(package, source)}
    loaded = importlib.import_module(package)
    listed = {n for n in getattr(loaded, "__all__", ()) if n in names_in(folder)}
    objects |= {name for name in listed if not isinstance(getattr(loaded, name), ModuleType)}
    return objects & names_in(folder)


@pytest.mark.parametrize("package", packages())
def test_no_exported_object_has_the_name_of_a_submodule(package: str):
    """Python binds a submodule to its package when it is imported, in the place of what has that name there."""
    assert not shadowed(package, PACKAGE.joinpath(*package.split(".")[1:]))


def test_an_object_with_the_name_of_a_submodule_would_be_found():
    source = "from .compare import compare\nfrom . import errors\nfrom dreamy_lens.search import constraints as rules"
    assert list(imported_objects("dreamy_lens", source)) == ["compare"]
    source = "from dreamy_lens.corpus.documentation import docstrings\nfrom .sources import open_corpus as open"
    assert list(imported_objects("dreamy_lens.corpus", source)) == ["docstrings", "open"]


# Private names.


def check_private(*folders: Path) -> tuple[int, list[str]]:
    """Exit status and lines of the check."""
    ran = subprocess.run([sys.executable, CHECK_PRIVATE, *folders], capture_output=True, text=True)
    assert ran.stderr == ""
    return ran.returncode, ran.stdout.splitlines()


def test_no_module_reads_what_is_private_to_another():
    status, lines = check_private(PACKAGE, *(folder for folder in [ROOT / "training"] if folder.is_dir()))
    assert status == 0, "\n".join(lines)


@pytest.mark.parametrize(
    ("source", "access"),
    [
        ("def model_of(run):\n    return run._model\n", "2: run._model"),
        ("def clear(run):\n    del run.session._cache\n", "2: run.session._cache"),
        ("def fill(run, x):\n    run._cache = x\n", "2: run._cache"),
        ("def f():\n    from dreamy_lens.runs.progress import _is_watched\n", "2: from dreamy_lens.runs.progress"),
        ("from dreamy_lens.features import expressions as ex\n\nx = ex._integer(3)\n", "3: ex._integer"),
        ("from dreamy_lens.scan import scan, _parts\n", "1: from dreamy_lens.scan import _parts"),
    ],
)
def test_an_access_to_another_module_s_private_name_is_found(tmp_path: Path, source: str, access: str):
    (tmp_path / "deep").mkdir()
    (tmp_path / "fine.py").write_text("x = 1\n")
    (tmp_path / "deep" / "planted.py").write_text(source)
    status, lines = check_private(tmp_path)
    assert status == 1 and len(lines) == 1
    assert lines[0].startswith(f"{tmp_path / 'deep' / 'planted.py'}:{access}")
    assert lines[0].endswith("is private to another module")


@pytest.mark.parametrize(
    "source",
    [
        "class Run:\n    def __init__(self, other):\n        self._model = other._model\n",
        "class Panel(Widget):\n    def show(self):\n        return self._esm, super()._css, self.__dict__\n",
        "from dreamy_lens import _files, _host\n\nx = _files.__name__\n",
        "def flat(module):\n    return module._modules, module._forward_hooks\n",
        "def _own():\n    return 1\n\n\nx = _own()\n",
    ],
)  # fmt: skip
def test_own_names_and_those_of_other_libraries_are_no_such_access(tmp_path: Path, source: str):
    (tmp_path / "fine.py").write_text(source)
    assert check_private(tmp_path) == (0, [])


# Names, and the page that describes the layers.


def defined_in(tree: ast.Module) -> Iterator[str]:
    """Classes and public functions at the top of a module."""
    for node in tree.body:
        if isinstance(node, ast.ClassDef) or (isinstance(node, ast.FunctionDef) and not node.name.startswith("_")):
            yield node.name


def test_no_name_has_two_meanings_across_the_package():
    """Except `main`, which every command has. The functions of _upcalls.py are named after those that they call."""
    homes: dict[str, set[str]] = {}
    for file in sorted(PACKAGE.rglob("*.py")):
        if file.name != "_upcalls.py":
            for name in defined_in(ast.parse(file.read_text(encoding="utf-8"))):
                homes.setdefault(name, set()).add(str(file.relative_to(PACKAGE)))
    assert {name: files for name, files in homes.items() if len(files) > 1 and name != "main"} == {}


def test_the_architecture_page_names_files_that_exist_and_its_picture_is_up_to_date():
    file = ROOT / "docs" / "architecture.md"
    if not file.is_file():
        pytest.skip("needs the documents, which the source distribution does not have")
    page = file.read_text(encoding="utf-8")
    files = set(re.findall(r"`([\w./]+\.(?:py|pyi|js))`", page)) - {"dreamy_lens/_upcalls.py"}
    assert len(files) > 15
    for file in files:
        assert (PACKAGE / file).is_file() or (ROOT / file).is_file(), file
    modules = re.findall(r"^((?:\w+\.)+\w+) {2,}", page, re.MULTILINE)
    assert len(modules) > 20
    for module in modules:
        package, name, *_ = module.split(".")
        assert (PACKAGE / package / f"{name}.py").is_file(), module
    check = subprocess.run([sys.executable, str(ROOT / "docs" / "make_layers.py"), "--check"], capture_output=True)
    assert check.returncode == 0, check.stdout.decode()

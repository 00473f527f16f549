"""The scripts of a view as one module: what is written together, and what is refused."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from dreamy_lens.panels import bundle

SCRIPTS = Path(bundle.__file__).parent / "js"
IMPORT = re.compile(r'^import \{([^}]*)\} from "\./(\w+)\.js";$', re.MULTILINE)
EXPORT = re.compile(r"^export (?:async )?(?:function|const|let|class) (\w+)", re.MULTILINE)


@pytest.fixture
def scripts(tmp_path, monkeypatch):
    """`scripts(name=source)` writes files and bundles the last one."""
    (tmp_path / "js").mkdir()
    monkeypatch.setattr(bundle, "_HERE", tmp_path)

    def write(**sources):
        for name, source in sources.items():
            (tmp_path / "js" / f"{name}.js").write_text(source, encoding="utf-8")
        bundle.view_module.cache_clear()
        return bundle.view_module(next(reversed(sources)))

    yield write
    bundle.view_module.cache_clear()


def test_files_are_written_once_and_before_the_files_that_need_them(scripts):
    one = "export const one = (x) => x + 1;\n"
    two = 'import { one } from "./one.js";\n// A comment.\nexport function two(x) {\n  return one(one(x));\n}\n'
    last = 'import { one } from "./one.js";\nimport { two } from "./two.js";\nexport const view = two(one(0));\n'
    module = scripts(one=one, two=two, last=last)
    assert module == (
        "const one=x=>x+1;function two(x){return one(one(x))}const view=two(one(0));export default view;\n"
    )


def test_two_files_of_a_view_that_declare_the_same_name_are_refused(scripts):
    part = "const ROWS = 3;\nexport const part = ROWS;\n"
    view = 'import { part } from "./part.js";\nconst ROWS = 4;\nexport const view = part + ROWS;\n'
    with pytest.raises(ValueError, match="Two files of the view 'view' declare ROWS"):
        scripts(part=part, view=view)


@pytest.mark.parametrize("path", sorted(SCRIPTS.glob("*.js")), ids=lambda path: path.stem)
def test_what_a_script_imports_is_used_and_is_exported_there(path):
    source = path.read_text(encoding="utf-8")
    for names, other in IMPORT.findall(source):
        exported = EXPORT.findall((SCRIPTS / f"{other}.js").read_text(encoding="utf-8"))
        rest = IMPORT.sub("", source)
        for name in (name.strip() for name in names.split(",")):
            assert name in exported, (name, other)
            assert re.search(rf"\b{name}\b", rest), (name, "is not used")


@pytest.mark.parametrize("path", sorted(SCRIPTS.glob("*.js")), ids=lambda path: path.stem)
def test_what_a_script_calls_of_another_one_is_imported(path):
    """In one scope a call would work without an import, until a view has the one script and not the other."""
    source = path.read_text(encoding="utf-8")
    code = re.sub(r"/\*(.|\n)*?\*/|(^|\s)//.*", "", source)
    known = {name.strip() for names, _ in IMPORT.findall(source) for name in names.split(",")}
    known |= {name for pair in re.findall(r"(?:const|let|,) (\w+) =|function (\w+)\(", code) for name in pair}
    others = {name for other in SCRIPTS.glob("*.js") for name in EXPORT.findall(other.read_text(encoding="utf-8"))}
    called = set(re.findall(r"(?<![\w.$\"'-])(\w+)\(", IMPORT.sub("", code)))
    assert not (called & others) - known

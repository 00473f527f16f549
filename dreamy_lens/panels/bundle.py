"""Bundle the views' scripts and styles: a widget or a frozen page takes one module, which imports nothing."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path

_HERE = Path(__file__).parent
_IMPORT = re.compile(r'^import \{[^}]*\} from "\./(\w+)\.js";\n', re.MULTILINE)
_EXPORT = re.compile(r"^export (?=(async )?function|const|let|class)", re.MULTILINE)
_DECLARED = re.compile(r"^(?:export )?(?:async )?(?:function|const|let|class) (\w+)", re.MULTILINE)
_TEXT = re.compile(r'("(?:\\.|[^"\\])*"|`(?:\\.|[^`\\])*`)')
_SIGN = re.compile(r" ?([=*/<>?:,;{}()&|!\[\]]+) ?| (\+) (?![+-])| (-) (?!-)")
_ARGUMENT = re.compile(r"(?<![\w$])\((\w+)\)=>")
_END_COMMENT = re.compile(r"""\s+// [^"'`]*$""")
_COMMENT = re.compile(r"^\s*(//.*|/\*\*?(.|\n)*?\*/)\s*?\n", re.MULTILINE)


@cache
def view_module(view: str) -> str:
    """Return a view's ES module with everything that it imports, in one scope.

    A file imports names from another file in one statement, and no two files of a view declare the same name. Comments
    on lines of their own, indentation, and most spaces around operators are removed, so a template literal must not
    span lines.

    Args:
        view: Name of a file in `js/`, without its extension.

    Raises:
        ValueError: Two files declare the same name.
    """
    parts: dict[str, str] = {}
    _collect(view, parts)
    module = "".join(parts.values())
    names = _DECLARED.findall("".join(f"{_source(name)}\n" for name in parts))
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise ValueError(f"Two files of the view {view!r} declare {', '.join(twice)}; give one of them another name.")
    return f"{module}export default view;\n"


@cache
def view_stylesheet(*names: str) -> str:
    """Return the style sheet of all views, without comments and line ends.

    Args:
        *names: Names of additional files in `css/`, without their extensions.
    """
    rules = "".join((_HERE / "css" / f"{name}.css").read_text(encoding="utf-8") for name in ("panel", *names))
    flat = re.sub(r"(/\*.*?\*/|\s)+", " ", rules, flags=re.DOTALL)
    return flat.replace(" { ", "{").replace("; }", "}").replace(" }", "}").strip()


def _source(name: str) -> str:
    return (_HERE / "js" / f"{name}.js").read_text(encoding="utf-8")


def _collect(name: str, parts: dict[str, str]) -> None:
    """Add a file to `parts`, after the files that it imports."""
    source = _source(name)
    for other in _IMPORT.findall(source):
        if other not in parts:
            _collect(other, parts)
    source = _EXPORT.sub("", _COMMENT.sub("", _IMPORT.sub("", source)))
    lines = [tight for line in source.splitlines() if (tight := _tight(line.strip()))]
    parts[name] = "".join(_joined(line, after) for line, after in zip(lines, [*lines[1:], ""], strict=True))


def _joined(line: str, after: str) -> str:
    r"""Return a line of script with its line end, which it loses where the next line cannot be misread without it.

    A statement ends with a semicolon or with the brace of a block.

    >>> _joined("return a;", "}"), _joined("return a;", "b();"), _joined("return a", "}")
    ('return a', 'return a;', 'return a\n')
    """
    if line[-1] not in ";{},([" or "//" in line:
        return f"{line}\n"
    return line[:-1] if line[-1] == ";" and after[:1] == "}" else line


def _tight(line: str) -> str:
    """Remove the comment at the end of a line of script and the spaces around operators.

    A sign keeps its spaces before another sign: `a - -b` would become `a--b`. Parentheses around the only argument of a
    function go, and so do semicolons before a closing brace, so a loop needs a body. Lines with regular expressions or
    nested templates stay as they are.

    >>> print(_tight('const f = (a, b) => { say(`a = ${b}`); return a ? b : -a / 2; }; // a comment'))
    const f=(a,b)=>{say(`a = ${b}`);return a?b:-a/2};
    >>> print(_tight('const g = (a) => a - -1 + (a - 1);'))
    const g=a=>a - -1+(a-1);
    >>> print(_tight('const g = (a) => /[a, b]/.test(a);'))
    const g = (a) => /[a, b]/.test(a);
    """
    line = _END_COMMENT.sub("", line)
    parts = _TEXT.split(line)
    code = "".join(parts[::2]).replace(" / ", "")
    if "/" in code or "`" in code or any(text.count("${") != text.count("}") for text in parts[1::2]):
        return line  # a regular expression, or a template within a template
    short = (_SIGN.sub(r"\1\2\3", part) for part in parts[::2])
    parts[::2] = [_ARGUMENT.sub(r"\1=>", part).replace(";}", "}") for part in short]
    return "".join(parts)

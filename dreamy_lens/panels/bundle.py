"""Bundle the views' scripts and styles: a widget or a frozen page takes one module, which imports nothing."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path

_HERE = Path(__file__).parent
_IMPORT = re.compile(r'^import \{([^}]*)\} from "\./(\w+)\.js";\n', re.MULTILINE)
_EXPORT = re.compile(r"^export ((?:async )?function|const|let|class) (\w+)", re.MULTILINE)
_TEXT = re.compile(r'("(?:\\.|[^"\\])*"|`(?:\\.|[^`\\])*`)')
_SIGN = re.compile(r" ?([=*/<>?:,;{}()&|!\[\]]+) ?| (\+) (?![+-])")
_END_COMMENT = re.compile(r"""\s+// [^"'`]*$""")
_COMMENT = re.compile(r"^\s*(//.*|/\*\*?(.|\n)*?\*/)\s*?\n", re.MULTILINE)


@cache
def view_module(view: str) -> str:
    """Return a view's ES module with everything that it imports, each file in its own scope.

    A file imports names from another file in one statement, and exports what it declares. Comments on lines of their
    own, indentation, and most spaces around operators are removed, so a template literal must not span lines.

    Args:
        view: Name of a file in `js/`, without its extension.
    """
    parts: dict[str, str] = {}
    _collect(view, parts)
    *needed, (last, body) = parts.items()
    scopes = [f"const {name}_js = (() => {{\n{body}}})();\n" for name, body in needed]
    return "".join(scopes) + f"const {last}_js = (() => {{\n{body}}})();\nexport default {last}_js.view;\n"


@cache
def view_stylesheet(*names: str) -> str:
    """Return the style sheet of all views, without comments and line ends.

    Args:
        *names: Names of additional files in `css/`, without their extensions.
    """
    rules = "".join((_HERE / "css" / f"{name}.css").read_text(encoding="utf-8") for name in ("panel", *names))
    flat = re.sub(r"(/\*.*?\*/|\s)+", " ", rules, flags=re.DOTALL)
    return flat.replace(" { ", "{").replace("; }", "}").replace(" }", "}").strip()


def _collect(name: str, parts: dict[str, str]) -> None:
    """Add a file to `parts`, after the files that it imports."""
    source = (_HERE / "js" / f"{name}.js").read_text(encoding="utf-8")
    for _, other in _IMPORT.findall(source):
        if other not in parts:
            _collect(other, parts)
    source = _IMPORT.sub(lambda match: f"const {{{_renamed(match[1])}}} = {match[2]}_js;\n", source)
    names = [match[2] for match in _EXPORT.finditer(source)]
    source = _EXPORT.sub(r"\1 \2", source)
    lines = (_tight(line.strip()) for line in _COMMENT.sub("", source).splitlines())
    parts[name] = "".join(line + _line_end(line) for line in lines if line) + f"return {{ {', '.join(names)} }};\n"


def _line_end(line: str) -> str:
    """Return what follows a line of script: nothing where the next line cannot be misread without a line end."""
    return "" if line[-1] in ";{,([" and "//" not in line else "\n"


def _renamed(names: str) -> str:
    """Write the imported names `a as b` as the destructuring pattern `a: b`."""
    return " " + re.sub(r"\s+", " ", names.replace(" as ", ": ")).strip() + " "


def _tight(line: str) -> str:
    """Remove the comment at the end of a line of script and the spaces around operators.

    A minus keeps its spaces, and so does a plus before a sign: `a - -b` would become `a--b`. Lines with regular
    expressions or nested templates stay as they are.

    >>> print(_tight('const f = (a, b) => { say(`a = ${b}`); return a ? b : -a / 2; }; // a comment'))
    const f=(a,b)=>{say(`a = ${b}`);return a?b:-a/2;};
    >>> print(_tight('const g = (a) => /[a, b]/.test(a);'))
    const g = (a) => /[a, b]/.test(a);
    """
    line = _END_COMMENT.sub("", line)
    parts = _TEXT.split(line)
    code = "".join(parts[::2]).replace(" / ", "")
    if "/" in code or "`" in code or any(text.count("${") != text.count("}") for text in parts[1::2]):
        return line  # a regular expression, or a template within a template
    parts[::2] = [_SIGN.sub(r"\1\2", part) for part in parts[::2]]
    return "".join(parts)

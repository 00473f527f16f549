"""The views' scripts and style, each made one: a widget and a frozen page take one module, and import nothing."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path

_HERE = Path(__file__).parent
_IMPORT = re.compile(r'^import \{([^}]*)\} from "\./(\w+)\.js";\n', re.MULTILINE)
_EXPORT = re.compile(r"^export ((?:async )?function|const|let|class) (\w+)", re.MULTILINE)
_TEXT = re.compile(r'("(?:\\.|[^"\\])*"|`(?:\\.|[^`\\])*`)')
_SIGN = re.compile(r" ?([=*/<>?:,;{}()&|!\[\]]+) ?| (\+) (?![+-])")
_REMARK = re.compile(r"""\s+// [^"'`]*$""")
_COMMENT = re.compile(r"^\s*(//.*|/\*\*?(.|\n)*?\*/)\s*?\n", re.MULTILINE)


@cache
def view_module(view: str) -> str:
    """A view's ES module with everything that it imports, each file in a scope of its own.

    Files import from each other by name, in one statement each, and export what they declare. Comments that have lines
    to themselves, indentation, and most spaces around signs are left out, so no template literal may go over several
    lines.
    """
    parts: dict[str, str] = {}
    _collect(view, parts)
    *needed, (last, body) = parts.items()
    scopes = [f"const {name}_js = (() => {{\n{body}}})();\n" for name, body in needed]
    return "".join(scopes) + f"const {last}_js = (() => {{\n{body}}})();\nexport default {last}_js.view;\n"


@cache
def view_stylesheet(*names: str) -> str:
    """The style of all views, and of those that have more of their own, without comments and line ends."""
    rules = "".join((_HERE / "css" / f"{name}.css").read_text(encoding="utf-8") for name in ("panel", *names))
    flat = re.sub(r"(/\*.*?\*/|\s)+", " ", rules, flags=re.DOTALL)
    return flat.replace(" { ", "{").replace("; }", "}").replace(" }", "}").strip()


def _collect(name: str, parts: dict[str, str]) -> None:
    """Put a file, and before it those that it imports, into `parts`."""
    source = (_HERE / "js" / f"{name}.js").read_text(encoding="utf-8")
    for _, other in _IMPORT.findall(source):
        if other not in parts:
            _collect(other, parts)
    source = _IMPORT.sub(lambda found: f"const {{{_renamed(found[1])}}} = {found[2]}_js;\n", source)
    names = [found[2] for found in _EXPORT.finditer(source)]
    source = _EXPORT.sub(r"\1 \2", source)
    lines = (_tight(line.strip()) for line in _COMMENT.sub("", source).splitlines())
    parts[name] = "\n".join(line for line in lines if line) + f"\nreturn {{ {', '.join(names)} }};\n"


def _renamed(names: str) -> str:
    """`a as b` is `a: b` where an object is taken apart."""
    return " " + re.sub(r"\s+", " ", names.replace(" as ", ": ")).strip() + " "


def _tight(line: str) -> str:
    """A line of a script without a remark at its end and spaces around signs, unless it holds what is hard to tell.

    Minus keeps its own, and plus before a sign: `a - -b` would be `a--b`.

    >>> print(_tight('const f = (a, b) => { say(`a = ${b}`); return a ? b : -a / 2; }; // said'))
    const f=(a,b)=>{say(`a = ${b}`);return a?b:-a/2;};
    >>> print(_tight('const g = (a) => /[a, b]/.test(a);'))
    const g = (a) => /[a, b]/.test(a);
    """
    line = _REMARK.sub("", line)
    parts = _TEXT.split(line)
    code = "".join(parts[::2]).replace(" / ", "")
    if "/" in code or "`" in code or any(text.count("${") != text.count("}") for text in parts[1::2]):
        return line  # regular expressions, and templates within templates
    parts[::2] = [_SIGN.sub(r"\1\2", part) for part in parts[::2]]
    return "".join(parts)

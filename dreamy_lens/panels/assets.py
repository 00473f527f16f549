"""The views' scripts and style, each made one: a widget and a frozen page take one module, and import nothing."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path

_HERE = Path(__file__).parent
_IMPORT = re.compile(r'^import \{([^}]*)\} from "\./(\w+)\.js";\n', re.MULTILINE)
_EXPORT = re.compile(r"^export ((?:async )?function|const|let|class) (\w+)", re.MULTILINE)
_STRING = re.compile(r'("(?:\\.|[^"\\])*"|`[^`]*`)')
_COMMENT = re.compile(r"^\s*(//.*|/\*\*?(.|\n)*?\*/)\s*?\n", re.MULTILINE)


@cache
def module(view: str) -> str:
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
def stylesheet(*names: str) -> str:
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
    """A line of a script without spaces around signs, unless it holds what is hard to tell from them.

    That is regular expressions, and templates within templates. Plus and minus keep their spaces, or `a - -b` would be
    `a--b`.

    >>> print(_tight('const f = (a, b) => { say("a = b"); return a ? `b = ${b}` : -a; };'))
    const f=(a,b)=>{say("a = b");return a?`b = ${b}`:-a;};
    >>> print(_tight('const f = (a, b) => `a ${b ? `b = ${b}` : ""}`;'))
    const f = (a, b) => `a ${b ? `b = ${b}` : ""}`;
    """
    parts = _STRING.split(line)
    if any("/" in part or "`" in part for part in parts[::2]) or any(
        s.count("${") != s.count("}") for s in parts[1::2]
    ):
        return line
    parts[::2] = [re.sub(r" ?([=*<>?:,;{}()&|]+) ?", r"\1", part) for part in parts[::2]]
    return "".join(parts)

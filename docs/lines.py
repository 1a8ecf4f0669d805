"""Keep the line numbers of the docs true: `python docs/lines.py`; `--check` only names stale ones.

In docs/**/*.md, a link whose text is a name, such as
[`maths.losses.value_loss`](../src/actorcritic/maths/losses.py#L40-L42), leads to the lines of that
function, class, method, property or field. Names are relative to the package. Sources are parsed,
never imported, so that this needs nothing but Python.
"""

from __future__ import annotations

import argparse
import ast
import os
import re
import sys
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "src" / "actorcritic"
LINK = re.compile(r"\[(?P<text>[^\[\]]*)\]\((?P<target>[^()\s]*\.py#L[^()\s]*)\)")
NAME = re.compile(r"`([A-Za-z_]\w*(?:\.[A-Za-z_]\w*)+)`")


@cache
def _parsed(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def _names(node: ast.AST) -> list[str]:
    """What a statement defines."""
    match node:
        case ast.FunctionDef() | ast.AsyncFunctionDef() | ast.ClassDef():
            return [node.name]
        case ast.AnnAssign(target=ast.Name(id=name)):
            return [name]
        case ast.Assign(targets=targets):
            return [target.id for target in targets if isinstance(target, ast.Name)]
    return []


def lines(name: str) -> tuple[Path, int, int]:
    """The file and the first and last line of what is called `name`. KeyError if nothing is."""
    parts = name.split(".")
    for k in range(len(parts) - 1, 0, -1):  # the longest beginning that is a module
        path = PACKAGE.joinpath(*parts[:k])
        path = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
        if path.is_file():
            break
    else:
        raise KeyError(name)
    node: ast.AST = _parsed(path)
    for part in parts[k:]:
        found = [child for child in getattr(node, "body", []) if part in _names(child)]
        if not found:
            raise KeyError(name)
        node = found[-1]
    decorators = getattr(node, "decorator_list", [])
    first = min(child.lineno for child in (node, *decorators))  # type: ignore[attr-defined]
    return path, first, node.end_lineno  # type: ignore[attr-defined]


def link(name: str, folder: Path) -> str:
    """The link to `name` from a page in `folder`."""
    path, first, last = lines(name)
    relative = Path(os.path.relpath(path, folder)).as_posix()
    return f"[`{name}`]({relative}#L{first}" + (f"-L{last})" if last > first else ")")


def renewed(text: str, folder: Path) -> tuple[str, list[str], list[str]]:
    """A page with every such link made anew, which were stale, and which cannot be followed."""
    stale: list[str] = []
    broken: list[str] = []

    def renew(match: re.Match[str]) -> str:
        name = NAME.fullmatch(match["text"])
        try:
            new = link(name[1], folder) if name else None
        except KeyError:
            new = None
        if new is None:
            broken.append(match[0])
            return match[0]
        if new != match[0]:
            stale.append(match[0])
        return new

    return LINK.sub(renew, text), stale, broken


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Line numbers of links from docs to sources.")
    parser.add_argument("--check", action="store_true", help="change nothing, exit 1 if stale")
    check = parser.parse_args(arguments).check
    failed = False
    for page in sorted((ROOT / "docs").rglob("*.md")):
        text = page.read_text(encoding="utf-8")
        new, stale, broken = renewed(text, page.parent)
        here = page.relative_to(ROOT)
        for found in broken:
            print(f"{here}: {found} names nothing in the package", file=sys.stderr)
        if check:
            for found in stale:
                print(f"{here}: {found} is stale; run python docs/lines.py", file=sys.stderr)
        elif stale:
            page.write_text(new, encoding="utf-8", newline="\n")
            print(f"{here}: {len(stale)} renewed")
        failed |= bool(broken or (check and stale))
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())

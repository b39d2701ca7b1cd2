"""Documents from outside as they may go wrong: a value of another kind, a lost key, a torn file."""

import json
from collections.abc import Callable, Iterator
from copy import deepcopy
from typing import Any

from hypothesis import strategies as st

Path = tuple[str | int, ...]

_DEEP, _HUGE, _LONG = "@deep@", "@huge@", "@long@"
_WRITTEN = {
    f'"{_DEEP}"': "[" * 100_000 + "]" * 100_000,
    f'"{_HUGE}"': "1e400",
    f'"{_LONG}"': "9" * 5_000,
}
"""What no encoder writes."""

ODD: tuple[Any, ...] = (
    None,
    True,
    -1,
    0,
    2**63,
    10**30,
    0.5,
    -1e308,
    float("nan"),
    "",
    " ",
    "x",
    "ä🦊",
    "$\\frac$",
    "<script>alert(1)</script>",
    "../../etc/passwd",
    "owner/name",
    "a\nb",
    "\x00",
    "\ud800",
    [],
    {},
    ["a", 1],
    {"a": {"b": []}},
    _DEEP,
    _HUGE,
    _LONG,
)


def json_documents(document: Any) -> st.SearchStrategy[bytes]:
    """A JSON document with one to three changes of its values, and perhaps one of its bytes."""
    changes = st.lists(_change(), min_size=1, max_size=3)
    return st.builds(_changed, st.just(document), changes).flatmap(
        lambda text: st.one_of(st.just(text), torn(text))
    )


def json_lines(documents: list[Any]) -> st.SearchStrategy[bytes]:
    """Lines of JSON of which one is changed, and perhaps a byte."""

    def whole(number: int, line: bytes) -> bytes:
        lines = [json.dumps(one).encode() for one in documents]
        lines[number] = line.replace(b"\n", b" ")
        return b"\n".join(lines) + b"\n"

    return st.integers(0, len(documents) - 1).flatmap(
        lambda number: json_documents(documents[number]).map(lambda line: whole(number, line))
    )


def torn(content: bytes) -> st.SearchStrategy[bytes]:
    """Bytes of which some are lost, changed, put in, or in another encoding."""
    place = st.integers(0, max(0, len(content) - 1))
    piece = st.one_of(st.binary(max_size=8), st.sampled_from(PIECES))
    return st.one_of(
        place.map(lambda at: content[:at]),
        st.builds(lambda at, some: content[:at] + some + content[at:], place, piece),
        st.builds(lambda at, some: content[:at] + some + content[at + len(some) :], place, piece),
        st.sampled_from(("utf-16", "utf-16-be", "utf-8-sig", "utf-32")).map(
            lambda encoding: content.decode("utf-8", "replace").encode(encoding)
        ),
        st.sampled_from((b"\r", b"\r\n")).map(lambda end: content.replace(b"\n", end)),
    )


PIECES = (
    b'"',
    b"'",
    b"\x00",
    b"\xff\xfe",
    b"\r",
    b"\n\n",
    b"\xe2\x80\xa8",
    b",",
    b"\t",
    b"{",
    b"]",
)


def _change() -> st.SearchStrategy[Callable[[Any], Any]]:
    return st.builds(
        lambda place, kind, value: lambda document: _apply(document, place, kind, deepcopy(value)),
        st.integers(0, 10_000),
        st.sampled_from(("replace", "replace", "replace", "delete", "rename", "add")),
        st.sampled_from(ODD),
    )


def _changed(document: Any, changes: list[Callable[[Any], Any]]) -> bytes:
    found = deepcopy(document)
    for change in changes:
        found = change(found)
    text = json.dumps(found)
    for placeholder, written in _WRITTEN.items():
        text = text.replace(placeholder, written)
    return text.encode()


def _apply(document: Any, place: int, kind: str, value: Any) -> Any:
    paths = list(_paths(document))
    path = paths[place % len(paths)]
    if not path:
        return value if kind == "replace" else document
    parent, last = _at(document, path[:-1]), path[-1]
    if kind == "replace":
        parent[last] = value
    elif kind == "delete":
        del parent[last]
    elif isinstance(parent, dict) and kind == "rename":
        parent[f"{last}x"] = parent.pop(last)
    elif isinstance(parent, dict):
        parent["added"] = value
    else:
        parent.append(value)
    return document


def _paths(node: Any, above: Path = ()) -> Iterator[Path]:
    yield above
    children: Any = node.items() if isinstance(node, dict) else ()
    if isinstance(node, list):
        children = enumerate(node)
    for name, child in children:
        yield from _paths(child, (*above, name))


def _at(document: Any, path: Path) -> Any:
    for name in path:
        document = document[name]
    return document

"""What is read from outside, by kind: how it may go wrong, and what is done with it then."""

import io
import json
import tarfile
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from hypothesis import strategies as st

import data_gen.__main__
import inference.__main__
import training.__main__
from data_gen.captions.files import open_files
from data_gen.runs.receipts import read_receipt
from data_gen.shards import INDEX_FILE, ShardIndex, scan_shard, write_index
from data_gen.shards.members import description
from data_gen.survey.sheet import sheet
from data_gen.survey.stats import survey
from data_gen.survey.verify import inspect
from inference.backbone import load_backbone
from inference.endpoints.budget import Ledger, Prices
from inference.endpoints.history import History
from inference.endpoints.journal import Journal, read_journal
from inference.single_file.reading import read_original
from inference.tensors import read_header, read_tensors
from tests.fuzz.ground import JOURNAL, SHARD, Ground, pair, replace
from tests.fuzz.mutations import ODD, json_documents, json_lines, torn

EXPECTED = (ValueError, OSError)
"""What commands tell as one sentence."""


@dataclass(frozen=True, kw_only=True)
class Kind:
    """One kind of input.

    Attributes:
        name: Of the kind.
        inputs: Made-up inputs.
        read: Reads one beside the ground, in an empty folder; raises what is not `EXPECTED` only
            where it is at fault.
    """

    name: str
    inputs: st.SearchStrategy[Any]
    read: Callable[[Ground, Path, Any], None]


# ---------------------------------------------------------------- captions

_ROWS = [["id", "caption"], ["1", "a red circle"], ["2", 'a "blue" star, small'], ["3", "ä 🦊"]]
_CAPTIONS = {
    ".txt": "\n".join(row[1] for row in _ROWS).encode(),
    ".csv": "\n".join(f'{a},"{b}"'.replace('""', '"') for a, b in _ROWS).encode(),
    ".tsv": "\n".join("\t".join(row) for row in _ROWS).encode(),
}
_OBJECTS = [{"id": a, "caption": b} for a, b in _ROWS[1:]]


def _captions() -> st.SearchStrategy[tuple[str, bytes]]:
    texts = [
        torn(content).map(lambda text, ending=ending: (ending, text))
        for ending, content in _CAPTIONS.items()
    ]
    return st.one_of(
        *texts,
        json_lines(_OBJECTS).map(lambda text: (".jsonl", text)),
        json_documents(_OBJECTS).map(lambda text: (".jsonl", text)),
    )


def _read_captions(_: Ground, folder: Path, given: tuple[str, bytes]) -> None:
    ending, content = given
    path = folder / f"captions{ending}"
    path.write_bytes(content)
    column = None if ending == ".txt" else "caption"
    with suppress(*EXPECTED):
        list(open_files(path, column).read(lambda _: None))


# ---------------------------------------------------------------- data sets


def _read_pair(ground: Ground, folder: Path, content: bytes) -> None:
    root = ground.copy_of_data(folder)
    members: list[tuple[str, bytes]] = []
    with tarfile.open(root / SHARD) as tar:
        for number, member in enumerate(tar):
            file = tar.extractfile(member)
            assert file is not None
            first = member.name.endswith(".json") and number < 3
            members.append((member.name, content if first else file.read()))
    with tarfile.open(root / SHARD, "w") as tar:
        for name, written in members:
            member = tarfile.TarInfo(name)
            member.size = len(written)
            tar.addfile(member, io.BytesIO(written))
    with suppress(*EXPECTED):
        write_index(root / INDEX_FILE, scan_shard(root / SHARD, SHARD))
    _look_through(root, folder)


def _look_through(root: Path, folder: Path) -> None:
    """All that is done with the shards of somebody else's data set."""
    looks: list[Callable[[], object]] = [
        lambda: inspect(root, swaps=False),
        lambda: sheet(root, folder / "sheet.html", size=32),
        lambda: _read_all(root),
    ]
    for look in looks:
        with suppress(*EXPECTED):
            look()


def _read_all(root: Path) -> None:
    index = ShardIndex(root)
    index.require_complete()
    for position in range(len(index)):
        with suppress(*EXPECTED):
            index.read(position)


_CELL = st.tuples(st.integers(0, 100), st.integers(0, 1), st.sampled_from(ODD))


def _read_index(ground: Ground, folder: Path, cells: Any) -> None:
    root = ground.copy_of_data(folder)
    path = root / INDEX_FILE
    if isinstance(cells, bytes):
        replace(path, cells)
    else:
        table = pq.read_table(path)
        columns = {name: table[name].to_pylist() for name in table.column_names}
        for number, row, value in cells:
            name = table.column_names[number % len(table.column_names)]
            columns[name][row] = ascii(value) if isinstance(value, dict | list) else value
        arrays = [_array(columns[name], table.schema.field(name).type) for name in columns]
        schema = pa.schema(list(zip(columns, [one.type for one in arrays], strict=True)))
        pq.write_table(
            pa.table(arrays, schema=schema.with_metadata(table.schema.metadata or {})), path
        )
    _look_through(root, folder)


def _array(values: list[Any], kind: pa.DataType) -> pa.Array:
    """The values in a column of its own type where they fit, else of another."""
    for wanted in (kind, None, pa.string()):
        with suppress(pa.ArrowException, OverflowError, UnicodeError, ValueError):
            return pa.array(values if wanted is not pa.string() else map(ascii, values), wanted)
    return pa.nulls(len(values), kind)


def _torn_index() -> st.SearchStrategy[bytes]:
    table = pa.table({"key": ["a", "b"], "shard": [SHARD, SHARD]})
    buffer = io.BytesIO()
    pq.write_table(table, buffer)
    return torn(buffer.getvalue())


_RECEIPT = {
    "unit": "00000",
    "fingerprint": "abcd",
    "files": {SHARD: "0" * 64},
    "prompts": {"t": {"status": "passed", "kept": 1, "reasons": {"directional": 1}}},
    "seconds": {"total": 1.0},
    "versions": {"torch": "2"},
}


def _read_receipts(ground: Ground, folder: Path, content: bytes) -> None:
    root = ground.copy_of_data(folder)
    path = root / "receipts" / "00000.json"
    replace(path, content)
    with suppress(*EXPECTED):
        read_receipt(path)
    for look in (survey, lambda root: inspect(root, swaps=False)):
        with suppress(*EXPECTED):
            look(root)


def _read_journals(ground: Ground, folder: Path, content: bytes) -> None:
    root = ground.copy_of_data(folder)
    path = root / "instructions.jsonl"
    replace(path, content)
    with suppress(*EXPECTED):
        list(read_journal(path))
    with suppress(*EXPECTED), Journal(path) as journal:
        History(journal, Ledger(Prices(), None))
    with suppress(*EXPECTED):
        survey(root)


# ---------------------------------------------------------------- models

_MODEL_FILES = (
    "model_index.json",
    "unet/config.json",
    "vae/config.json",
    "text_encoder/config.json",
    "scheduler/scheduler_config.json",
    "tokenizer/tokenizer_config.json",
    "tokenizer/tokenizer.json",
    "emend.json",
)


def _model_files(ground: Ground) -> st.SearchStrategy[tuple[str, bytes]]:
    names = [name for name in _MODEL_FILES if (ground.model / name).is_file()]
    return st.sampled_from(names).flatmap(
        lambda name: json_documents(json.loads((ground.model / name).read_text())).map(
            lambda content: (name, content)
        )
    )


def _read_model(ground: Ground, folder: Path, given: tuple[str, bytes]) -> None:
    name, content = given
    root = ground.copy_of_model(folder)
    replace(root / name, content)
    with suppress(*EXPECTED):
        load_backbone(root)


def _headers() -> st.SearchStrategy[bytes]:
    header = {
        "__metadata__": {"about": "{}"},
        "a": {"dtype": "F32", "shape": [2, 3], "data_offsets": [0, 24]},
        "b": {"dtype": "F32", "shape": [4], "data_offsets": [24, 40]},
    }

    def file(text: bytes, length: int) -> bytes:
        return (len(text) + length).to_bytes(8, "little", signed=False) + text + bytes(40)

    return st.builds(file, json_documents(header), st.sampled_from((0, 0, 0, 1, 8, 2**40)))


def _read_tensors(ground: Ground, folder: Path, content: bytes) -> None:
    path = folder / "tensors.safetensors"
    path.write_bytes(content)
    for read in (lambda: read_header(path), lambda: read_tensors(path, "cpu")):
        with suppress(*EXPECTED):
            read()
    with suppress(*EXPECTED):
        read_original(path)
    root = ground.copy_of_model(folder)
    replace(root / "vae" / "diffusion_pytorch_model.safetensors", content)
    with suppress(*EXPECTED):
        load_backbone(root)


# ---------------------------------------------------------------- recipes and command lines

_RECIPES = [
    path
    for room in ("data_gen", "training")
    for path in sorted(Path(room, "recipes").glob("*.yaml"))
]
_COMMANDS: dict[str, tuple[Callable[[list[str]], object], list[str]]] = {
    "data_gen": (data_gen.__main__.main, ["run"]),
    "inference": (inference.__main__.main, ["edit"]),
    "training": (training.__main__.main, ["fit"]),
}
_OPTIONS = {
    "data_gen": (
        "--captions.count",
        "--captions.scenes.detail",
        "--pairs.render.p_range",
        "--pairs.filter.keep",
        "--instructions.rounds",
        "--executor.workers",
        "--partition",
        "--output",
    ),
    "inference": (
        "--images",
        "--instruction",
        "--seed",
        "--steps",
        "--text_scale",
        "--device",
        "--output",
        "--model",
        "--editor",
        "--dtype",
    ),
    "training": (
        "--model.optimizer.learning_rate",
        "--model.base",
        "--trainer.max_steps",
        "--trainer.precision",
        "--data.batch_size",
        "--data.shards",
        "--checkpoints.every",
    ),
}
_WORDS = st.one_of(
    st.sampled_from(ODD).map(lambda value: value if isinstance(value, str) else json.dumps(value)),
    st.sampled_from((".nan", "1e400", "-1", "[1, 2", "{a: b}", "*x", "&x [*x]", "!!python/x y")),
    st.text(max_size=12),
).filter(lambda word: "\x00" not in word)


def _recipes() -> st.SearchStrategy[tuple[str, bytes]]:
    return st.sampled_from(_RECIPES).flatmap(
        lambda path: st.one_of(torn(path.read_bytes()), _reworded(path.read_text())).map(
            lambda content: (path.parts[0], content)
        )
    )


def _reworded(text: str) -> st.SearchStrategy[bytes]:
    """A recipe of which one value is another."""
    lines = text.splitlines()
    places = [number for number, line in enumerate(lines) if ":" in line]

    def changed(number: int, word: str) -> bytes:
        key = lines[number].partition(":")[0]
        found = [*lines[:number], f"{key}: {word}", *lines[number + 1 :]]
        return "\n".join(found).encode("utf-8", "surrogatepass")

    return st.builds(changed, st.sampled_from(places), _WORDS)


def _read_recipe(_: Ground, folder: Path, given: tuple[str, bytes]) -> None:
    package, content = given
    path = folder / "recipe.yaml"
    path.write_bytes(content)
    _called(package, [f"--config={path}", f"--output={folder / 'out'}", "--print_config"])


def _lines() -> st.SearchStrategy[tuple[str, list[str]]]:
    def of(package: str) -> st.SearchStrategy[tuple[str, list[str]]]:
        option = st.sampled_from(_OPTIONS[package])
        word = st.one_of(
            st.builds(lambda name, value: [f"{name}={value}"], option, _WORDS),
            st.builds(lambda name, value: [name, value], option, _WORDS),
            st.builds(lambda value: [value], _WORDS),
        )
        return st.lists(word, min_size=1, max_size=3).map(
            lambda words: (package, [one for some in words for one in some])
        )

    return st.sampled_from(sorted(_COMMANDS)).flatmap(of)


def _read_line(_: Ground, folder: Path, given: tuple[str, list[str]]) -> None:
    package, words = given
    _called(package, [*words, f"--output={folder / 'out'}", "--print_config"])


def _called(package: str, words: list[str]) -> None:
    main, command = _COMMANDS[package]
    said = io.StringIO()
    try:
        with redirect_stderr(said), redirect_stdout(said):
            code = main([*command, *words])
    except SystemExit as ended:
        code = ended.code
    assert code in (0, 1, 2, None), f"exit code {code}"
    assert "Traceback" not in said.getvalue()


def kinds(ground: Ground) -> list[Kind]:
    """All of them."""
    pair_json = description(pair(0), {"clip": "x"})
    return [
        Kind(name="captions", inputs=_captions(), read=_read_captions),
        Kind(name="pairs", inputs=json_documents(pair_json), read=_read_pair),
        Kind(
            name="indexes",
            inputs=st.one_of(st.lists(_CELL, min_size=1, max_size=3), _torn_index()),
            read=_read_index,
        ),
        Kind(name="receipts", inputs=json_documents(_RECEIPT), read=_read_receipts),
        Kind(name="journals", inputs=json_lines(JOURNAL), read=_read_journals),
        Kind(name="models", inputs=_model_files(ground), read=_read_model),
        Kind(name="safetensors", inputs=_headers(), read=_read_tensors),
        Kind(name="recipes", inputs=_recipes(), read=_read_recipe),
        Kind(name="command lines", inputs=_lines(), read=_read_line),
    ]

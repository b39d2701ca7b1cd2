"""Files of captions: what is read, what is counted as unreadable, and what is an error."""

import gzip
import json
import tracemalloc
from collections import Counter
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_gen import __main__
from data_gen.captions.files import MAX_LINE, csv_rows, open_files, tsv_rows
from data_gen.captions.sources import Found


def found_in(path: Path, column: str | None = None) -> list[Found]:
    return list(open_files(path, column).read(lambda _: None))


def texts_in(path: Path, column: str | None = None) -> list[str]:
    return [found.text for found in found_in(path, column) if found.fault is None]


def faults_in(path: Path, column: str | None = None) -> Counter[str]:
    return Counter(found.fault for found in found_in(path, column) if found.fault is not None)


def test_broken_json_lines_are_counted_and_the_rest_goes_on(tmp_path: Path) -> None:
    path = tmp_path / "c.jsonl"
    lines = [
        b'\xef\xbb\xbf{"caption": "a cat"}',  # with the mark that some editors write
        b'{"caption": "torn',
        b'"only a string"',
        b"[" * 100_000,
        b'{"caption": "\xff"}',
        b'{"other": 1}',
        b'{"caption": 7}',
        b'{"caption": {"a": 1}}',
        b'{"caption": null}',
        b"",
        b'{"caption": ["one", "two", 3, ["deeper"]]}',
        b'{"caption": "a lone \\ud800 surrogate"}',
        b'{"caption": "' + b"x" * MAX_LINE + b'"}',
        b'{"caption": "a dog"}',
    ]
    path.write_bytes(b"\n".join(lines))
    assert texts_in(path) == ["a cat", "", "", "one", "two", "a lone \ud800 surrogate", "a dog"]
    assert faults_in(path) == {
        "not one JSON object": 3,
        "not UTF-8 text": 1,
        "without the column": 1,
        "not text": 4,
        f"a line of more than {MAX_LINE:,} characters": 1,
    }
    assert found_in(path)[-1].where == f"{path}, line 14"


def test_a_field_of_the_objects_in_a_column(tmp_path: Path) -> None:
    rows = [
        {"id": 1, "sentences": [{"raw": "a cat", "n": 2}, {"raw": "a dog", "n": 2}]},
        {"id": 2, "sentences": [{"raw": "a cow"}, {"cooked": "a hen"}, None]},
    ]
    path = tmp_path / "c.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)))
    assert texts_in(path, "sentences.raw") == ["a cat", "a dog", "a cow"]
    assert faults_in(path, "sentences.raw") == {"without the column": 2}
    with pytest.raises(ValueError, match="no captions in .*not text"):
        found_in(path, "sentences")


def test_broken_rows_of_csv_are_counted_and_the_rest_goes_on(tmp_path: Path) -> None:
    path = tmp_path / "c.csv"
    rows = [
        b"\xef\xbb\xbfid,caption",
        b"1,a cat",
        b"2,a cat, on a mat",
        b"3",
        b"",
        b'4,"over\ntwo lines"',
        b'5,"a ""quoted"" cat"',
        b"6,a c\x00at",
        b"\xff,the fault is elsewhere",
        b"7,\xff",
        b'8,"a "cat"',
        b"9," + b"x" * 200_000,
        b"10," + b"x" * MAX_LINE,
        b"11,a dog",
        b'12,"never closed',
        b"13,a hen",
    ]
    path.write_bytes(b"\r\n".join(rows))
    assert [text for text in texts_in(path) if text] == [
        "a cat",
        "over\ntwo lines",
        'a "quoted" cat',
        "a c\x00at",
        "the fault is elsewhere",
        "a dog",
        "a hen",
    ]
    faults = faults_in(path)
    assert faults["more or fewer fields than the header"] == 2
    assert faults["not UTF-8 text"] == 1
    assert faults[f"a line of more than {MAX_LINE:,} characters"] == 1
    assert sum(number for fault, number in faults.items() if "not a row of CSV" in fault) == 3


def test_a_csv_without_a_header_does_not_lose_its_first_caption(tmp_path: Path) -> None:
    path = tmp_path / "c.csv"
    path.write_text("a cat on a mat,http://cats\na dog,http://dogs\n")
    with pytest.raises(
        ValueError, match=r"first line is its header.*'a cat on a mat', 'http://cats'"
    ):
        found_in(path)


PARQUET = {
    "caption": ["a cat", None, "a dog"],
    "lists": [["a cat", "a hen"], [], None],
    "raw": [b"a cat", b"\xff", b"a dog"],
    "objects": [{"raw": "a cat", "n": 1}, None, {"raw": "a dog", "n": 2}],
    "lists of objects": [[{"raw": "a cat"}, {"raw": "a hen"}], None, []],
    "number": [1, 2, 3],
}


@pytest.mark.parametrize(
    ("column", "texts"),
    [
        (None, ["a cat", "", "a dog"]),
        ("lists", ["a cat", "a hen", ""]),
        ("raw", ["a cat", "a dog"]),
        ("objects.raw", ["a cat", "a dog"]),
        ("lists of objects.raw", ["a cat", "a hen"]),
    ],
)
def test_columns_of_parquet(tmp_path: Path, column: str | None, texts: list[str]) -> None:
    path = tmp_path / "c.parquet"
    pq.write_table(pa.table(PARQUET), path)
    assert texts_in(path, column) == texts


@pytest.mark.parametrize("kind", [pa.large_string(), pa.dictionary(pa.int32(), pa.string())])
def test_kinds_of_text_in_parquet(tmp_path: Path, kind: pa.DataType) -> None:
    path = tmp_path / "c.parquet"
    pq.write_table(pa.table({"TEXT": pa.array(["a cat", "a cat", "a dog"]).cast(kind)}), path)
    assert texts_in(path) == ["a cat", "a cat", "a dog"]


def test_parquet_that_lies_about_its_text(tmp_path: Path) -> None:
    path = tmp_path / "c.parquet"
    liar = pa.Array.from_buffers(pa.string(), 2, pa.array([b"\xff", b"a cat"]).buffers())
    pq.write_table(pa.table({"caption": liar}), path)
    assert texts_in(path) == ["a cat"]
    assert faults_in(path) == {"not UTF-8 text": 1}


@pytest.mark.parametrize(
    ("column", "said"),
    [
        ("objects", "holds objects with the fields raw, n: name one of them"),
        ("lists of objects", "holds objects with the fields raw"),
        ("objects.cooked", "there is no field 'cooked'"),
        ("objects.n", "holds int64: expected text"),
        ("number", "holds int64: expected text"),
        ("missing", "has no column 'missing'; its columns are 'caption', 'lists', 'raw'"),
    ],
)
def test_a_wrong_column_of_parquet_is_an_error(tmp_path: Path, column: str, said: str) -> None:
    path = tmp_path / "c.parquet"
    pq.write_table(pa.table(PARQUET), path)
    with pytest.raises(ValueError, match=said):
        found_in(path, column)


@pytest.mark.parametrize(
    ("name", "content", "column", "said"),
    [
        ("c.xlsx", "", None, "end in .txt, .json, .jsonl, .ndjson, .csv, .tsv, .txt.gz, .json.gz"),
        ("c", "", None, "end in .txt"),
        ("c.xml.gz", "", None, "end in .txt"),
        ("c.txt", "a cat", "text", "is plain text and has no column 'text'"),
        (
            "c.jsonl",
            '{"a": "a cat", "b": 1}',
            None,
            "no column called .*; its columns are 'a', 'b'",
        ),
        ("c.jsonl", '{"a": "a cat"}\n{"b": 1}', "c", "no column 'c'; its columns are 'a', 'b'"),
        ("c.jsonl", '{"text": "x", "caption": "y"}', None, "has several columns called"),
        ("c.jsonl", "no\nJSON", None, "no captions in .*: 2 x not one JSON object"),
        ("c.csv", "a,caption\n1\n2\n", None, "no captions in .*: 2 x more or fewer fields"),
        ("c.csv", "a,b\n1,2\n", "caption", "has no column 'caption'; its columns are 'a', 'b'"),
        ("c.csv", 'caption,"url\n1,2\n', None, "line 1, which is its header, is not a row of CSV"),
        ("c.csv", "text,text\n1,2\n", "text", "has several columns called 'text'"),
        ("c.json", '[{"text": "a"}', None, "c.json is not JSON"),
        ("c.csv", "", None, "no captions in .*: it has no rows"),
        ("c.csv", "x" * (MAX_LINE + 9), None, "no captions in .*: 1 x a line of more than"),
        ("c.parquet", "no parquet", None, "c.parquet cannot be read"),
        ("c.txt.gz", "no gzip", None, "c.txt.gz cannot be read: Not a gzipped file"),
    ],
)
def test_a_file_that_cannot_be_used_is_an_error(
    tmp_path: Path, name: str, content: str, column: str | None, said: str
) -> None:
    (tmp_path / name).write_text(content)
    with pytest.raises(ValueError, match=said):
        found_in(tmp_path / name, column)


def test_such_an_error_is_one_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "c.csv").write_text("url,alt\nx,a cat\n")
    line = ["captions", "--output", str(tmp_path), "--captions.file", str(tmp_path / "c.csv")]
    assert __main__.main([*line, "--captions.column", "caption"]) == 1
    (error,) = capsys.readouterr().err.strip().splitlines()
    assert error.startswith("error: ")
    assert "has no column 'caption'; its columns are 'url', 'alt'" in error
    assert not (tmp_path / "captions.jsonl").exists()
    assert __main__.main([*line, "--captions.column", "alt"]) == 0


def test_a_missing_file_and_a_folder_are_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="no captions file at .*c.txt"):
        open_files(tmp_path / "c.txt", None)
    with pytest.raises(ValueError, match=r"is a folder: name the files in it, such as .*/\*.jsonl"):
        open_files(tmp_path, None)


def test_one_useless_file_of_several_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("a cat")
    (tmp_path / "b.txt").write_bytes(b"\xff")
    with pytest.raises(ValueError, match=r"no captions in .*b.txt: 1 x not UTF-8 text"):
        found_in(tmp_path / "*.txt")


def test_a_torn_gzip_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "c.txt.gz"
    packed = gzip.compress(b"\n".join(b"caption %d" % number for number in range(10_000)))
    path.write_bytes(packed[: len(packed) // 2])
    with pytest.raises(ValueError, match=r"c.txt.gz cannot be read: Compressed file ended"):
        found_in(path)


def test_a_line_that_unpacks_to_much_more_is_skipped_without_holding_it(tmp_path: Path) -> None:
    path = tmp_path / "bomb.txt.gz"
    with gzip.open(path, "wb", compresslevel=1) as file:
        for _ in range(64):
            file.write(b"\0" * (1 << 20))
        file.write(b"\na cat\n")
    assert path.stat().st_size < 1 << 20
    tracemalloc.start()
    assert texts_in(path) == ["a cat"]
    assert tracemalloc.get_traced_memory()[1] < 8 << 20
    tracemalloc.stop()


def test_progress_ends_at_the_total(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("a cat\n" * 5000)
    (tmp_path / "b.txt.gz").write_bytes(gzip.compress(b"a dog\n" * 5000))
    pq.write_table(pa.table({"caption": ["a cow"] * 5000}), tmp_path / "c.parquet")
    for name in ("a.txt", "b.txt.gz", "c.parquet"):
        source = open_files(tmp_path / name, None)
        steps: list[int] = []
        list(source.read(steps.append))
        assert source.total == (tmp_path / name).stat().st_size
        assert sum(steps) == pytest.approx(source.total, rel=0.01)
        assert len(steps) > 1


@pytest.mark.parametrize("name", ["c.csv", "c.tsv"])
def test_a_stray_quote_costs_its_own_row_at_most(tmp_path: Path, name: str) -> None:
    between = "," if name == "c.csv" else "\t"
    rows = [
        f"{chr(34) if n in (2, 10) else ''}caption {n}{between}http://{n}" for n in range(1, 21)
    ]
    path = tmp_path / name
    path.write_text("\n".join([f"caption{between}url", *rows, ""]))
    lost = {2, 10} if name == "c.csv" else set()
    expected = [row.split(between)[0] for n, row in enumerate(rows, 1) if n not in lost]
    assert texts_in(path) == expected
    assert faults_in(path).total() == len(lost)


@given(st.lists(st.text('a,"\t\0 \u2028', max_size=8), max_size=12))
def test_every_line_of_a_table_is_in_one_row(lines: list[str]) -> None:
    for rows in (csv_rows, tsv_rows):
        found = list(rows(enumerate(lines, start=1)))
        assert sum(row.lines for row in found) == len(lines)
        assert [row.line for row in found] == [
            1 + sum(row.lines for row in found[:place]) for place in range(len(found))
        ]
        width = next((len(row.fields) for row in found if row.fields and not row.fault), 0)
        long = [row for row in found if row.lines > 1]
        assert all(row.fault is None and len(row.fields) == width for row in long)


ENDINGS = ["\n", "\r", "\r\n"]


@pytest.mark.parametrize("ending", ENDINGS)
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
@pytest.mark.parametrize("name", ["c.txt", "c.csv", "c.tsv", "c.jsonl", "c.txt.gz"])
def test_lines_of_every_ending_and_encoding(
    tmp_path: Path, name: str, encoding: str, ending: str
) -> None:
    texts = ["a cät", "a\u2028dog", "a\x0ccow", "a hen", "a pig", "an owl"]
    rows = {
        "c.csv": ["caption", *texts],
        "c.tsv": ["caption", *texts],
        "c.jsonl": [json.dumps({"caption": text}, ensure_ascii=False) for text in texts],
    }.get(name, texts)
    content = "".join(f"{row}{ending}" for row in rows).encode(encoding)
    (tmp_path / name).write_bytes(gzip.compress(content) if name.endswith(".gz") else content)
    assert [(found.text, found.fault) for found in found_in(tmp_path / name)] == [
        (text, None) for text in texts
    ]


@pytest.mark.parametrize("name", ["c.json", "c.jsonl", "c.json.gz"])
def test_an_array_of_objects_is_read(tmp_path: Path, name: str) -> None:
    content = json.dumps([{"caption": "a cat"}, 7, {"caption": "a dog"}], indent=1).encode()
    (tmp_path / name).write_bytes(gzip.compress(content) if name.endswith(".gz") else content)
    assert texts_in(tmp_path / name) == ["a cat", "a dog"]
    assert faults_in(tmp_path / name) == {"not one JSON object": 1}


def test_torn_utf_16_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "c.txt").write_bytes("a cat\n".encode("utf-16")[:-1])
    with pytest.raises(ValueError, match=r"c\.txt cannot be read: .*truncated"):
        found_in(tmp_path / "c.txt")

"""The caption stage: captions of source images, drawn from the shapes world or read from a source.

    source -> filter -> distinct, in the order of a hash -> near-duplicates -> count

``caption_files`` and ``caption_datasets`` read, ``caption_filters`` says what is turned down and
``caption_pool`` draws. What is not kept is counted with its reason in ``captions-dropped.json``.
"""

import json
import random
from collections.abc import Generator, Iterable, Iterator
from contextlib import closing
from dataclasses import asdict
from itertools import islice
from pathlib import Path
from typing import Any

from data_gen.captions.config import CaptionFilterKnobs, CaptionKnobs
from data_gen.captions.datasets import open_dataset
from data_gen.captions.dropped import Dropped
from data_gen.captions.files import matching, open_files
from data_gen.captions.filters import NearDuplicates, cleaned, folded, language_fault, text_fault
from data_gen.captions.pool import CaptionPool
from data_gen.captions.sources import Found, Source
from data_gen.files import read_lines
from data_gen.records import Caption, caption_from_json, caption_to_json
from inference.content_id import content_id
from inference.files import file_digest, make_folder, write_lines
from inference.locks import locked
from inference.progress import ProgressBar
from inference.shapes.captions import caption, describe
from inference.shapes.scene import random_scene

FORMAT = 1
"""Raised when the same knobs and sources would give other captions than before."""

_NEAR = "near-duplicate"
_TRIES_PER_CAPTION = 100
_BAR_DELAY_S = 1.0


def write_captions(knobs: CaptionKnobs, path: Path) -> list[Caption]:
    """Collect distinct captions and write them, one JSON object a line.

    Beside them goes what was turned down and why: of ``captions.jsonl``, in
    ``captions-dropped.json``. Where both stand there and neither the knobs nor the files that were
    read have changed, nothing is done: a run that goes on needs no network for this stage. Jobs
    that share the folder wait for each other, so that one collects and the others find it done.

    Raises:
        FileNotFoundError: The captions file is not there.
        ValueError: The source cannot be read, or there is no caption to keep in it.
    """
    make_folder(path.parent)
    with locked(path.with_name(".lock")):
        return _write_captions(knobs, path)


def _write_captions(knobs: CaptionKnobs, path: Path) -> list[Caption]:
    receipt = path.with_name(f"{path.stem}-dropped.json")
    recipe = _fingerprint(knobs)
    if _is_done(path, receipt, recipe):
        captions = read_captions(path)
        print(f"captions: {len(captions)}, already done")
        return captions
    dropped = Dropped()
    captions = [Caption.of(text) for text in _collect(knobs, dropped)]
    if not captions:
        raise ValueError(
            f"no caption of {knobs.file or knobs.dataset.name or 'the shapes world'} is kept; "
            f"turned down: {dict(dropped.counts.most_common())}"
        )
    receipt.unlink(missing_ok=True)  # it is written last
    write_lines(path, map(caption_to_json, captions))
    facts = {
        "recipe": recipe,
        "captions_sha256": file_digest(path),
        "found": len(captions) + dropped.counts.total(),
        "kept": len(captions),
        "dropped": dropped.to_json(),
    }
    write_lines(receipt, [json.dumps(facts, indent=2)])
    print(f"captions: {len(captions)}" + (f" of {knobs.count} wanted" if knobs.count else ""))
    if dropped.counts:
        print(f"not kept, with examples in {receipt}:\n{dropped.table()}")
    return captions


def read_captions(path: Path) -> list[Caption]:
    """Read what `write_captions` wrote.

    Raises:
        FileNotFoundError: The stage has not run yet.
        ValueError: The file is empty, or a line is no caption.
    """
    return read_lines(path, caption_from_json, stage="captions")


def _fingerprint(knobs: CaptionKnobs) -> str:
    """Hash of the knobs and of what is known of the local files without reading them."""
    paths = [] if knobs.file is None else matching(knobs.file)
    if knobs.dataset.name is not None and Path(knobs.dataset.name).is_dir():
        paths = sorted(Path(knobs.dataset.name).rglob("*"))
    files = [(str(path), path.stat().st_size, path.stat().st_mtime_ns) for path in paths]
    return content_id("captions", str(FORMAT), json.dumps([asdict(knobs), files], default=str))


def _is_done(path: Path, receipt: Path, recipe: str) -> bool:
    if not (path.is_file() and receipt.is_file()):
        return False
    try:
        facts: dict[str, Any] = json.loads(receipt.read_text(encoding="utf-8"))
        return (facts["recipe"], facts["captions_sha256"]) == (recipe, file_digest(path))
    except (ValueError, KeyError, TypeError):  # no receipt of ours
        return False


def _collect(knobs: CaptionKnobs, dropped: Dropped) -> list[str]:
    """The captions to keep, in their order."""
    least = knobs.filter.near_duplicates
    near = None if least is None else NearDuplicates(least)
    screened = _screened(_source(knobs), knobs.filter, dropped)
    with closing(screened), CaptionPool(knobs.seed) as pool:
        if knobs.of_shapes:  # drawn by the seed as it is, and without an end
            return list(islice(_unlike(_distinct(screened, dropped), near, dropped), knobs.count))
        for text in screened:
            pool.add(text)
        for text, copies in pool.repeated():
            dropped.add("duplicate", copies, text=text)
        drawn = pool if near is None else _compared(pool, knobs.count)
        kept = list(islice(_unlike(drawn, near, dropped), knobs.count))
        left = len(pool) - len(kept) - dropped.counts[_NEAR]
        if left:
            dropped.add(f"not drawn, {knobs.count} being enough", left)
        return kept


def _source(knobs: CaptionKnobs) -> Source:
    if knobs.file is not None:
        return open_files(knobs.file, knobs.column)
    if knobs.dataset.name is not None:
        return open_dataset(knobs.dataset, knobs.column)
    return Source(name="the shapes world", total=None, unit="row", read=lambda _: _drawn(knobs))


def _drawn(knobs: CaptionKnobs) -> Iterator[Found]:
    """Describe random scenes, the i-th a function of seed and i alone."""
    scenes = knobs.scenes
    for number in range((knobs.count or 0) * _TRIES_PER_CAPTION):
        rng = random.Random(content_id("caption", str(knobs.seed), str(number)))
        scene = random_scene(
            rng,
            figures=scenes.figures,
            shapes=scenes.shapes,
            colours=scenes.colours,
            patterns=scenes.patterns,
        )
        yield Found(f"draw {number}", caption(describe(scene, rng, detail=scenes.detail)))


def _screened(
    source: Source, knobs: CaptionFilterKnobs, dropped: Dropped
) -> Generator[str, None, None]:
    """The captions of a source that can be read and pass the filter, cleaned."""
    in_wrong_language = language_fault(knobs)
    bar = ProgressBar(
        total=source.total, desc="captions", unit=source.unit, unit_scale=True, delay=_BAR_DELAY_S
    )
    with bar:
        for where, found, fault in source.read(bar.update):
            text = cleaned(found)
            reason = fault or text_fault(text, knobs) or in_wrong_language(text)
            if reason is None:
                yield text
            else:
                dropped.add(reason, where=where, text=text)


def _distinct(texts: Iterable[str], dropped: Dropped) -> Iterator[str]:
    """Texts in their order, without those that are the same when folded as one before."""
    seen: set[str] = set()
    for text in texts:
        key = folded(text)
        if key in seen:
            dropped.add("duplicate", text=text)
        else:
            seen.add(key)
            yield text


def _unlike(texts: Iterable[str], near: NearDuplicates | None, dropped: Dropped) -> Iterator[str]:
    """Texts in their order, without those that nearly repeat one before."""
    if near is None:
        yield from texts
        return
    for text in texts:
        twin = near.twin(text)
        if twin is None:
            yield text
        else:
            dropped.add(_NEAR, text=text, like=twin)


def _compared(pool: CaptionPool, count: int | None) -> Iterable[str]:
    """A pool with a progress bar."""
    total = min(len(pool), count or len(pool))
    return ProgressBar(
        pool, total=total, desc="near-duplicates", unit="caption", delay=_BAR_DELAY_S
    )

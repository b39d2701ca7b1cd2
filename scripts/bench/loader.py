"""How fast pairs are read for training, against the decoder alone.

    python scripts/bench/loader.py

Pictures with a photograph's spectrum go into shards as data generation writes them. One core then
takes turns: simplejpeg decodes the bytes of a batch's images from memory; the loader reads, checks,
decodes and collates a batch of as many pairs as they are stored; and once more with Lanczos to a
drawn size and a crop. Rates are pairs a second of one core's time, so that a busy machine does
little harm. Prints a table for `RESULTS.md`; two minutes on one busy core.
"""

import inference  # noqa: F401  # isort: skip (first: it repairs torchvision)

import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import median

import numpy as np
import pytorch_lightning as pl
import simplejpeg
from codec import photograph
from jsonargparse import auto_cli
from tables import header, row

from data_gen.records import EditTriplet, ImagePair, Scores
from data_gen.shards import INDEX_FILE, scan_shard, shard_writer, write_index
from training.data.config import Framing
from training.data.data_module import PairData
from training.data.samples import Batch


def main(
    sides: tuple[int, ...] = (256, 512), pairs: int = 256, batch: int = 32, rounds: int = 15
) -> None:
    """Print the table.

    Args:
        sides: Sides of the stored images, in pixels.
        pairs: Pairs in the data set.
        batch: Pairs in a batch, one turn.
        rounds: Turns of each.
    """
    header("side", "decoder alone", "loader", "of that", "Lanczos and crop", "of that")
    for side in sides:
        with tempfile.TemporaryDirectory() as folder:
            root = Path(folder)
            write_set(root, side, pairs)
            larger = side + side // 8
            turns: dict[str, Callable[[], object]] = {
                "decoder": decoder(root, batch),
                "loader": loader(root, batch, Framing()),
                "augmented": loader(root, batch, Framing(resolution=side, enlarge_to=larger)),
            }
            spent = interleaved(turns, rounds)
        alone, plain, augmented = (batch / median(spent[name]) for name in turns)
        of_decoder, of_it = (
            median(a / b for a, b in zip(spent["decoder"], spent[name], strict=True))
            for name in ("loader", "augmented")
        )
        row(
            side,
            f"{alone:,.0f}",
            f"{plain:,.0f}",
            f"{of_decoder:.0%}",
            f"{augmented:,.0f}",
            f"{of_it:.0%}",
        )


def write_set(root: Path, side: int, pairs: int) -> None:
    """Shards of pairs of photographs, each shifted so that no two of `side` ** 2 are equal."""
    source = photograph(side)
    edited = np.ascontiguousarray(source[::-1])
    with shard_writer(root / "00000.tar", {}) as writer:
        for number in range(pairs):
            shift = divmod(number, side)
            shifted = np.roll(source, shift, axis=(1, 0)), np.roll(edited, shift, axis=(0, 1))
            writer.write(pair(*shifted))
    write_index(root / INDEX_FILE, scan_shard(root / "00000.tar", "00000.tar"))


def pair(source: np.ndarray, edited: np.ndarray) -> ImagePair:
    """A pair; its key is a hash of its picture."""
    triplet = EditTriplet.of(
        caption=f"picture {hash(source.tobytes())}",
        instruction="turn it upside down",
        edited_caption="the same, upside down",
        edit_type="turn",
        inverse_instruction="turn it back",
    )
    return ImagePair(
        triplet=triplet,
        key=ImagePair.key_of(triplet.id, 0, 0),
        source=source,
        edited=edited,
        seed_index=0,
        branch=0,
        p=0.5,
        guidance=7.5,
        scores=Scores(image_image=0.8, text_source=0.3, text_edited=0.3, directional=0.3),
    )


def decoder(root: Path, batch: int) -> Callable[[], object]:
    """Decodes two images a pair from memory, and nothing else."""
    stored = list(jpegs(root))[: 2 * batch]
    return lambda: [simplejpeg.decode_jpeg(content) for content in stored]


def jpegs(root: Path) -> Iterator[bytes]:
    """The images of the first shard as they are stored."""
    content = (root / "00000.tar").read_bytes()
    for found in scan_shard(root / "00000.tar", "00000.tar"):
        yield content[found.input_offset :][: found.input_size]
        yield content[found.edited_offset :][: found.edited_size]


def loader(root: Path, batch: int, framing: Framing) -> Callable[[], Batch]:
    """The next batch of an endless loader in this process."""
    data = PairData(str(root), batch_size=batch, held_out=0.0, framing=framing)
    data.trainer = pl.Trainer(
        accelerator="cpu", logger=False, enable_checkpointing=False, max_steps=1
    )
    data.setup("fit")
    batches = iter(data.train_dataloader())
    return lambda: next(batches)


def interleaved(turns: dict[str, Callable[[], object]], rounds: int) -> dict[str, list[float]]:
    """Seconds of one core that each takes, in turn; the first round warms up."""
    spent: dict[str, list[float]] = {name: [] for name in turns}
    for number in range(rounds + 1):
        for name, take in turns.items():
            begun = time.thread_time()
            take()
            if number:
                spent[name].append(time.thread_time() - begun)
    return spent


if __name__ == "__main__":
    auto_cli(main, as_positional=False)

"""What writing and scoring cost beside rendering, and how fast pictures are packed and unpacked.

    python scripts/bench/codec.py share --triplets 6
    python scripts/bench/codec.py rates

``share`` makes one unit of the shapes world as a run does and reads what took how long off its
receipt, once as InstructPix2Pix filters and once with the generator asked for its own opinion too.
``rates`` encodes and decodes a picture with a photograph's spectrum, the codecs in turn. Both print
tables for `RESULTS.md`; two minutes each on 2 busy cores.
"""

import importlib
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median

import numpy as np
import torch
from jsonargparse import auto_cli
from tables import header, row

from data_gen.judging.config import FilterKnobs
from data_gen.recipe import PairKnobs
from data_gen.records import ImageArray
from data_gen.rendering.config import RenderKnobs
from data_gen.runs.receipts import Receipt
from data_gen.shapes import draw_triplets
from data_gen.shards.members import decode_image, encode_jpeg
from data_gen.stages import PairWork, plan_units

SEED = 5_000_000
# Those of data_gen/recipes/shapes.yaml.
RENDER = RenderKnobs(
    share="cross",
    steps=20,
    seeds=2,
    branches=2,
    p_range=(0.6, 0.95),
    guidance_range=(3.0, 6.0),
    sampler="ddim",
)
FILTER = FilterKnobs(prefer="closeness", keep=1)


def share(triplets: int = 6) -> None:
    """Share of scoring and of writing in the time of rendering, by a unit's receipt.

    Args:
        triplets: In the unit.
    """
    header("judged by", "triplets", "kept", "render, s", "score, s", "write, s", "score + write")
    for name, bounds in (("CLIP", {}), ("CLIP and the generator", {"surprise": 0.01})):
        knobs = PairKnobs(
            precision="bfloat16",
            render=RENDER,
            filter=replace(FILTER, at_most=bounds),
            unit_size=triplets,
        )
        receipt = made(knobs, triplets)
        seconds = receipt.seconds
        kept = sum(outcome.kept for outcome in receipt.prompts.values())
        part = (seconds["score"] + seconds["write"]) / seconds["render"]
        parts = [f"{seconds[what]:.2f}" for what in ("render", "score", "write")]
        row(name, triplets, kept, *parts, f"{part:.1%} of rendering")


def made(knobs: PairKnobs, triplets: int) -> Receipt:
    """Make a unit in a folder of its own; loading the models is not in its time."""
    with tempfile.TemporaryDirectory() as root:
        (unit,) = plan_units(draw_triplets(triplets, seed=SEED), knobs)
        *_, receipt = PairWork.of(knobs, Path(root))()(unit)
    assert isinstance(receipt, Receipt)
    return receipt


@dataclass(frozen=True, kw_only=True)
class Codec:
    """One way to pack and unpack a picture as JPEG, quality 95, 4:4:4."""

    name: str
    encode: Callable[[ImageArray], bytes]
    decode: Callable[[bytes], ImageArray]


def rates(repeats: int = 20) -> None:
    """Pictures a second of one thread's CPU time, encoded and decoded, by size and codec.

    Args:
        repeats: Times that each codec has its turn.
    """
    torch.set_num_threads(1)
    codecs = list(available())
    header("codec", "side", "bytes a pixel", "encoded a second", "decoded a second")
    for side in (64, 256, 512):
        picture = photograph(side)
        spent: dict[str, list[tuple[float, float]]] = {codec.name: [] for codec in codecs}
        for _ in range(repeats):
            for codec in codecs:
                begun = time.thread_time()
                content = codec.encode(picture)
                encoded = time.thread_time()
                codec.decode(content)
                spent[codec.name].append((encoded - begun, time.thread_time() - encoded))
        for codec in codecs:
            encoding, decoding = (median(times) for times in zip(*spent[codec.name], strict=True))
            size = len(codec.encode(picture)) / side**2
            row(codec.name, side, f"{size:.2f}", f"{1 / encoding:,.0f}", f"{1 / decoding:,.0f}")


def photograph(side: int) -> ImageArray:
    """Like a photograph: power falls with the square of frequency, and the colours keep close."""
    rng = np.random.default_rng(0)
    x, y = np.meshgrid(np.fft.fftfreq(side), np.fft.fftfreq(side))
    radius = np.maximum(np.hypot(x, y), 1 / side)[..., None]
    drawn = rng.standard_normal((side, side, 1)) + 0.2 * rng.standard_normal((side, side, 3))
    noise = np.fft.fft2(drawn, axes=(0, 1)) / radius
    waves = np.fft.ifft2(noise, axes=(0, 1)).real
    waves = (waves - waves.mean()) / waves.std()
    return np.asarray((waves * 50 + 128).clip(0, 255), np.uint8)


def available() -> Iterator[Codec]:
    """The codecs that work here; those that do not are named with the reason."""
    yield Codec(
        name="Pillow (the shards')", encode=encode_jpeg, decode=lambda c: decode_image(c, "bench")
    )
    for make in (torchvision_codec, simplejpeg_codec):
        try:
            codec = make()
            codec.decode(codec.encode(photograph(64)))
        except (ImportError, RuntimeError, AttributeError, NotImplementedError) as error:
            print(f"<!-- without {make.__name__}: {str(error).splitlines()[0]} -->")
        else:
            yield codec


def torchvision_codec() -> Codec:
    """Torchvision always subsamples chroma when it encodes: less to do than the others."""
    functions = importlib.import_module("torchvision.io")

    def encode(picture: ImageArray) -> bytes:
        pixels = torch.from_numpy(picture).permute(2, 0, 1).contiguous()
        return bytes(functions.encode_jpeg(pixels, quality=95).numpy())

    def decode(content: bytes) -> ImageArray:
        found = functions.decode_jpeg(torch.frombuffer(bytearray(content), dtype=torch.uint8))
        return np.asarray(found.permute(1, 2, 0).numpy())

    return Codec(name="torchvision (4:2:0)", encode=encode, decode=decode)


def simplejpeg_codec() -> Codec:
    """Libjpeg-turbo with little around it."""
    library = importlib.import_module("simplejpeg")
    return Codec(
        name="simplejpeg",
        encode=lambda picture: library.encode_jpeg(picture, quality=95, colorsubsampling="444"),
        decode=library.decode_jpeg,
    )


if __name__ == "__main__":
    auto_cli([share, rates], as_positional=False)

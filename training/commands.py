"""The commands: what may be said to each, in words and types.

The work behind one, and the libraries that it takes, are imported once it runs. The options of
`fit` and `doctor` are Lightning's too: they have but their place in the list here, see `fit`.
"""

from pathlib import Path
from types import MappingProxyType
from typing import Final, Literal

from data_gen.imports.config import Columns, LayoutName
from data_gen.runs.config import ExecutorKnobs
from inference.command_line import Commands
from inference.number_types import PositiveCount, PositiveSmallCount, Seed, checks_numbers
from training.data.config import Framing
from training.latents.config import Precision


def fit() -> None:
    """Train an editor, or go on with it where it was left."""


def doctor() -> None:
    """Tell all that a recipe still lacks on this machine, before a step is made."""


@checks_numbers
def latents(
    base: Path,
    output: Path,
    path: str,
    layout: LayoutName = "shards",
    columns: Columns | None = None,
    split: str = "train",
    framing: Framing = Framing(),  # noqa: B008  (frozen)
    variations: PositiveSmallCount = 1,
    faulty: Literal["refuse", "leave_out"] = "refuse",
    batch_size: PositiveSmallCount = 16,
    unit_size: PositiveCount = 1000,
    precision: Precision = "float32",
    device: str | None = None,
    seed: Seed = 0,
    partition: str = "0/1",
    executor: ExecutorKnobs = ExecutorKnobs(),  # noqa: B008
) -> None:
    """Encode a data set once; training reads its latents in place of images.

    For example, four random cuts of each pair:

        emend train latents --base stable-diffusion-v1-5/stable-diffusion-v1-5 --path out/data
            --output out/latents --framing.resolution 256 --framing.enlarge_to 288 --variations 4

    and then `emend train fit ... --data.shards out/latents`, with the same base.

    Args:
        base: The model whose VAE encodes: a diffusers folder, a model that ships, or OWNER/NAME of
            the hub.
        output: The folder of the latents.
        path: The data set, as `data.sets` of a training recipe names it.
        layout: How it comes.
        columns: Names of its columns or keys, where they are not the layout's usual ones.
        split: Which split of what `datasets` loads.
        framing: How images are cut; that of training.
        variations: Cuts of each pair, of which training draws one at every visit; more than one
            needs a framing with chance.
        faulty: Whether pairs that cannot be used are a reason to stop, or are left out.
        batch_size: Images the VAE encodes together.
        unit_size: Pairs a shard: what is lost, at most, when the stage is killed.
        precision: What the VAE computes in. SDXL's needs float32, or bfloat16 with a loss.
        device: Where: cpu, cuda, cuda:1 and so on, or mps; null takes the GPU, where there is one.
        seed: Of the cuts.
        partition: The share of the units that this process makes, i/n; for array jobs.
        executor: Who makes them: this process, several, or a cluster.
    """
    from training.latents.stage import latents as work

    work(
        base,
        output,
        path,
        layout,
        columns,
        split,
        framing,
        variations,
        faulty,
        batch_size,
        unit_size,
        precision,
        device,
        seed,
        partition,
        executor,
    )


COMMANDS: Final[Commands] = MappingProxyType({"fit": fit, "latents": latents, "doctor": doctor})
"""By name; `fit` and `doctor` without their options, which are Lightning's."""

"""The two stages of data generation that make texts, each from where it was left.

    captions -> captions.jsonl -> instructions -> triplets.jsonl

`stages` has the third, which makes pairs of them. Each stage reads what the one before left in the
output folder, so it runs alone as well as in the chain.
"""

from data_gen.captions.stage import read_captions, write_captions
from data_gen.recipe import Recipe


def make_captions(recipe: Recipe) -> None:
    """Write ``captions.jsonl``."""
    write_captions(recipe.captions, recipe.output / "captions.jsonl")


def make_instructions(recipe: Recipe) -> None:
    """Write ``triplets.jsonl``, asking what the journal does not answer yet."""
    from data_gen.instructions.stage import write_triplets  # its client takes a second to import

    write_triplets(
        read_captions(recipe.output / "captions.jsonl"),
        recipe.instructions.located(),
        journal=recipe.output / "instructions.jsonl",
        triplets=recipe.output / "triplets.jsonl",
    )

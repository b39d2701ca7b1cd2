"""Make the CLIPTokenizer of the shapes world: byte-level BPE in which every word is one token.

The tokenizer knows all the words, the held-out ones too: a tokenizer may know words that models
never saw, and customisation needs a place to learn them.
"""

import re
from typing import Final

from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from transformers import CLIPTokenizer

from inference.shapes.captions import STYLE_SUFFIXES, FigureDescription
from inference.shapes.edits import ATTRIBUTES, Edit
from inference.shapes.phrasings import phrasings
from inference.shapes.vocabulary import COLOURS, PATTERNS, PLACES, SHAPES, SIZES, STYLES

MAX_LENGTH: Final = 32
"""Tokens of a prompt, the two special ones included. The longest caption has 28."""
SPECIALS: Final = ("<|startoftext|>", "<|endoftext|>")


def words() -> list[str]:
    """Every word that captions and instructions may hold, held-out ones included, in order."""
    lines = [*COLOURS, *SHAPES, *PATTERNS, *SIZES, *STYLES, *PLACES, *STYLE_SUFFIXES.values()]
    lines += ["a an and on background", *ATTRIBUTES.values()]
    for edit in _one_edit_a_template_list():
        lines += phrasings(edit, held_out=False) + phrasings(edit, held_out=True)
    text = re.sub(r"\{\w+\}", " ", " ".join(lines))
    return sorted(set(re.findall(r"[a-z]+", text)))


def make_tokenizer() -> CLIPTokenizer:
    """Train the tokenizer on `words()`; about 1,200 entries, the two special ones last."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(
        vocab_size=4096,
        min_frequency=1,
        initial_alphabet=alphabet,
        # Named here, so that every byte has its form at the end of a word, and so that all get
        # their numbers in this order: the trainer itself numbers them as a hash map has them,
        # in another order in every process.
        special_tokens=[f"{character}</w>" for character in alphabet],
        end_of_word_suffix="</w>",
        show_progress=False,
    )
    backend = Tokenizer(models.BPE(end_of_word_suffix="</w>"))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.train_from_iterator([*words(), *map(chr, range(33, 127))], trainer)
    learned = backend.get_vocab()
    ordered = [*sorted(learned, key=learned.__getitem__), *SPECIALS]
    vocabulary = {token: index for index, token in enumerate(ordered)}
    return CLIPTokenizer(vocab=vocabulary, merges=_merges(backend), model_max_length=MAX_LENGTH)


def _merges(backend: Tokenizer) -> list[tuple[str, str]]:
    import json

    return [tuple(pair) for pair in json.loads(backend.to_str())["model"]["merges"]]


def _one_edit_a_template_list() -> list[Edit]:
    figure = FigureDescription(shape="circle", colour="red")
    return [
        Edit(kind="recolour", target="circle", value="red"),
        Edit(kind="reshape", target="circle", value="square"),
        Edit(kind="resize", target="circle", value="large"),
        Edit(kind="resize", target="circle", value="small"),
        Edit(kind="move", target="circle", value="on the left"),
        Edit(kind="add", figure=figure),
        Edit(kind="remove", target="circle"),
        Edit(kind="background", value="red"),
        Edit(kind="pattern", target="circle", value="striped"),
        *(Edit(kind="style", value=style) for style in STYLES),
    ]

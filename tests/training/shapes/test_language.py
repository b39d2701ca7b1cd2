import json
import subprocess
import sys
from collections import Counter

import torch

from data_gen.instructions.prompts import Question
from inference.shapes.captions import Description, FigureDescription, caption, parse
from inference.shapes.phrasings import instruction, parse_instruction
from inference.shapes.scene import is_held_out
from inference.shapes.vocabulary import COLOURS, PATTERNS, PLACES, SHAPES, SIZES, STYLES
from training.shapes.pairs import draw_pair
from training.shapes.sayings import FIELDS, labels, said_by_caption, said_by_instruction
from training.shapes.scenes import draw_scenes, rng
from training.shapes.tokenizer import MAX_LENGTH, make_tokenizer, words
from training.shapes.writer import collate, draw_example, judge, make_writer_tokenizer


def test_every_word_is_one_token_held_out_words_included():
    tokenizer = make_tokenizer()
    vocabulary = set(words())
    assert {*COLOURS, *SHAPES, *PATTERNS, *SIZES, *STYLES} <= vocabulary
    assert all(len(tokenizer(word).input_ids) == 3 for word in vocabulary)


def test_the_tokenizers_are_the_same_in_every_process():
    script = (
        "import inference\n"
        "from training.shapes.tokenizer import make_tokenizer\n"
        "from training.shapes.writer import make_writer_tokenizer\n"
        "for tokenizer in (make_tokenizer(), make_writer_tokenizer(3)):\n"
        "    print(tokenizer.backend_tokenizer.to_str())\n"
    )
    command = [sys.executable, "-c", script]
    first, second = (subprocess.run(command, capture_output=True, check=True) for _ in range(2))
    assert first.stdout == second.stdout


def test_the_longest_caption_fits_and_keeps_its_end():
    tokenizer = make_tokenizer()
    figure = FigureDescription(
        shape="circle", colour="red", pattern="dotted", size="small", place="in the bottom right"
    )
    longest = Description(figures=(figure, figure), background="blue", style="shadowed")
    assert max(map(len, PLACES)) == len("in the bottom right")
    ids = tokenizer(caption(longest)).input_ids
    assert len(ids) == 28 <= MAX_LENGTH
    assert ids[-1] == tokenizer.eos_token_id == len(tokenizer) - 1


def test_the_tokenizer_survives_its_folder(tmp_path):
    tokenizer = make_tokenizer()
    tokenizer.save_pretrained(tmp_path)
    text = "Paint the star in cyan, é!"
    assert type(tokenizer).from_pretrained(tmp_path)(text).input_ids == tokenizer(text).input_ids


def test_scenes_and_pairs_are_functions_of_their_seed_and_free_of_held_out_things():
    assert draw_scenes(5, 20) == draw_scenes(5, 20) != draw_scenes(6, 20)
    pairs = [draw_pair(5, index) for index in range(200)]
    assert pairs[:3] == [draw_pair(5, index) for index in range(3)]
    assert not any(is_held_out(scene) for pair in pairs for scene in (pair.source, pair.edited))
    assert len({pair.edit.kind for pair in pairs}) == 9


def test_labels_say_what_the_text_says():
    names = list(FIELDS)
    for index in range(50):
        pair = draw_pair(7, index)
        said = said_by_caption(pair.description)
        row = labels([said])[0]
        assert all(FIELDS[name][row[names.index(name)]] == value for name, value in said.items())
        text = instruction(pair.edit, pair.description, rng("test", index))
        asked = said_by_instruction(pair.edit, parse_instruction(text)[1])
        assert asked["kind"] == pair.edit.kind
        assert pair.edit.value is None or pair.edit.value in asked.values()


def test_the_writers_own_examples_are_judged_right():
    outcomes = Counter()
    for index in range(200):
        example = draw_example(rng("test writer", index))
        if example.answer == "{}":
            continue
        asked = Question(**json.loads(example.asked))
        assert parse(asked.caption)
        outcomes[judge(example.answer, asked)] += 1
    assert outcomes["right"] >= 0.98 * outcomes.total(), outcomes


def test_the_writer_learns_answers_alone():
    tokenizer = make_writer_tokenizer(0)
    example = draw_example(rng("test collate"))
    ids, wanted = collate([example, draw_example(rng("another"))], tokenizer)
    learned = ids[0][wanted[0] != -100]
    assert tokenizer.decode(learned) == f"{example.answer}<|end|>"
    assert torch.equal(learned, wanted[0][wanted[0] != -100])
    chat = [{"role": "system", "content": "?"}, {"role": "user", "content": example.asked}]
    prompt = tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=True)
    assert tokenizer.decode(ids[0]).startswith(prompt)

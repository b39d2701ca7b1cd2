"""Alignment with the vocabulary of the real CLIP, which ships with open_clip."""

import gzip
import random
from itertools import pairwise
from pathlib import Path

import open_clip
import pytest
import torch
from open_clip.tokenizer import bytes_to_unicode
from transformers import CLIPTokenizer

from inference.alignment import START, Prompt, WordNotFound, align, read_prompt, shared_words
from inference.backbone import PromptTooLong

LENGTH = 77


@pytest.fixture(scope="module")
def tokenizer() -> CLIPTokenizer:
    path = Path(open_clip.__file__).with_name("bpe_simple_vocab_16e6.txt.gz")
    lines = gzip.decompress(path.read_bytes()).decode().split("\n")
    merges = [tuple(line.split()) for line in lines[1 : 49152 - 256 - 2 + 1]]
    letters = list(bytes_to_unicode().values())
    tokens = [*letters, *(f"{letter}</w>" for letter in letters), *map("".join, merges)]
    tokens += ["<|startoftext|>", "<|endoftext|>"]
    made = CLIPTokenizer(vocab={t: n for n, t in enumerate(tokens)}, merges=merges)
    assert made("a photo of a cat").input_ids == [49406, 320, 1125, 539, 320, 2368, 49407]
    return made


@pytest.fixture
def prompt(tokenizer):
    return lambda text: read_prompt(tokenizer, text, LENGTH)


def taken_from(source: Prompt, target: Prompt, word: str, *, substitute: bool = True) -> set[str]:
    """What the tokens of a target's word take their attention from, in words."""
    alignment = align(source, target, substitute=substitute)
    found: set[str] = set()
    for position in target.find(word):
        assert bool(alignment.taken[position]) == bool(alignment.matrix[:, position].any())
        for row in alignment.matrix[:, position].nonzero().flatten().tolist():
            assert 1 <= row < source.end, f"{word} takes from position {row}"
            start, stop = source.spans[row - 1]
            found.add(source.text[start:stop])
    return found


# --- finding words -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "phrase", "expected"),
    [
        ("a cat, a dog", "cat", ["cat"]),
        ("  A  Cat sat", "cat", ["Cat"]),
        ("a teddy bear", "teddy  bear", ["teddy", "bear"]),
        ("the #1 dog", "#1", ["#", "1"]),
        ("the #1 dog", "dog", ["dog"]),
        ("a lovely-dog here", "dog", ["dog"]),
        ("a concat of cats and a cat.", "cat", ["cat"]),
        ("a CAFÉ by the sea", "café", ["CAFÉ"]),
        ("a capybara", "capybara", ["cap", "y", "bara"]),
    ],
)
def test_words_are_found_whatever_stands_around_them(prompt, text, phrase, expected) -> None:
    found = prompt(text)
    spans = [found.spans[position - 1] for position in found.find(phrase)]
    assert [text[start:stop] for start, stop in spans] == expected


def test_an_occurrence_or_characters_pick_one_of_several(prompt) -> None:
    found = prompt("a cat and a Cat")
    assert found.find("cat") == (2, 5)
    assert found.find("cat@1") == (2,)
    assert found.find("cat@2") == found.find("@12:15") == (5,)
    assert found.find("a  cat@2") == found.find("@10:15") == (4, 5)
    assert prompt("mail @42").find("@42") == (2, 3, 4)
    twins = prompt("a teddy bear beside a teddy bear")
    assert twins.find("teddy bear@2") == twins.find("@22:32") == (6, 7)


def test_a_word_of_several_tokens_is_one_word(prompt) -> None:
    found = prompt("a capybara-like tortoise")
    assert len(found.words()) == 5
    assert len(found.find("capybara")) > 1


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("dog", "the prompt 'a cat and a cat' has no 'dog'"),
        ("dog@1", "has no 'dog'"),
        ("ca", "has no 'ca'"),
        ("cat@3", "has 'cat' 2 times, so there is no 'cat@3'"),
        ("cat@0", "has 'cat' 2 times, so there is no 'cat@0'"),
        ("@1:2", "characters 1 to 2 of 'a cat and a cat' are no word"),
        ("@5:2", "characters 5 to 2 of 'a cat and a cat' are no word"),
        ("@12:16", "has 15 characters, so there is no '@12:16'"),
        (" ", "is empty"),
    ],
)
def test_a_word_that_is_not_there_is_an_error(prompt, word, message) -> None:
    with pytest.raises(WordNotFound, match=message):
        prompt("a cat and a cat").find(word)


def test_a_prompt_over_the_limit_is_an_error(prompt) -> None:
    assert prompt("cat " * 75).end == 76
    with pytest.raises(PromptTooLong, match="has 78 tokens with start and end"):
        prompt("cat " * 76)


def test_a_token_added_to_the_vocabulary_is_a_word(tokenizer) -> None:
    tokenizer.add_tokens(["<new1>"])
    found = read_prompt(tokenizer, "a photo of a <new1> cat", LENGTH)
    assert found.find("<new1>") == (5,)
    assert found.find("cat") == (6,)
    plain = read_prompt(tokenizer, "a photo of a cat", LENGTH)
    assert taken_from(plain, found, "<new1>") == set()
    assert taken_from(plain, found, "cat") == {"cat"}


# --- alignment -----------------------------------------------------------------------------------


def test_equal_prompts_align_as_they_are(prompt) -> None:
    source = prompt("a cat sitting on a wall, at night")
    for substitute in (True, False):
        alignment = align(source, source, substitute=substitute)
        assert torch.equal(alignment.matrix, torch.eye(LENGTH))
        assert alignment.taken.all()


def test_a_swapped_word_takes_the_attention_of_the_one_before_and_a_refined_one_does_not(prompt):
    source, target = prompt("a cat on a mat"), prompt("a dog on a mat")
    assert taken_from(source, target, "dog") == {"cat"}
    assert taken_from(source, target, "dog", substitute=False) == set()
    assert taken_from(source, target, "mat", substitute=False) == {"mat"}


def test_the_tail_after_a_swap_of_other_length_stays_aligned(prompt) -> None:
    source = prompt("a tortoise plushy sitting on grass")
    target = prompt("a capybara plushy sitting on grass")
    assert len(source.ids) != len(target.ids)
    assert taken_from(source, target, "plushy") == {"plu", "shy"}
    for word in ("sitting", "on", "grass"):
        assert taken_from(source, target, word) == {word}
    assert taken_from(source, target, "capybara") == {"tortoise"}
    source, target = prompt("a lovely-dog is eating"), prompt("a lion is eating")
    assert taken_from(source, target, "lion") == {"lovely", "-", "dog"}
    for word in ("is", "eating"):
        assert taken_from(source, target, word) == {word}


def test_as_many_words_in_place_of_others_are_swapped_one_by_one(prompt) -> None:
    source, target = prompt("a tortoise plushy"), prompt("a red capybara")
    assert taken_from(source, target, "red") == {"tortoise"}
    assert taken_from(source, target, "capybara") == {"plu", "shy"}
    mass = align(source, target, substitute=True).matrix.sum(dim=1)
    torch.testing.assert_close(mass, torch.ones(LENGTH))


def test_more_or_fewer_words_in_place_of_others_share_them_all(prompt) -> None:
    source, target = prompt("a tortoise plushy"), prompt("a very red capybara")
    for word in ("very", "red", "capybara"):
        assert taken_from(source, target, word) == {"tortoise", "plu", "shy"}


def test_deleted_words_are_not_injected_through_the_padding(prompt) -> None:
    source, target = prompt("a black cat on a mat"), prompt("a cat")
    alignment = align(source, target, substitute=False)
    words = range(1, source.end)
    assert not alignment.matrix[list(words), target.end :].any()
    for word in ("black", "mat"):
        (position,) = source.find(word)
        assert alignment.matrix[position, START] == 1
        assert alignment.matrix[position].sum() == 1
    assert taken_from(source, target, "cat") == {"cat"}


def test_words_that_changed_places_keep_their_own_attention(prompt) -> None:
    source, target = prompt("cat dog"), prompt("dog cat")
    assert taken_from(source, target, "cat") == {"cat"}
    assert taken_from(source, target, "dog") == {"dog"}


def test_insertions_keep_their_own(prompt) -> None:
    source, target = prompt("a castle"), prompt("children drawing of a castle")
    alignment = align(source, target, substitute=True)
    assert not alignment.taken[list(target.find("children drawing of"))].any()
    assert taken_from(source, target, "castle") == {"castle"}


def test_of_repeated_words_those_in_the_same_company_are_anchors(prompt) -> None:
    source, target = prompt("a red cat and a blue dog"), prompt("a blue dog")
    alignment = align(source, target, substitute=True)
    (article,) = source.find("a@2")
    assert alignment.matrix[article, 1] == 1


def test_prompts_of_different_padding_are_refused(tokenizer) -> None:
    one, other = (read_prompt(tokenizer, "a cat", length) for length in (77, 32))
    with pytest.raises(ValueError, match="padded to 77 and 32 tokens"):
        align(one, other, substitute=True)


def test_shared_words_is_a_longest_common_subsequence() -> None:
    rng = random.Random(0)
    for _ in range(200):
        old, new = ([rng.choice("abcd") for _ in range(rng.randrange(8))] for _ in range(2))
        found = shared_words(old, new)
        assert all(old[i] == new[j] for i, j in found)
        assert all(i < k and j < m for (i, j), (k, m) in pairwise(found))
        table = [[0] * (len(new) + 1) for _ in range(len(old) + 1)]
        for i, one in enumerate(old):
            for j, other in enumerate(new):
                table[i + 1][j + 1] = max(
                    table[i][j] + (one == other), table[i][j + 1], table[i + 1][j]
                )
        assert len(found) == table[-1][-1]


NOUNS = ["cat", "dog", "tortoise", "capybara", "lion", "castle", "teddy bear", "jack-o'-lantern"]
ADJECTIVES = ["red,", "#1", "lovely", "moss-covered", "café-style", "black", "photorealistic"]
PLACES = ["on a mat", "in the garden", "at night, in rain", "by Van Gogh", "  under trees", ""]


def sentence(rng: random.Random) -> str:
    words = [rng.choice(["a", "the", "A"]), *rng.sample(ADJECTIVES, rng.randrange(3))]
    return " ".join([*words, rng.choice(NOUNS), rng.choice(PLACES)])


def edited(text: str, rng: random.Random) -> str:
    words = text.split()
    for _ in range(rng.randint(1, 3)):
        place = rng.randrange(len(words))
        match rng.randrange(4):
            case 0:
                words[place] = rng.choice(NOUNS + ADJECTIVES)
            case 1 if len(words) > 2:
                del words[place]
            case 2:
                words.insert(place, rng.choice(ADJECTIVES))
            case _:
                words += rng.choice(["in snow", "as a sketch", "and a dog"]).split()
    return " ".join(words)


def test_three_hundred_pairs(prompt) -> None:
    rng = random.Random(1)
    for _ in range(300):
        text = sentence(rng)
        source, target = prompt(text), prompt(edited(text, rng))
        for substitute in (True, False):
            alignment = align(source, target, substitute=substitute)
            mass = alignment.matrix.sum(dim=1)
            assert torch.isfinite(alignment.matrix).all()
            # Every source token's attention goes somewhere exactly once, but for words that a
            # refinement replaces by their own.
            at_most_one = (mass == 1) | torch.isclose(mass, torch.tensor(1.0))
            assert (at_most_one | (~torch.tensor(substitute) & (mass == 0))).all()
            # What takes attention takes it from words if it is one, and else from its like.
            assert not alignment.matrix[1 : source.end, target.end :].any()
            assert not alignment.matrix[source.end :, 1 : target.end].any()
            assert alignment.matrix[source.end, target.end] == 1
            assert alignment.matrix[START, START] == 1
        spelt = [source.text[slice(*span)].lower() for span in source.spans]
        for position in range(1, target.end):
            rows = align(source, target, substitute=False).matrix[:, position].nonzero().flatten()
            here = target.text[slice(*target.spans[position - 1])].lower()
            assert all(spelt[row - 1] == here for row in rows.tolist())

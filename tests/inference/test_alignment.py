"""Alignment with the vocabulary of the real CLIP, which ships with open_clip."""

import gzip
import random
import re
from collections import Counter
from itertools import chain, pairwise, takewhile
from pathlib import Path

import open_clip
import pytest
import torch
from open_clip.tokenizer import bytes_to_unicode
from transformers import CLIPTokenizer

from inference.alignment import (
    START,
    Alignment,
    Prompt,
    WordNotFound,
    align,
    read_prompt,
)
from inference.backbone import PromptTooLong
from inference.cross_maps import CrossMaps, edited_maps
from inference.word_matches import shared_words

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


def test_words_of_several_tokens_are_exchanged_in_their_places_or_move_with_their_phrases(prompt):
    source = prompt("a capybara on the left and a tortoise plushy on the right")
    exchanged = prompt("a tortoise plushy on the left and a capybara on the right")
    assert taken_from(source, exchanged, "capybara") == {"plu", "shy", "tortoise"}
    assert taken_from(source, exchanged, "plushy") == {"y", "bara"}  # three tokens for three
    assert taken_from(source, exchanged, "capybara", substitute=False) == set()
    moved = prompt("a tortoise plushy on the right and a capybara on the left")
    for substitute in (True, False):
        for word, tokens in (("capybara", {"cap", "y", "bara"}), ("right", {"right"})):
            assert taken_from(source, moved, word, substitute=substitute) == tokens
    for target in (exchanged, moved):
        mass = align(source, target, substitute=True).matrix.sum(dim=1)
        torch.testing.assert_close(mass, torch.ones(LENGTH))


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
        match rng.randrange(5):
            case 0:
                words[place] = rng.choice(NOUNS + ADJECTIVES)
            case 1 if len(words) > 2:
                del words[place]
            case 2:
                words.insert(place, rng.choice(ADJECTIVES))
            case 3:
                words.append(words.pop(place))
            case _:
                words += rng.choice(["in snow", "as a sketch", "and a dog"]).split()
    return " ".join(words)


@pytest.fixture(scope="module")
def pairs(tokenizer) -> list[tuple[Prompt, Prompt]]:
    """Three hundred prompts and edits of them: words changed, gone, come and moved."""
    rng = random.Random(1)
    texts = [sentence(rng) for _ in range(300)]
    return [
        (read_prompt(tokenizer, text, LENGTH), read_prompt(tokenizer, edited(text, rng), LENGTH))
        for text in texts
    ]


BOTH = pytest.mark.parametrize("substitute", [True, False])


def spelling(prompt: Prompt, span: tuple[int, int]) -> str:
    return "".join(prompt.text[slice(*prompt.spans[p - 1])] for p in range(*span)).lower()


def spellings(prompt: Prompt) -> list[str]:
    return [spelling(prompt, span) for span in prompt.words()]


def test_every_word_of_every_pair_is_found(pairs) -> None:
    for found in chain.from_iterable(pairs):
        positions = [p for span in found.words() for p in range(*span)]
        assert positions == list(range(1, found.end))
        words = re.findall(r"\w+", found.text.lower())
        seen: Counter[str] = Counter()
        for word in words:
            seen[word] += 1
            at = found.find(f"{word}@{seen[word]}")
            assert spelling(found, (at[0], at[-1] + 1)) == word
            every = [found.find(f"{word}@{n + 1}") for n in range(words.count(word))]
            assert list(found.find(word)) == sorted(chain.from_iterable(every))


@BOTH
def test_mass_is_preserved(pairs, substitute: bool) -> None:
    for source, target in pairs:
        matrix = align(source, target, substitute=substitute).matrix
        there = Counter(spellings(target))
        fewer = Counter(spellings(source)) - there
        words = {p: spelling(source, span) for span in source.words() for p in range(*span)}
        for position, mass in enumerate(matrix.sum(dim=1).tolist()):
            # A refinement leaves words that were replaced by others without a place.
            if mass == 0:
                assert not substitute
                assert words[position] in fewer
            else:
                assert mass == pytest.approx(1)
            if position != START and matrix[position, START]:
                assert words[position] in fewer
        # Words take attention from words, and all else from its like.
        assert not matrix[1 : source.end, target.end :].any()
        assert not matrix[source.end :, 1 : target.end].any()
        assert matrix[source.end, target.end] == 1
        assert matrix[START, START] == 1


def maps_to(alignment: Alignment, old: tuple[int, int], new: tuple[int, int]) -> bool:
    """Whether a target's word takes attention, token by token, from a source's and nothing else."""
    expected = torch.zeros(LENGTH, new[1] - new[0])
    expected[range(*old), range(new[1] - new[0])] = 1
    is_taken = bool(alignment.taken[new[0] : new[1]].all())
    return is_taken and torch.equal(alignment.matrix[:, new[0] : new[1]], expected)


@BOTH
def test_a_word_that_both_prompts_have_once_is_its_own(pairs, substitute: bool) -> None:
    moved = 0
    for source, target in pairs:
        alignment = align(source, target, substitute=substitute)
        old, new = spellings(source), spellings(target)
        once = [word for word in old if old.count(word) == new.count(word) == 1]
        for word in once:
            before, after = source.words()[old.index(word)], target.words()[new.index(word)]
            assert maps_to(alignment, before, after)
        moved += once != [word for word in new if word in once]
    assert moved > 30


@BOTH
def test_where_pairs_begin_and_end_alike_their_words_are_anchors(pairs, substitute: bool) -> None:
    for source, target in pairs:
        alignment = align(source, target, substitute=substitute)
        old, new = spellings(source), spellings(target)
        for step in (1, -1):
            words = zip(old[::step], new[::step], strict=False)
            alike = takewhile(lambda two: two[0] == two[1], words)
            spans = zip(source.words()[::step], target.words()[::step], strict=False)
            for (word, _), (before, after) in zip(alike, spans, strict=False):
                if old.count(word) == new.count(word):  # else another may be meant
                    assert maps_to(alignment, before, after)


def test_over_long_ones_of_every_pair_are_refused(pairs, prompt) -> None:
    for found in chain.from_iterable(pairs):
        with pytest.raises(PromptTooLong, match="the text encoder reads 77"):
            prompt(f"{found.text} " * (LENGTH // len(found.ids) + 1))


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("a cat on a mat", "a dog on a mat"),
        ("a tortoise plushy sitting on grass", "a capybara plushy sitting on grass"),
        ("a capybara on grass", "a cat on grass"),
        ("a tortoise plushy", "a red capybara"),
        ("a lovely-dog is eating", "a lion is eating"),
        ("cat dog", "dog cat"),
    ],
)
def test_a_swap_keeps_the_mass_of_maps(prompt, before: str, after: str) -> None:
    alignment = align(prompt(before), prompt(after), substitute=True)
    maps = torch.rand(2, 3, 5, LENGTH, generator=torch.Generator().manual_seed(0)).softmax(-1)
    edits = CrossMaps.of([((0, 1), alignment)], torch.device("cpu"))
    [found] = edited_maps(edits, lambda rows: maps[list(rows)])
    torch.testing.assert_close(found.sum(dim=-1), torch.ones(3, 5))
    assert (found - maps[1]).abs().max() > 1e-3

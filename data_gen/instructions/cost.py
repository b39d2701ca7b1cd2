"""What the instruction stage will cost, before it runs."""

from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Final

from data_gen.instructions.knobs import InstructionKnobs
from data_gen.instructions.prompts import Question, answer, caption_flaw
from data_gen.instructions.stage import plain_template
from data_gen.records import Caption
from inference.endpoints.budget import prompt_bound

BYTES_A_TOKEN: Final = 4.0
"""English in a large vocabulary; other languages take more tokens."""

SAMPLE: Final = 1000


@dataclass(frozen=True, kw_only=True)
class AskingCost:
    """An estimate.

    Attributes:
        questions: How many are asked at first; those whose answer is not usable come on top where
            there is more than one round.
        prompt_tokens: Tokens of their prompts, at four bytes each.
        answer_tokens: Tokens of their answers, with no hidden reasoning.
        dollars: What that costs; 0 without prices.
        dollars_at_most: What they cost if each takes all the tokens it may.
    """

    questions: int
    prompt_tokens: int
    answer_tokens: int
    dollars: Decimal
    dollars_at_most: Decimal


def estimate_asking(captions: Sequence[Caption], knobs: InstructionKnobs) -> AskingCost:
    """Estimate the cost of having edits written, from a sample of the captions.

    Asks nobody. Captions that would not be asked for are not counted.
    """
    sound = [one.text for one in captions if caption_flaw(one.text) is None]
    some = sound[:: max(1, len(sound) // SAMPLE)]
    scale = len(sound) / max(1, len(some)) * knobs.edits_per_caption
    template = plain_template(knobs)
    kind = max(knobs.edit_types, key=len)
    bodies = [template.body(Question(caption=text, edit_type=kind)) for text in some]
    prompts = sum(len(str(m["content"]).encode()) for body in bodies for m in body["messages"])
    prompt_tokens = round(prompts / BYTES_A_TOKEN * scale)
    answer_tokens = round(sum(map(_answer_bytes, some)) / BYTES_A_TOKEN * scale)
    prices = knobs.prices.batched() if knobs.batch else knobs.prices
    worst = [prices.worst(prompt_bound(body), knobs.max_tokens) for body in bodies]
    return AskingCost(
        questions=len(sound) * knobs.edits_per_caption,
        prompt_tokens=prompt_tokens,
        answer_tokens=answer_tokens,
        dollars=prices.worst(prompt_tokens, answer_tokens),
        dollars_at_most=sum(worst, Decimal()) * Decimal(scale),
    )


def _answer_bytes(caption: str) -> int:
    """Bytes of a usual answer: an instruction is about half as long as its caption."""
    half = caption[: len(caption) // 2]
    text = answer(instruction=half, edited_caption=caption, inverse_instruction=half)
    return len(text.encode())

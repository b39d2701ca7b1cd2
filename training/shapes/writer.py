"""Train the writer of the shapes world: a tiny Llama that answers a caption with an edit.

It speaks the format of `data_gen.instructions.prompts`, so the chain calls it exactly as it would
call a large hosted model. Examples are drawn on the fly, each a function of (seed, step, row).
"""

import json
import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from torch import Tensor
from transformers import (
    GenerationConfig,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
)

from data_gen.instructions.prompts import Question, Rejected, answer, parse_answer, question
from inference.files import replaced_folder
from inference.loading import load_model, load_tokenizer
from inference.progress import ProgressBar
from inference.shapes.captions import Description, caption, describe, parse
from inference.shapes.edits import (
    EDIT_TYPES,
    EditType,
    edit_description,
    inverse,
    propose,
)
from inference.shapes.phrasings import instruction, parse_instruction
from inference.shapes.scene import random_scene
from training.shapes.loop import LoopKnobs, Losses, optimise
from training.shapes.scenes import TEST_SEED, rng
from training.shapes.tokenizer import words

PAD, USER, ASSISTANT, END = "<|pad|>", "<|user|>", "<|assistant|>", "<|end|>"
CHAT_TEMPLATE: Final = (
    "{% for message in messages %}"
    "{% if message['role'] == 'user' %}<|user|>{{ message['content'] }}<|end|>"
    "{% elif message['role'] == 'assistant' %}<|assistant|>{{ message['content'] }}<|end|>"
    "{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
"""The writer knows its task by heart, so the system message is left out."""

TWO_FIGURES: Final = 0.75
"""Share of examples with two figures: which of them is meant is all that is hard to learn."""

OFTEN: Final[tuple[EditType, ...]] = ("recolour", "pattern", "resize", "move", "remove")
"""Edit types drawn twice as often as others: in these the words of one figure must stay with it."""


@dataclass(frozen=True, kw_only=True)
class WriterKnobs:
    """How to train the writer.

    Attributes:
        steps: Optimiser steps.
        batch: Examples a step.
        rate: Peak learning rate.
        seed: Of weights and examples.
    """

    steps: int = 8000
    batch: int = 40
    rate: float = 2e-3
    seed: int = 3


@dataclass(frozen=True, kw_only=True)
class Example:
    """One exchange: the user's message and the answer wanted."""

    asked: str
    answer: str


def draw_example(draw: random.Random) -> Example:
    """One random exchange, free of held-out words and phrasings."""
    scene = random_scene(draw, figures=2 if draw.random() < TWO_FIGURES else 1)
    description = describe(scene, draw, detail=draw.choice((0.3, 0.5, 0.8, 1.0)))
    kind = draw.choice((*EDIT_TYPES, *OFTEN))
    asked = question(Question(caption=caption(description), edit_type=kind))
    return Example(asked=asked, answer=draw_answer(description, kind, draw))


def draw_answer(description: Description, kind: EditType, draw: random.Random) -> str:
    """A right answer for a caption and an edit type: an empty object where no such edit suits."""
    edit = propose(description, kind, draw)
    if edit is None:
        return json.dumps({})
    edited = edit_description(edit, description)
    return answer(
        instruction=instruction(edit, description, draw),
        edited_caption=caption(edited),
        inverse_instruction=instruction(inverse(edit, description), edited, draw),
    )


def make_writer_tokenizer(seed: int) -> PreTrainedTokenizerFast:
    """Byte-level BPE of about 1,000 entries, trained on the world's words and its exchanges."""
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=1024,
        special_tokens=[PAD, USER, ASSISTANT, END],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    examples = [draw_example(rng("writer words", seed, index)) for index in range(4000)]
    lines = [f" {word}" for word in words()] * 20
    lines += [text for example in examples for text in (example.asked, example.answer)]
    backend.train_from_iterator(lines, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        pad_token=PAD,
        eos_token=END,
        additional_special_tokens=[USER, ASSISTANT],
        chat_template=CHAT_TEMPLATE,
        model_max_length=512,
        padding_side="left",
        clean_up_tokenization_spaces=False,
    )


def new_writer(tokenizer: PreTrainedTokenizerFast) -> LlamaForCausalLM:
    """An untrained Llama of four layers, 128 wide, 1.0 M parameters."""
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=128,
        intermediate_size=384,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=4,
        max_position_embeddings=512,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    model = LlamaForCausalLM(config)
    model.generation_config = GenerationConfig(
        do_sample=True,
        temperature=0.7,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        max_new_tokens=256,
    )
    return model


def train_writer(
    knobs: WriterKnobs, work: Path, device: str = "cpu", start: Path | None = None
) -> LlamaForCausalLM:
    """Train and save a transformers folder to `work/model`.

    Args:
        knobs: How to train.
        work: Folder for checkpoint, log and the finished `model`.
        device: Where to train.
        start: A finished folder whose weights to start from, where the checkpoint is gone.
    """
    torch.manual_seed(knobs.seed)
    tokenizer = (
        load_tokenizer(PreTrainedTokenizerFast, start)
        if start
        else make_writer_tokenizer(knobs.seed)
    )
    model = load_model(LlamaForCausalLM, start) if start else new_writer(tokenizer)
    model.to(device).train()

    def loss(step: int) -> Losses:
        examples = [
            draw_example(rng("writer", knobs.seed, step, row)) for row in range(knobs.batch)
        ]
        ids, labels = collate(examples, tokenizer)
        return {"loss": model(input_ids=ids.to(device), labels=labels.to(device)).loss}

    loop = LoopKnobs(steps=knobs.steps, rate=knobs.rate, weight_decay=0.05, ema=0.995)
    averaged = optimise(model, loss, loop, work)
    assert isinstance(averaged, LlamaForCausalLM)
    with replaced_folder(work / "model") as folder:
        averaged.eval().save_pretrained(folder)
        tokenizer.save_pretrained(folder)
    print(f"writer: {measure_writer(averaged, tokenizer)}")
    return averaged


def collate(
    examples: Sequence[Example], tokenizer: PreTrainedTokenizerFast
) -> tuple[Tensor, Tensor]:
    """Token ids and labels, both (B, L), padded on the right; only answers are to be learned."""
    prompts = tokenizer([f"{USER}{e.asked}{END}{ASSISTANT}" for e in examples]).input_ids
    answers = tokenizer([f"{e.answer}{END}" for e in examples]).input_ids
    length = max(len(p) + len(a) for p, a in zip(prompts, answers, strict=True))
    ids = torch.full((len(examples), length), int(tokenizer.pad_token_id))
    labels = torch.full_like(ids, -100)
    for row, (prompt, wanted) in enumerate(zip(prompts, answers, strict=True)):
        end = len(prompt) + len(wanted)
        ids[row, :end] = torch.tensor(prompt + wanted)
        labels[row, len(prompt) : end] = torch.tensor(wanted)
    return ids, labels


@torch.no_grad()
def measure_writer(
    model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, count: int = 200
) -> str:
    """Sample answers to unseen captions and count how they end, as `2 wrong caption, …`."""
    torch.manual_seed(TEST_SEED)
    outcomes: Counter[str] = Counter()
    asked = [draw_question(rng("writer test", TEST_SEED, index)) for index in range(count)]
    for start in ProgressBar(range(0, count, 50), desc="sampling answers"):
        batch = asked[start : start + 50]
        prompts = [f"{USER}{question(one)}{END}{ASSISTANT}" for one in batch]
        inputs = tokenizer(prompts, return_tensors="pt", padding=True).to(model.device)
        output = model.generate(input_ids=inputs.input_ids, attention_mask=inputs.attention_mask)
        texts = tokenizer.batch_decode(
            output[:, inputs.input_ids.shape[1] :], skip_special_tokens=True
        )
        outcomes.update(judge(text, one) for text, one in zip(texts, batch, strict=True))
    shares = (f"{n / count:.1%} {outcome}" for outcome, n in outcomes.most_common())
    return ", ".join(shares)


def draw_question(draw: random.Random) -> Question:
    """A question to which there is an answer."""
    while True:
        description = describe(random_scene(draw), draw)
        kind = draw.choice(EDIT_TYPES)
        if propose(description, kind, draw) is not None:
            return Question(caption=caption(description), edit_type=kind)


def judge(text: str, asked: Question) -> str:
    """How an answer ends: `right`, or what is wrong with it."""
    try:
        triplet = parse_answer(text, asked)
    except Rejected as reason:
        return str(reason)
    before = parse(asked.caption)
    try:
        edit, _ = parse_instruction(triplet.instruction)
        if edit.kind != asked.edit_type:
            return "another edit type"
        after = edit_description(edit, before)
    except ValueError:
        return "impossible instruction"
    if caption(after) != triplet.edited_caption:
        return "wrong edited caption"
    try:
        back, _ = parse_instruction(triplet.inverse_instruction)
    except ValueError:
        return "impossible inverse"
    return "right" if back == inverse(edit, before) else "wrong inverse"

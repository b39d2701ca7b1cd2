"""The real server: `transformers serve` with a tiny random Llama, asked by the real client."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import openai
import pytest
import torch
from tokenizers import Tokenizer, decoders, models
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from data_gen.instructions.prompts import messages
from inference.endpoints.failures import ServerError
from inference.endpoints.server import serving

SPECIAL = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
TEMPLATE = (
    "{% for m in messages %}{% if m.role == 'user' %}<s>{{ m.content }}{% endif %}{% endfor %}"
)


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a random one-layer Llama that reads and writes characters."""
    folder = tmp_path_factory.mktemp("llama")
    symbols = [*SPECIAL.values(), *(chr(code) for code in range(32, 127))]
    tokenizer = Tokenizer(
        models.BPE(
            vocab={symbol: number for number, symbol in enumerate(symbols)},
            merges=[],
        )
    )
    tokenizer.decoder = decoders.Fuse()
    wrapped = PreTrainedTokenizerFast(tokenizer_object=tokenizer, **SPECIAL)
    wrapped.chat_template = TEMPLATE
    wrapped.save_pretrained(folder)
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(symbols),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=2,
        bos_token_id=0,
        eos_token_id=1,
    )
    model = LlamaForCausalLM(config)
    model.generation_config.do_sample = True
    model.save_pretrained(folder)
    return folder


def ask(client: openai.OpenAI, model: str, seed: int) -> str | None:
    completion = client.chat.completions.create(
        model=model,
        messages=messages("a red circle", "recolour"),
        temperature=0.7,
        seed=seed,
        max_completion_tokens=12,
    )
    return completion.choices[0].message.content


def test_it_answers_reproducibly_and_ends_with_its_parent(llama: Path) -> None:
    program = (
        "import sys, json, time\n"
        "from inference.endpoints.server import serving\n"
        "with serving(sys.argv[1]) as endpoint:\n"
        "    print(json.dumps([endpoint.base_url, endpoint.model]), flush=True)\n"
        "    time.sleep(600)\n"
    )
    command = [sys.executable, "-c", program, str(llama)]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as parent:
        assert parent.stdout is not None
        base_url, model = json.loads(parent.stdout.readline())
        try:
            with openai.OpenAI(base_url=base_url, api_key="none", max_retries=0) as client:
                answers = [ask(client, model, seed) for seed in (1, 2, 1)]
                assert answers[0] == answers[2] != answers[1]
                with pytest.raises(openai.BadRequestError) as refused:
                    ask(client, "another", 1)
                assert "pinned" in refused.value.response.text
                # Of older servers /v1/models lists none that is not in the hub's cache.
                assert {listed.id for listed in client.models.list()} <= {model}
        finally:
            os.kill(parent.pid, signal.SIGKILL)
    with openai.OpenAI(base_url=base_url, api_key="none", max_retries=0) as client:
        deadline = time.monotonic() + 30
        while time.monotonic() < deadline:
            try:
                ask(client, model, 1)
            except openai.APIConnectionError:
                return
            time.sleep(0.1)
    pytest.fail("the server outlived its parent")


def test_it_ends_with_a_parent_that_is_killed_before_it_is_up(llama: Path) -> None:
    command = [sys.executable, "-m", "inference.endpoints.server", str(llama)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
        for pipe in (child.stdin, child.stdout):
            assert pipe is not None
            pipe.close()
        assert child.wait(timeout=200) == 0


def test_a_folder_without_a_model_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="no language model in"), serving(tmp_path):
        pass


def test_a_server_that_does_not_come_up_says_why(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "no such model"}')
    with pytest.raises(ServerError, match="did not come up.*Unrecognized"), serving(tmp_path):
        pass

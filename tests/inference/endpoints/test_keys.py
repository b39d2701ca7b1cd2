"""Each endpoint gets the key that is meant for it, and no other."""

import html
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

from data_gen.instructions.fine_tune import run_fine_tuning
from data_gen.instructions.knobs import FineTuneKnobs
from data_gen.instructions.stage import write_triplets
from data_gen.judging.judge_knobs import JudgeKnobs
from data_gen.records import Caption
from inference.endpoints.config import OPENAI_URL, check_base_url
from inference.endpoints.connection import async_api, sync_api
from inference.endpoints.failures import ServerError
from inference.endpoints.keys import AUTO_KEY_ENV, NO_KEY, Redactor, api_key
from inference.files import write_lines
from tests.provider import Provider


@pytest.fixture(autouse=True)
def keys(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-hosted")
    monkeypatch.setenv("OTHER_KEY", "sk-other")


@pytest.mark.parametrize(
    ("key_env", "sent"),
    [("OPENAI_API_KEY", "sk-hosted"), ("OTHER_KEY", "sk-other"), (None, NO_KEY)],
)
def test_the_writer_gets_its_own_key(
    tmp_path: Path,
    provider: Provider,
    knobs_for: Callable[..., Any],
    key_env: str | None,
    sent: str,
) -> None:
    captions = [Caption.of("a red circle")]
    write_triplets(
        captions, knobs_for(key_env=key_env), journal=tmp_path / "j", triplets=tmp_path / "t"
    )
    assert provider.keys == {f"Bearer {sent}"}


def fine_tune(folder: Path, provider: Provider, key_env: str | None) -> None:
    edits = [{"input": f"a cat {n}", "edit": f"{n}", "output": f"a dog {n}"} for n in range(10)]
    write_lines(folder / "edits.jsonl", map(json.dumps, edits))
    run_fine_tuning(
        FineTuneKnobs(
            triplets=folder / "edits.jsonl",
            output=folder / "out",
            model="small",
            base_url=provider.base_url,
            key_env=key_env,
            poll_s=0.01,
        )
    )


def moderate(folder: Path, knobs: Any) -> None:
    write_triplets([Caption.of("a red circle")], knobs, journal=folder / "j", triplets=folder / "t")


ACCOUNT = {
    "OPENAI_ORG_ID": "org-mine",
    "OPENAI_PROJECT_ID": "proj-mine",
    "OPENAI_ADMIN_KEY": "sk-admin",
    "OPENAI_CUSTOM_HEADERS": "X-Account: mine\nauthorization: Bearer sk-custom",
}


@pytest.mark.parametrize(
    ("key_env", "sent"), [("OTHER_KEY", "sk-other"), (AUTO_KEY_ENV, NO_KEY), (None, NO_KEY)]
)
@pytest.mark.parametrize("client", ["moderation", "fine-tuning"])
def test_moderation_and_fine_tuning_send_their_own_key_and_nothing_of_an_account(
    tmp_path: Path,
    provider: Provider,
    knobs_for: Callable[..., Any],
    monkeypatch: pytest.MonkeyPatch,
    client: str,
    key_env: str | None,
    sent: str,
) -> None:
    for name, value in ACCOUNT.items():
        monkeypatch.setenv(name, value)
    if client == "moderation":
        moderate(tmp_path, knobs_for(key_env=key_env, moderation="omni"))
        assert provider.moderated
    else:
        fine_tune(tmp_path, provider, key_env)
        assert provider.jobs
    assert provider.keys == {f"Bearer {sent}"}
    assert not {*ACCOUNT.values(), "bearer sk-hosted", "bearer sk-custom"} & provider.headers
    assert not {"openai-organization", "openai-project", "x-account"} & provider.headers


def test_openais_own_host_is_told_the_account(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in ACCOUNT.items():
        monkeypatch.setenv(name, value)
    for api in (async_api(OPENAI_URL, "k", timeout_s=1), sync_api(OPENAI_URL, "k")):
        assert api.default_headers["OpenAI-Organization"] == "org-mine"
        assert api.default_headers["OpenAI-Project"] == "proj-mine"


@pytest.mark.parametrize("status", [200, 400])
@pytest.mark.parametrize("written", [r"sk-o\/a\"b", r"\u0073k-o\/a\u0022b", r"sk-o/a\\\"b"])
@pytest.mark.parametrize("client", ["moderation", "fine-tuning"])
def test_a_key_that_a_server_repeats_is_in_no_message_and_no_journal(
    tmp_path: Path,
    provider: Provider,
    knobs_for: Callable[..., Any],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    client: str,
    written: str,
    status: int,
) -> None:
    monkeypatch.setenv("OTHER_KEY", 'sk-o/a"b')
    body = f'{{"error": {{"message": "the key {written} is wrong", "code": "bad_key"}}}}'
    monkeypatch.setattr(
        provider, "route", lambda method, path, content: (status, {}, body.encode())
    )
    ask = {
        "moderation": lambda: moderate(
            tmp_path, knobs_for(key_env="OTHER_KEY", moderation="omni", max_retries=0)
        ),
        "fine-tuning": lambda: fine_tune(tmp_path, provider, "OTHER_KEY"),
    }[client]
    with pytest.raises(ServerError, match=r"the key .*\[key\] is wrong") as caught:
        ask()
    texts = [str(caught.value), *capsys.readouterr()]
    texts += [path.read_text() for path in tmp_path.rglob("*") if path.is_file()]
    assert not [text for text in texts if "k-o" in text]


def test_a_name_of_a_model_that_holds_the_key_is_not_repeated(
    tmp_path: Path,
    provider: Provider,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    job = provider._job

    def repeating(method: str, path: str, content: bytes) -> dict[str, Any]:
        return job(method, path, content) | {"fine_tuned_model": "ft:sk-other"}

    monkeypatch.setattr(provider, "_job", repeating)
    fine_tune(tmp_path, provider, "OTHER_KEY")
    said = capsys.readouterr().out
    assert "the model is ft:[key]" in said
    assert "sk-other" not in said


def test_a_variable_that_was_named_must_be_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OTHER_KEY")
    with pytest.raises(ValueError, match="OTHER_KEY, named by key_env, is not set"):
        api_key("OTHER_KEY", OPENAI_URL)
    monkeypatch.delenv("OPENAI_API_KEY")
    with pytest.raises(ValueError, match=r"OPENAI_API_KEY, which api\.openai\.com asks for"):
        api_key(AUTO_KEY_ENV, OPENAI_URL)


@pytest.mark.parametrize(
    "base_url",
    [
        "http://127.0.0.1:8000/v1",
        "https://openrouter.ai/api/v1",
        "https://api.openai.com.example.org/v1",
        "https://example.org/api.openai.com",
    ],
)
def test_openais_key_goes_unasked_to_openai_alone(base_url: str) -> None:
    assert api_key(AUTO_KEY_ENV, OPENAI_URL) == "sk-hosted"
    assert api_key(AUTO_KEY_ENV, base_url) == NO_KEY
    assert api_key("OPENAI_API_KEY", base_url) == "sk-hosted"
    assert api_key(None, OPENAI_URL) == NO_KEY


@pytest.mark.parametrize(
    "field", ["instructions.key_env", "pairs.scorers.judge.key_env", "key_env"]
)
def test_a_key_in_place_of_its_variables_name_is_not_repeated(
    knobs_for: Callable[..., Any], field: str
) -> None:
    key = "sk-very-secret"
    make = {
        "instructions.key_env": lambda: knobs_for(key_env=key),
        "pairs.scorers.judge.key_env": lambda: JudgeKnobs(model="m", base_url="u", key_env=key),
        "key_env": lambda: FineTuneKnobs(
            triplets=Path("t"), output=Path("o"), model="m", key_env=key
        ),
    }[field]
    with pytest.raises(ValueError, match=f"^{field} must be the name of an env") as caught:
        make()
    assert key not in str(caught.value)


@pytest.mark.parametrize(
    ("key", "fault"),
    [
        ("sk-abc\n", "a line break"),
        ("sk-abc\r\nX-Other: 1", "a line break"),
        ("sk abc", "blanks"),
        ("sk-abc\t", "blanks"),
        ("sk-\u00a0abc", "blanks"),
        ("sk-ключ", "characters beyond ASCII"),
        ("sk-abc\x7f", "control characters"),
    ],
)
def test_a_key_that_no_header_can_carry_is_named_by_its_variable(
    tmp_path: Path,
    provider: Provider,
    knobs_for: Callable[..., Any],
    monkeypatch: pytest.MonkeyPatch,
    key: str,
    fault: str,
) -> None:
    monkeypatch.setenv("OTHER_KEY", key)
    knobs = knobs_for(key_env="OTHER_KEY")
    captions = [Caption.of("a red circle")]
    with pytest.raises(ValueError, match=f"OTHER_KEY must hold a key.*it holds {fault}") as caught:
        write_triplets(captions, knobs, journal=tmp_path / "j", triplets=tmp_path / "t")
    assert "sk" not in str(caught.value)
    assert provider.requests == []


@pytest.mark.parametrize(
    "base_url",
    [
        "https://me:sk-secret@host.example/v1",
        "https://sk-secret@host.example/v1",
        "https://host.example/v1?key=sk-secret",
        "https://host.example/v1#sk-secret",
        "https://me:sk-secret@[::1/v1",
        "http://[::1",
        "http://host.example:99999/v1",
        "http://host.example:port/v1",
        "http://host.example:0/v1",
        "ftp://host.example/v1",
        "host.example/v1",
        "http:///v1",
        "http://host example/v1",
        "http://host.example/v1\n",
        f"http://{'a' * 64}.example/v1",
        "http://a..b/v1",
        "",
    ],
)
@pytest.mark.parametrize("field", ["instructions.", "pairs.scorers.judge.", ""])
def test_a_base_url_is_the_root_of_an_api_and_holds_no_secret(
    knobs_for: Callable[..., Any], base_url: str, field: str
) -> None:
    make = {
        "instructions.": lambda: knobs_for(base_url=base_url),
        "pairs.scorers.judge.": lambda: JudgeKnobs(model="m", base_url=base_url),
        "": lambda: FineTuneKnobs(
            triplets=Path("t"), output=Path("o"), model="m", base_url=base_url
        ),
    }[field]
    with pytest.raises(ValueError, match=f"^{field}base_url must be the root of an API") as caught:
        make()
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    "base_url", ["http://[::1]:8000/v1", "https://host.example", "http://bücher.example/v1/"]
)
def test_other_urls_are_taken(base_url: str) -> None:
    check_base_url(base_url, "base_url")


KEY = 'sk-a/b+c"d'


def escaped(text: str) -> str:
    return "".join(f"\\u{ord(character):04X}" for character in text)


@pytest.mark.parametrize(
    "written",
    [
        KEY,
        json.dumps(KEY),
        json.dumps(json.dumps(json.dumps(KEY))),
        KEY.replace("/", "\\/"),
        escaped(KEY),
        "sk" + escaped("-a/b") + '+c\\"d',
        json.dumps(escaped(KEY)),
        quote(KEY, safe=""),
        quote(KEY),
        quote(quote(KEY, safe=""), safe=""),
        html.escape(KEY).replace("&quot;", "&#34;"),
        "".join(f"&#x{ord(character):x};" for character in KEY),
    ],
)
def test_a_key_is_known_however_it_is_written(written: str) -> None:
    hidden = Redactor(KEY).text(f"before {written} after")
    assert hidden.startswith("before ")
    assert hidden.endswith(" after")
    assert "[key]" in hidden
    assert "k-a" not in hidden
    assert Redactor(KEY).value({"a": [{KEY: KEY}, 1, None]}) == {"a": [{"[key]": "[key]"}, 1, None]}


def test_looking_for_a_key_takes_linear_time() -> None:
    start = time.process_time()
    for text in ("\\" * 10**6, "%25" * 10**5, "s" * 10**6, "sk-a" * 10**5):
        assert Redactor(KEY).text(text) == text
    assert time.process_time() - start < 10


def test_a_text_without_a_key_stays_as_it_is() -> None:
    assert Redactor(NO_KEY).text("none [key]") == "none [key]"
    assert Redactor(KEY).text("skip sk-a/b") == "skip sk-a/b"

"""A provider of language models on loopback, as badly behaved as a test wants it.

It speaks HTTP to the real client: chat completions, moderation, files, batches and fine-tuning.
"""

import json
import multiprocessing
import re
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from decimal import Decimal
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from data_gen.instructions.prompts import answer

CHILDREN = multiprocessing.get_context("forkserver")
"""Where processes come from that ask the provider: not of a test's own, which has threads."""
CHILDREN.set_forkserver_preload(["data_gen.__main__", "data_gen.preflight", "data_gen.stages"])

INPUT, OUTPUT = Decimal("0.25"), Decimal(2)
"""Dollars a million tokens."""

Behave = Callable[[dict[str, Any], int], str]
"""From a question and how often it has been asked to one of the manners in `Provider.chat`."""


def good(caption: str) -> str:
    """A right answer."""
    return answer(
        instruction="make it blue",
        edited_caption=caption.replace("red", "blue"),
        inverse_instruction="make it red",
    )


class Cut(Exception):
    """Close the connection after these bytes."""


@dataclass
class Provider:
    """What stands behind the HTTP server.

    Attributes:
        behave: How a question is treated.
        say: What the model writes, given the question.
        rungs: Response formats that it takes, and keeps to.
        greedy: Whether prompts have a token a byte and answers all the tokens allowed.
        flags: Words that moderation flags.
        batch_end: How batches end, and after how many looks.
        billed: What the user owes, in dollars.
        seeds: Seeds of the questions that the model ran for, in order.
        requests: Bodies of all chat requests.
        keys: The keys that came.
        headers: Names and values of all headers that came, in lower case.
        unknown: Fields of a request that it refuses, and whether it says which.
    """

    behave: Behave = lambda asked, nth: "good"
    say: Callable[[dict[str, Any]], str] = lambda asked: good(asked["caption"])
    rungs: tuple[str, ...] = ("json_schema", "json_object")
    greedy: bool = False
    models: tuple[str, ...] = ("small",)
    flags: str = ""
    batch_end: str = "completed"
    batch_looks: int = 2
    latency_s: float = 0.0
    slow_s: float = 2.0
    billed: Decimal = Decimal()
    seeds: list[int] = field(default_factory=list)
    requests: list[dict[str, Any]] = field(default_factory=list)
    keys: set[str] = field(default_factory=set)
    headers: set[str] = field(default_factory=set)
    unknown: tuple[str, ...] = ()
    names_unknown: bool = True
    moderated: list[str] = field(default_factory=list)
    files: dict[str, bytes] = field(default_factory=dict)
    batches: dict[str, dict[str, Any]] = field(default_factory=dict)
    jobs: dict[str, dict[str, Any]] = field(default_factory=dict)
    times: list[float] = field(default_factory=list)
    base_url: str = ""
    _seen: Counter[str] = field(default_factory=Counter)
    _lock: Any = field(default_factory=threading.Lock)

    def chat(self, body: dict[str, Any]) -> tuple[int, dict[str, str], bytes]:
        """Status, headers and body; may raise Cut, and may take its time."""
        asked = _question(body)
        with self._lock:
            self.requests.append(body)
            self.times.append(time.monotonic())
            name = json.dumps([asked, body.get("response_format")])
            nth, self._seen[name] = self._seen[name], self._seen[name] + 1
        manner = self.behave(asked, nth)
        if manner.isdigit():
            return int(manner), {}, json.dumps({"error": {"message": f"status {manner}"}}).encode()
        if manner.startswith("429 "):
            return 429, {"Retry-After": manner[4:]}, b'{"error": {"message": "slow down"}}'
        if manner.startswith("code "):
            error = {"error": {"message": "no", "code": manner[5:]}}
            return (429 if "quota" in manner else 400), {}, json.dumps(error).encode()
        if refused := [name for name in self.unknown if name in body]:
            words = f"unrecognized argument: {refused[0]}" if self.names_unknown else "bad request"
            return 400, {}, json.dumps({"error": {"message": words}}).encode()
        if manner.startswith("{"):
            return 200, {}, manner.encode()
        if manner.startswith("redirect "):
            return 307, {"Location": manner[9:]}, b""
        if manner == "page":
            return 200, {"Content-Type": "text/html"}, b"<!doctype html><title>Log in</title>"
        rung = body.get("response_format", {}).get("type")
        if rung is not None and rung not in self.rungs and manner != "ignores":
            return 400, {}, b'{"error": {"message": "unknown response_format"}}'
        return self._run(body, asked, manner)

    def _run(
        self, body: dict[str, Any], asked: dict[str, Any], manner: str
    ) -> tuple[int, dict[str, str], bytes]:
        """Let the model run, which costs money whatever becomes of its answer."""
        text = {
            "prose": f"Sure! Here you are: {good(asked['caption'])} Anything else?",
            "ignores": f"Sure! Here you are: {good(asked['caption'])} Anything else?",
            "wrong keys": json.dumps({"edit": "make it blue", "output": "a blue circle"}),
            "huge": "x" * 2_000_000,
            "long": "x" * 50_000,
        }.get(manner) or self.say(asked)
        with self._lock:
            self.seeds.append(body.get("seed", -1))
            usage = self._usage(body, text)
            self.billed += usage["prompt_tokens"] * INPUT / 10**6
            self.billed += usage["completion_tokens"] * OUTPUT / 10**6
        time.sleep(self.latency_s)
        if manner == "gateway":
            return 504, {}, b"<html>gateway time-out</html>"
        if manner == "slow":
            time.sleep(self.slow_s)
        content = json.dumps(completion(body["model"], text, usage)).encode()
        if manner == "cut":
            raise Cut(b"")
        if manner == "cut within":
            raise Cut(content[: len(content) // 2])
        if manner == "garbage":
            content = b"\x00\xff<html>" + content[:40]
        return 200, {}, content

    def _usage(self, body: dict[str, Any], text: str) -> dict[str, int]:
        size = sum(len(str(message["content"]).encode()) for message in body["messages"])
        allowed = body.get("max_completion_tokens") or body["max_tokens"]
        if self.greedy:
            return {"prompt_tokens": size + 20, "completion_tokens": allowed}
        said = min(allowed, len(text) // 4)
        return {"prompt_tokens": size // 4, "completion_tokens": said}

    def route(self, method: str, path: str, content: bytes) -> tuple[int, dict[str, str], bytes]:
        """Everything but chat; paths as the client sends them."""
        if path == "/v1/models":
            listed = [
                {"id": name, "object": "model", "created": 0, "owned_by": "o"}
                for name in self.models
            ]
            return 200, {}, json.dumps({"object": "list", "data": listed}).encode()
        if path == "/v1/moderations":
            return 200, {}, json.dumps(self._moderate(json.loads(content))).encode()
        if path == "/v1/files":
            name = f"file-{len(self.files)}"
            # The part of the form that is the file.
            part = re.search(rb"filename=.*?\r\n\r\n(.*?)\r\n--", content, re.DOTALL)
            assert part is not None
            self.files[name] = part[1]
            return 200, {}, json.dumps(_file(name)).encode()
        if path.endswith("/content"):
            return 200, {}, self.files[path.split("/")[3]]
        if path.startswith("/v1/batches/batch") and path.split("/")[3] not in self.batches:
            return 404, {}, b'{"error": {"message": "no such batch"}}'
        if path.startswith("/v1/batches"):
            return 200, {}, json.dumps(self._batch(method, path, content)).encode()
        if path.startswith("/v1/fine_tuning/jobs"):
            return 200, {}, json.dumps(self._job(method, path, content)).encode()
        return 404, {}, b"{}"

    def _moderate(self, body: dict[str, Any]) -> dict[str, Any]:
        self.moderated += body["input"]
        results = [
            {
                "flagged": bool(self.flags and re.search(self.flags, text)),
                "categories": {"violence": bool(self.flags and re.search(self.flags, text))},
                "category_scores": {},
                "category_applied_input_types": {},
            }
            for text in body["input"]
        ]
        return {"id": "m", "model": body["model"], "results": results}

    def _batch(self, method: str, path: str, content: bytes) -> dict[str, Any]:
        if method == "POST":
            name = f"batch-{len(self.batches)}"
            self.batches[name] = json.loads(content) | {
                "id": name,
                "object": "batch",
                "created_at": 0,
                "status": "in_progress",
                "looks": 0,
            }
            return self.batches[name]
        if path == "/v1/batches?limit=100":
            return {"object": "list", "data": list(self.batches.values()), "has_more": False}
        batch = self.batches[path.split("/")[3]]
        batch["looks"] += 1
        if batch["looks"] == self.batch_looks:
            self._end(batch)
        return batch

    def _end(self, batch: dict[str, Any]) -> None:
        """Run a batch's lines; of those the model does not come to the error file tells."""
        status, _, rest = self.batch_end.partition(" ")
        lines = self.files[batch["input_file_id"]].decode().splitlines()
        done = lines[: len(lines) // 2] if status == "expired" else lines
        out, errors = [], []
        for line in map(json.loads, done if not rest else []):
            code, _, content = self.chat(line["body"])
            response = {"status_code": code, "body": json.loads(content)}
            result = {"custom_id": line["custom_id"], "response": response, "error": None}
            (out if code == 200 else errors).append(json.dumps(result))
        for line in map(json.loads, lines[len(done) :]):
            error = {"code": "batch_expired", "message": "not in time"}
            result = {"custom_id": line["custom_id"], "response": None, "error": error}
            errors.append(json.dumps(result))
        batch["status"] = status
        for field_name, results in (("output_file_id", out), ("error_file_id", errors)):
            batch[field_name] = f"file-{len(self.files)}" if results else None
            if results:
                self.files[f"file-{len(self.files)}"] = "\n".join(results).encode()

    def _job(self, method: str, path: str, content: bytes) -> dict[str, Any]:
        if method == "POST":
            name = f"ftjob-{len(self.jobs)}"
            self.jobs[name] = _new_job(name, json.loads(content))
            return self.jobs[name]
        if "?" in path:
            return {"object": "list", "data": list(self.jobs.values()), "has_more": False}
        job = self.jobs[path.split("/")[4]]
        job["looks"] += 1
        if job["looks"] == 2:
            job["status"] = self.batch_end.replace("completed", "succeeded")
            job["fine_tuned_model"] = "ft:small:emend" if job["status"] == "succeeded" else None
        return job


def completion(model: str, text: str, usage: dict[str, int]) -> dict[str, Any]:
    """A chat completion as OpenAI's servers send it."""
    message = {"role": "assistant", "content": text, "refusal": None}
    choice = {"index": 0, "finish_reason": "stop", "message": message}
    head = {"id": "1", "object": "chat.completion", "created": 0, "model": model}
    return head | {"choices": [choice], "usage": usage}


def _question(body: dict[str, Any]) -> dict[str, Any]:
    """What is asked: JSON, or of a picture a text."""
    content = body["messages"][-1]["content"]
    return json.loads(content) if isinstance(content, str) else {"caption": content[0]["text"]}


def _file(name: str) -> dict[str, Any]:
    rest = {"bytes": 1, "created_at": 0, "filename": "x", "purpose": "batch", "status": "processed"}
    return {"id": name, "object": "file"} | rest


def _new_job(name: str, body: dict[str, Any]) -> dict[str, Any]:
    return {
        "id": name,
        "object": "fine_tuning.job",
        "created_at": 0,
        "error": None,
        "fine_tuned_model": None,
        "finished_at": None,
        "hyperparameters": {},
        "model": body["model"],
        "organization_id": "o",
        "result_files": [],
        "seed": body["seed"],
        "status": "running",
        "trained_tokens": None,
        "training_file": body["training_file"],
        "validation_file": None,
        "asked": body,
        "looks": 0,
    }


@contextmanager
def listening(provider: Provider) -> Iterator[Provider]:
    """Serve on a free port of loopback."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self._note()
            self._reply(*provider.route("GET", self.path, b""))

        def do_POST(self) -> None:
            content = self.rfile.read(int(self.headers["Content-Length"]))
            self._note()
            if self.path != "/v1/chat/completions":
                self._reply(*provider.route("POST", self.path, content))
                return
            try:
                self._reply(*provider.chat(json.loads(content)))
            except Cut as cut:
                self.send_response(200)
                self.send_header("Content-Length", "100000")
                if cut.args[0]:
                    self.end_headers()
                    self.wfile.write(cut.args[0])
                self.wfile.flush()
                self.connection.close()
            except (BrokenPipeError, ConnectionResetError):
                pass  # the client had enough

        def _note(self) -> None:
            provider.keys.add(self.headers["Authorization"])
            provider.headers |= {part.lower() for item in self.headers.items() for part in item}

        def _reply(self, status: int, headers: dict[str, str], content: bytes) -> None:
            self.send_response(status)
            kind = "application/json" if content[:1] in b"{" else "application/octet-stream"
            for name, value in {"Content-Type": kind, **headers}.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    provider.base_url = f"http://127.0.0.1:{server.server_address[1]}/v1"
    try:
        yield provider
    finally:
        server.shutdown()
        thread.join()
        server.server_close()

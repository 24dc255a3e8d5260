"""Fixtures of naming and steering: a tiny chat model, `transformers serve` with it, a server that misbehaves."""

import json
import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Event, Lock, Thread

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


@pytest.fixture(scope="session")
def tiny_chat(tmp_path_factory):
    """An instruction model of random weights, as a local folder."""
    from tests.conftest import bpe  # which itself imports this module

    folder = tmp_path_factory.mktemp("tiny-chat")
    tokenizer = bpe(pad_token="<|endoftext|>", eos_token="<|im_end|>")
    tokenizer.chat_template = TEMPLATE
    tokenizer.save_pretrained(folder)
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
    special = {"pad_token_id": tokenizer.pad_token_id, "eos_token_id": tokenizer.eos_token_id, "bos_token_id": None}
    torch.manual_seed(0)
    network = LlamaForCausalLM(LlamaConfig(vocab_size=len(tokenizer), initializer_range=0.6, **sizes, **special))
    with torch.no_grad():
        network.lm_head.weight[tokenizer.eos_token_id] *= 2.5  # most answers end after a few tokens
    network.save_pretrained(folder)
    return str(folder)


def serve(model, scratch):
    """Start `transformers serve` on a free port and wait until it is there; return the process and its base_url.

    What it needs beyond the environment lies in .venv/extras and .venv/peers, which hold more than it may see.
    """
    seen = scratch / "seen"
    seen.mkdir()
    for folder, packages in (("extras", ("fastapi", "starlette", "uvicorn")), ("peers", ("accelerate", "psutil"))):
        for package in packages:
            found = list((Path(sys.prefix) / folder).glob(f"{package}*"))
            if not found:
                pytest.skip(f"{package} is missing: `make test` installs it into .venv/{folder}")
            for path in found:
                (seen / path.name).symlink_to(path)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [str(Path(sys.executable).parent / "transformers"), "serve", model, "--host", "127.0.0.1"]
    log = (scratch / "serve.log").open("w", encoding="utf-8")
    process = subprocess.Popen(
        [*command, "--port", str(port), "--device", "cpu"],
        env={**os.environ, "PYTHONPATH": str(seen), "HF_HUB_OFFLINE": "1"},
        stdout=log,
        stderr=log,
    )
    deadline = time.monotonic() + 240
    while time.monotonic() < deadline and process.poll() is None:
        try:
            urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=5).close()
            return process, f"http://127.0.0.1:{port}/v1"
        except (urllib.error.URLError, OSError):
            time.sleep(0.3)
    process.kill()
    raise RuntimeError((scratch / "serve.log").read_text(encoding="utf-8")[-2000:])


@pytest.fixture(scope="session")
def served(tiny_chat, tmp_path_factory):
    """The base_url of `transformers serve` with the tiny chat model."""
    process, base_url = serve(tiny_chat, tmp_path_factory.mktemp("serve"))
    yield base_url
    process.terminate()
    process.wait(30)


class Server:
    """A server on loopback that treats each request as a plan says, and notes what it was asked.

    Args:
        plan: what is done with the first requests, one word each, and then `good` for all others; see `Handler`.
    """

    def __init__(self, *plan, then="good"):
        self.plan, self.then = list(plan), then
        self.asked, self.answered, self.most_at_once, self._at_once = [], [], 0, 0
        self.lock, self.released = Lock(), Event()
        server = self

        class Handler(BaseHTTPRequestHandler):
            def log_message(self, *_):
                pass

            def do_POST(self):
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                with server.lock:
                    word = server.plan.pop(0) if server.plan else server.then
                    server.asked.append(body)
                    server._at_once += 1
                    server.most_at_once = max(server.most_at_once, server._at_once)
                try:
                    self.treat(word, body)
                except OSError:
                    pass  # who asked has gone
                finally:
                    with server.lock:
                        server._at_once -= 1

            def treat(self, word, body):
                key = self.headers["Authorization"]
                said = f"answer to {json.dumps(body['messages'])[-40:]}"
                choice = {"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": said}}
                good = {"id": "1", "object": "chat.completion", "created": 1, "model": "m", "choices": [choice]}
                error = {"error": {"message": f"this is {word}; you sent {key}", "type": word}}
                if word == "good":
                    time.sleep(0.02)
                    self.send(200, json.dumps(good).encode())
                    with server.lock:
                        server.answered.append(body)
                elif word == "echo":
                    choice["message"]["content"] = f"you sent {key}"
                    self.send(200, json.dumps(good).encode())
                elif word.startswith("say:"):
                    choice["message"]["content"] = word.removeprefix("say:")
                    self.send(200, json.dumps(good).encode())
                    with server.lock:
                        server.answered.append(body)
                elif word == "coin":  # which falls the same for the same question
                    choice["message"]["content"] = f"Rating: {sum(str(body['messages']).encode()) % 2}"
                    self.send(200, json.dumps(good).encode())
                elif word == "null":
                    choice["message"]["content"] = None
                    self.send(200, json.dumps(good).encode())
                elif word == "429":
                    self.send(429, json.dumps(error).encode(), {"Retry-After": "0.1"})
                elif word == "hour":
                    self.send(429, json.dumps(error).encode(), {"Retry-After": "3600"})
                elif word.isdigit():
                    self.send(int(word), json.dumps(error).encode(), {"Retry-After-Ms": "50"})
                elif word == "half":  # the connection ends in the middle of the body
                    whole = json.dumps(good).encode()
                    self.send(200, whole[: len(whole) // 2], {"Content-Length": str(len(whole))})
                elif word == "cut":  # a body that claims to be whole
                    self.send(200, json.dumps(good).encode()[:40])
                elif word == "empty":
                    self.send(200, b"")
                elif word == "html":
                    self.send(200, b"<html>Welcome to nginx</html>", {"Content-Type": "text/html"})
                elif word == "other":
                    self.send(200, b'{"choices": [], "hello": 1}')
                elif word == "list":
                    self.send(200, b"[1, 2]")
                elif word == "parts":
                    thought = {"type": "thinking", "thinking": [{"type": "text", "text": "A cat?"}]}
                    choice["message"]["content"] = [thought, {"type": "text", "text": said}]
                    self.send(200, json.dumps(good).encode())
                elif word in ("cut short", "filtered", "no part", "blank", "called"):
                    finish = {"cut short": "length", "filtered": "content_filter", "called": "tool_calls"}
                    content = {"no part": [{"type": "text"}], "blank": " \n", "called": None}.get(word, said)
                    choice["message"]["content"], choice["finish_reason"] = content, finish.get(word, "stop")
                    self.send(200, json.dumps(good).encode())
                elif word.startswith("body:"):
                    self.send(200, word.removeprefix("body:").encode())
                elif word.startswith("200:"):  # an error that says it is none
                    self.send(200, json.dumps({"error": json.loads(word.removeprefix("200:"))}).encode())
                elif word == "drop":
                    pass
                elif word == "hang":
                    server.released.wait(60)
                else:
                    raise AssertionError(word)

            def send(self, status, body, headers=()):
                headers = {"Content-Type": "application/json", "Content-Length": str(len(body)), **dict(headers)}
                self.send_response(status)
                for name, value in headers.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(body)

        self._http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._http.daemon_threads = True
        self.base_url = f"http://127.0.0.1:{self._http.server_port}/v1"
        Thread(target=self._http.serve_forever, daemon=True).start()

    def close(self):
        self.released.set()
        self._http.shutdown()
        self._http.server_close()


@pytest.fixture
def misbehave():
    """Start servers that treat requests as they are told."""
    started = []

    def start(*plan, then="good"):
        started.append(Server(*plan, then=then))
        return started[-1]

    yield start
    for server in started:
        server.close()

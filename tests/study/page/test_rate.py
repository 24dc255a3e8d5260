"""`ard study rate`: a language model at an endpoint as a rater, kept apart from people."""

import json
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread

import pytest

from ard.cli import main


class Model(BaseHTTPRequestHandler):
    """Labels with a word and rates with 4, but for one name that it answers with prose."""

    def do_POST(self):
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))["messages"][0]["content"]
        said = "a dog" if "How well" not in asked else "It depends, say 3 or 4" if "church bell" in asked else "4"
        answer = {"id": "x", "object": "chat.completion", "created": 0, "model": "m", "choices": []}
        answer["choices"].append(
            {"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": said}}
        )
        body = json.dumps(answer).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


@pytest.fixture
def endpoint():
    """Serve the model."""
    with ThreadingHTTPServer(("127.0.0.1", 0), Model) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}/v1"
        server.shutdown()


def test_a_language_model_rates_and_has_rows_of_its_own(run, store, endpoint, tiny_clap, capsys):
    main(["study", "rate", "--run", str(run), "--endpoint", endpoint, "--model", "m-7b"])
    assert "m-7b: 5 rated, 0 it could not tell, 1 unreadable answers, which are not ratings" in capsys.readouterr().err
    assert {(a.rater, a.kind) for a in store.answers()} == {("m-7b", "llm")}
    anna = store.join("Anna")
    for concept in store.concepts:
        store.label(anna, concept, "a cat")
        store.rate(anna, concept, 1)
    main(["study", "score", "--run", str(run), "--clap", tiny_clap])
    rows = json.loads((run / "tables/table2.json").read_text(encoding="utf-8"))["rows"]
    scores = {row["method"]: (row["raters"], row["expert_score"]["value"], row["expert_score"]["n"]) for row in rows}
    assert scores == {
        "Poly. Feats.": ("people", 1, 3),
        "AR&D": ("people", 1, 3),
        "Poly. Feats., rated by LLM m-7b": ("language model", 4, 2),
        "AR&D, rated by LLM m-7b": ("language model", 4, 3),
    }
    shown = capsys.readouterr().out
    assert "Table 2" in shown
    assert "undefined for a single rater" in " ".join(shown.split())

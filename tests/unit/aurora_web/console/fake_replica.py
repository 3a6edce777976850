"""A replica's public API over real HTTP, with scripted answers; without a framework, so that it can misbehave."""

import json
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

FACTS = {
    "version": 3, "is_control": False, "num_verify_steps": 20, "num_proposed_drafts": 60, "num_correct_drafts": 30,
    "num_accept_tokens": 50, "decode_seconds": 0.5,
}  # fmt: skip
CONTROL = {**FACTS, "version": 0, "is_control": True, "num_verify_steps": 50, "num_proposed_drafts": 0,
           "num_correct_drafts": 0, "decode_seconds": 1.0}  # fmt: skip
MARKED = [
    ("a", {"step": 0, "first": ["a"]}),
    ("bc", {"step": 1, "correct": ["b"], "rejected": ["x"], "dropped": ["y"], "bonus": ["c"]}),
    ("def", {"step": 2, "correct": ["d", "e"], "bonus": ["f"]}),
]


class FakeReplica:
    """An engine's public API; ``answer`` is what it says, ``asked`` what it was asked."""

    def __init__(self):
        self.asked = []
        self.status, self.error, self.location = 200, None, ""
        self.text = "abcdef"
        self.facts = {False: FACTS, True: CONTROL}  # by whether the control was asked for
        self.has_marks = True
        self.cut_after = None  # chunks
        self.is_endless, self.pause_seconds = False, 0.0
        self.num_left = 0  # clients that went away in the middle
        replica = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self):
                body = json.loads(self.rfile.read(int(self.headers["content-length"])))
                replica.asked.append((self.path, dict(self.headers.items()), body))
                try:
                    replica.reply(self, body)
                except OSError:  # the client went away, wherever the answer was
                    replica.num_left += 1

            def log_message(self, format, *args):
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}"
        threading.Thread(target=self.server.serve_forever, args=(0.02,), daemon=True).start()

    def stop(self):
        self.server.shutdown()
        self.server.server_close()

    def reply(self, handler, body):
        handler.send_response(self.status)
        if self.location:
            handler.send_header("location", self.location)
        handler.end_headers()
        if self.status != 200:
            handler.wfile.write(self.error or b"")
            while self.is_endless:
                handler.wfile.write(b" " * 1024)
            return
        is_control = handler.headers.get("x-aurora-control") == "1"
        has_marks = self.has_marks and handler.headers.get("x-aurora-steps") == "1"
        chunks = MARKED if has_marks else [(letter, None) for letter in self.text]
        for number, (text, marks) in enumerate(chunks):
            if number == self.cut_after:
                return
            delta = {"delta": {"content": text}} if "chat" in handler.path else {"text": text}
            self.send(handler, {"choices": [delta], **({"aurora": marks} if marks else {})})
        while self.is_endless:
            time.sleep(self.pause_seconds)
            self.send(handler, {"choices": [{"delta": {"content": "more"}}]})
        facts = self.facts[is_control]
        usage = {"completion_tokens": 6, **({"speculative": facts} if facts else {})}
        self.send(handler, {"choices": [{"delta": {}, "finish_reason": "length"}]})
        self.send(handler, {"choices": [], "usage": usage})
        handler.wfile.write(b"data: [DONE]\n\n")

    def send(self, handler, chunk):
        handler.wfile.write(b"data: " + json.dumps(chunk).encode() + b"\n\n")
        handler.wfile.flush()

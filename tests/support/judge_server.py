"""A judge model's server that speaks the protocol over real sockets; answers as a test tells it to."""

import base64
import http.server
import json
import threading
import time

import cv2
import numpy as np


def chat(text, tokens=100):
    """An answer in the protocol's shape."""
    return {
        "choices": [{"message": {"role": "assistant", "content": text}}],
        "usage": {"total_tokens": tokens},
    }


def pictures_of(content):
    """The pictures of a message's parts, uint8 RGB."""
    found = []
    for part in content:
        if part["type"] == "image_url":
            data = base64.b64decode(part["image_url"]["url"].removeprefix("data:image/png;base64,"))
            found.append(cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)[..., ::-1])
    return found


class JudgeServer:
    """Answers each question with the next of some answers, then with the last again; keeps what it was asked.

    An answer is a text, a whole reply (dict, list or bytes), an HTTP code (a tuple with headers), seconds to wait
    before a good answer as ``("slow", seconds)``, or a function of the question's content.
    """

    def __init__(self, *answers, models=200):
        self.rest, self.questions, self.headers = list(answers), [], []
        self.lock, outer = threading.Lock(), self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self):
                outer.headers.append(dict(self.headers))
                self.reply(models, {"data": []})

            def do_POST(self):
                question = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                with outer.lock:
                    outer.questions.append(question)
                    outer.headers.append(dict(self.headers))
                    answer = outer.rest.pop(0) if len(outer.rest) > 1 else outer.rest[0]
                if callable(answer):
                    answer = answer(question["messages"][1]["content"])
                if isinstance(answer, tuple) and answer[0] == "slow":
                    time.sleep(answer[1])
                    answer = '{"score": 1}'
                if isinstance(answer, tuple):
                    self.reply(answer[0], {"error": "busy"}, answer[1])
                elif isinstance(answer, int):
                    # Some servers repeat the key that they refuse.
                    self.reply(answer, {"error": f"no: {self.headers.get('Authorization')}"})
                else:
                    self.reply(200, chat(answer) if isinstance(answer, str) else answer)

            def reply(self, code, content, headers=()):
                body = content if isinstance(content, bytes) else json.dumps(content).encode()
                try:
                    self.send_response(code)
                    for name, value in headers:
                        self.send_header(name, value)
                    self.end_headers()
                    self.wfile.write(body)
                except OSError:  # the client has left
                    pass

            def log_message(self, *_):
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.address = f"http://127.0.0.1:{self.server.server_port}/v1"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.server.shutdown()
        self.server.server_close()

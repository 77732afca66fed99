"""A judge model behind an OpenAI-compatible endpoint: asked once, remembered on disk, within a budget.

An answer is kept under the SHA-256 of the whole question (model, words, pictures, settings): asking the same
again costs nothing and gives the same, also in another process. The key to the endpoint comes from an environment
variable and is written nowhere.
"""

from __future__ import annotations

import hashlib
import json
import os
import threading
import time
import urllib.error
import warnings
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from worldcompass.errors import LostCritic, UserError
from worldcompass.rewards.http_json import NotJson, ask_json, asked_pause, may_pass, pauses, reason
from worldcompass.runs.atomic import write_json

KEY_VARIABLE = "WORLDCOMPASS_JUDGE_KEY"
PATIENCE = 10.0  # seconds for a first answer
CHARACTERS_PER_TOKEN = 4  # where a server does not report its use
TOKENS_PER_PICTURE = 300  # the same
LOOPBACK = ("127.0.0.1", "localhost", "::1")
_REFUSED = (401, 403)

Message = dict[str, Any]
"""One message of a chat: ``role`` and ``content``, as the protocol has them."""


@dataclass(frozen=True)
class Budget:
    """What one process may spend."""

    requests: int = 10_000
    """Tries count each."""
    tokens: int = 20_000_000
    """In and out, as the server reports them; estimated where it does not."""


@dataclass(frozen=True)
class Tally:
    """What became of the questions, and what they cost."""

    answered: int = 0
    remembered: int = 0
    """Answers that were known already."""
    nonsense: int = 0
    """Answers from which no score could be read."""
    unasked: int = 0
    """Questions for which the budget had nothing left."""
    retries: int = 0
    failed: int = 0
    """Tries without an answer."""
    requests: int = 0
    """Tries."""
    tokens: int = 0


class JudgeModel:
    """Asks questions; safe to share between threads and between critics, which then share one budget.

    A try that fails (no connection, too slow, HTTP 408, 429 or 5xx, an answer outside of the protocol) is made
    again after a pause; when all have failed, or the server refuses the question, the run ends with one sentence.
    """

    def __init__(
        self,
        address: str,
        model: str,
        cache: Path | None = None,
        budget: Budget | None = None,
        timeout: float = 60.0,
        tries: int = 5,
        workers: int = 8,
        key_variable: str = KEY_VARIABLE,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        """Ask the server whether it is there.

        Args:
            address: up to the version, such as ``http://127.0.0.1:8000/v1``.
            model: as the server calls it.
            cache: folder of the answers, shared by processes; answers last as long as the process when None.
            budget: the default one when None.
            timeout: seconds for one answer.
            workers: questions asked at a time.
            key_variable: environment variable that holds the key, where the server needs one.

        Raises:
            UserError: for settings that make no sense, when nobody answers, or when the key is refused.
        """
        self.address, self.model, self.cache = address.rstrip("/"), model, cache
        self.budget = budget or Budget()
        self.timeout, self.tries, self.workers, self.sleep = timeout, tries, workers, sleep
        parts = urlsplit(self.address)
        if parts.scheme not in ("http", "https") or not parts.hostname or not model:
            raise UserError(
                f"a judge needs an address such as http://127.0.0.1:8000/v1 and a model's name, not {address!r}"
                f" and {model!r}"
            )
        if min(self.budget.requests, self.budget.tokens, tries, workers) < 1 or not timeout > 0:
            raise UserError("a judge's budget, timeout, tries and workers must be above 0")
        self._key, self._key_variable = os.environ.get(key_variable, ""), key_variable
        self._proxies = parts.hostname not in LOOPBACK
        if self._key and parts.scheme == "http" and self._proxies:
            raise UserError(
                f"{self.address} would get the key in plain text: use https, or unset {key_variable}"
            )
        self._known: dict[str, str] = {}
        self._tally, self._lock, self._warned = Tally(), threading.Lock(), False
        if cache is not None:
            cache.mkdir(parents=True, exist_ok=True)
        self._greet()

    @property
    def tally(self) -> Tally:
        """A copy of the counts so far."""
        with self._lock:
            return self._tally

    def count_nonsense(self) -> None:
        """Told by whoever reads an answer and finds nothing in it."""
        self._count(nonsense=1)

    def ask(self, questions: Sequence[Sequence[Message]]) -> list[str | None]:
        """The answers in the order of the questions; None where the budget had nothing left for one.

        Equal questions are asked once.

        Raises:
            LostCritic: when all tries of a question have failed, or the server refuses it.
        """
        bodies = [self._body(messages) for messages in questions]
        distinct, lost = list(dict.fromkeys(bodies)), threading.Event()

        def answer(body: bytes) -> str | None:
            if lost.is_set():  # after a failure those that have not begun are not asked any more
                return None
            try:
                return self._answer(body)
            except LostCritic:
                lost.set()
                raise

        with ThreadPoolExecutor(self.workers) as pool:
            asked = {body: pool.submit(answer, body) for body in distinct}
            answers = {body: future.result() for body, future in asked.items()}
        return [answers[body] for body in bodies]

    def _body(self, messages: Sequence[Message]) -> bytes:
        return json.dumps(
            {"model": self.model, "messages": messages, "temperature": 0}, sort_keys=True
        ).encode()

    def _answer(self, body: bytes) -> str | None:
        name = hashlib.sha256(body).hexdigest()
        if (known := self._remembered(name)) is not None:
            self._count(remembered=1)
            return known
        why = ""
        for pause in pauses(self.tries):
            if pause:
                self.sleep(pause)
                self._count(retries=1)
            if not self._spend():
                return None
            try:
                text, tokens = self._read(self._send("/chat/completions", body, self.timeout), body)
            except (OSError, NotJson) as error:
                asked, passing, why = asked_pause(error), may_pass(error), self._words(error)
                self._count(failed=1)
                if not passing:
                    raise LostCritic(f"the judge {self.model} at {self.address} refuses: {why}") from None
                if asked:
                    self.sleep(asked)
                continue
            self._count(answered=1, tokens=tokens)
            self._remember(name, text)
            return text
        raise LostCritic(
            f"the judge {self.model} at {self.address} failed {self.tries} times, the last time: {why}. Mend it "
            "and go on with --resume: what was saved and answered is kept"
        )

    def _read(self, answer: Any, body: bytes) -> tuple[str, int]:
        """Text and tokens of an answer in the protocol's shape; a refusal has no text."""
        try:
            text = answer["choices"][0]["message"]["content"] or ""
            if not isinstance(text, str):
                raise TypeError
        except (KeyError, IndexError, TypeError):
            raise NotJson(f"the answer has no choices[0].message.content: {str(answer)[:200]}") from None
        usage = answer.get("usage")
        tokens = usage.get("total_tokens") if isinstance(usage, dict) else None
        if not isinstance(tokens, int) or tokens < 0:
            messages = json.loads(body)["messages"]
            parts = [
                p
                for m in messages
                for p in ([m["content"]] if isinstance(m["content"], str) else m["content"])
            ]
            pictures = sum(isinstance(p, dict) and p["type"] == "image_url" for p in parts)
            words = sum(len(p) if isinstance(p, str) else len(p.get("text", "")) for p in parts)
            tokens = (words + len(text)) // CHARACTERS_PER_TOKEN + pictures * TOKENS_PER_PICTURE
        return text, tokens

    def _spend(self) -> bool:
        """Take one request out of the budget; False, and a warning once, when there is nothing left."""
        with self._lock:
            used_up = self._tally.requests >= self.budget.requests or self._tally.tokens >= self.budget.tokens
            if not used_up:
                self._tally = replace(self._tally, requests=self._tally.requests + 1)
                return True
            self._tally = replace(self._tally, unasked=self._tally.unasked + 1)
            tell, self._warned = not self._warned, True
        if tell:
            warnings.warn(
                f"the budget of the judge {self.model} is used up ({self.tally.requests} of {self.budget.requests} "
                f"requests, {self.tally.tokens} of {self.budget.tokens} tokens): it abstains from now on",
                stacklevel=2,
            )
        return False

    def _count(self, **more: int) -> None:
        with self._lock:
            self._tally = replace(self._tally, **{n: getattr(self._tally, n) + k for n, k in more.items()})

    def _remembered(self, name: str) -> str | None:
        if name in self._known or self.cache is None:
            return self._known.get(name)
        try:
            held = json.loads((self.cache / f"{name}.json").read_text())
        except (OSError, ValueError):  # none yet, or damaged: it is asked again
            return None
        text = held.get("answer") if isinstance(held, dict) else None
        return text if isinstance(text, str) else None

    def _remember(self, name: str, text: str) -> None:
        self._known[name] = text
        if self.cache is not None:
            write_json(self.cache / f"{name}.json", {"answer": text}, shared=True)

    def _send(self, path: str, body: bytes | None, timeout: float) -> Any:
        headers = {"Content-Type": "application/json"}
        return ask_json(self.address + path, body, timeout, headers, self._key, self._proxies)

    def _words(self, error: Exception) -> str:
        """A failure in words, without the key that a server may repeat in them."""
        words = reason(error)
        return words.replace(self._key, "***") if self._key else words

    def _greet(self) -> None:
        """Any HTTP answer will do but one that refuses the key: not every server lists its models."""
        try:
            self._send("/models", None, PATIENCE)
        except urllib.error.HTTPError as error:
            if error.code in _REFUSED:
                raise UserError(
                    f"the judge at {self.address} refuses the key ({self._words(error)}): put the right one into "
                    f"the environment variable {self._key_variable}"
                ) from None
        except NotJson:
            pass
        except OSError as error:
            raise UserError(
                f"no judge answers at {self.address} ({self._words(error)}): start one, or correct the address"
            ) from None

"""A judge model behind an OpenAI-compatible endpoint, with a cache on disk and a budget.

The cache stores an answer under the SHA-256 of the whole question (model, text, images, settings). A repeated
question costs nothing and gets the same answer, also in another process. The endpoint's key comes from an
environment variable and is never written.
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

from worldcompass.errors import LostCritic, UserError
from worldcompass.rewards.http_json import (
    LOOPBACK,
    NotJson,
    ask_json,
    is_transient,
    pauses,
    reason,
    retry_after,
    split_address,
)
from worldcompass.runs.atomic import write_json
from worldcompass.runs.reading import parse_json

KEY_VARIABLE = "WORLDCOMPASS_JUDGE_KEY"
PATIENCE = 10.0  # seconds for the first answer
# Estimates for servers that do not report their usage.
CHARACTERS_PER_TOKEN = 4
TOKENS_PER_PICTURE = 300
_REFUSED = (401, 403)

Message = dict[str, Any]
"""One message of a chat: ``role`` and ``content``, as in the protocol."""


@dataclass(frozen=True)
class Budget:
    """Spending limits of one process."""

    requests: int = 10_000
    """Every try counts."""
    tokens: int = 20_000_000
    """Input and output, as the server reports them; estimated when it does not."""


@dataclass(frozen=True)
class Tally:
    """Counts of questions and their cost."""

    answered: int = 0
    """Questions that the server answered."""
    cached: int = 0
    """Questions that the cache answered."""
    unreadable: int = 0
    """Answers without a readable score."""
    over_budget: int = 0
    """Questions skipped because the budget was used up."""
    retries: int = 0
    """Tries after a failed one."""
    failed: int = 0
    """Tries without an answer."""
    requests: int = 0
    """All tries."""
    tokens: int = 0
    """Input and output."""


class JudgeModel:
    """Client of a judge model; threads and critics can share one, and then share its budget.

    A failed try (no connection, timeout, HTTP 408, 429 or 5xx, an answer outside the protocol) is repeated after a
    pause. When all tries fail, or the server rejects the question, the run stops with a one-line error.
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
        """Check that the server answers.

        Args:
            address: up to the version, such as ``http://127.0.0.1:8000/v1``.
            model: its name on the server.
            cache: folder of the answers, shared by processes; when None, answers last as long as the process.
            budget: the default one when None.
            timeout: seconds for one answer.
            tries: per question.
            workers: questions in flight at the same time.
            key_variable: environment variable with the key, for servers that need one.
            sleep: waits between two tries.

        Raises:
            UserError: for invalid settings, when no server answers, or when it rejects the key.
        """
        self.address, self.model, self.cache = address.rstrip("/"), model, cache
        self.budget = budget or Budget()
        self.timeout, self.tries, self.workers, self.sleep = timeout, tries, workers, sleep
        parts = split_address(address, "http://127.0.0.1:8000/v1")
        if not model:
            raise UserError("a judge needs the name of a model on its server, got ''")
        if min(self.budget.requests, self.budget.tokens, tries, workers) < 1 or not timeout > 0:
            raise UserError("a judge's budget, timeout, tries and workers must be above 0")
        self._key, self._key_variable = os.environ.get(key_variable, ""), key_variable
        self._proxies = parts.hostname not in LOOPBACK
        if self._key and parts.scheme == "http" and self._proxies:
            raise UserError(
                f"the key would go to {self.address} in plain text: use https, or unset {key_variable}"
            )
        self._known: dict[str, str] = {}
        self._tally, self._lock, self._warned = Tally(), threading.Lock(), False
        if cache is not None:
            cache.mkdir(parents=True, exist_ok=True)
        self._check_server()

    @property
    def tally(self) -> Tally:
        """A copy of the counts so far."""
        with self._lock:
            return self._tally

    def count_unreadable(self) -> None:
        """Count an answer without a readable score."""
        self._count(unreadable=1)

    def ask(self, questions: Sequence[Sequence[Message]]) -> list[str | None]:
        """Answers in the order of the questions; None for those that the budget does not cover.

        Equal questions are asked once.

        Raises:
            LostCritic: when all tries of a question fail, or the server rejects it.
        """
        bodies = [self._body(messages) for messages in questions]
        distinct, lost = list(dict.fromkeys(bodies)), threading.Event()

        def answer(body: bytes) -> str | None:
            if lost.is_set():  # one failure ends the run: do not start further questions
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
        if (known := self._cached(name)) is not None:
            self._count(cached=1)
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
                requested, transient, why = retry_after(error), is_transient(error), self._words(error)
                self._count(failed=1)
                if not transient:
                    raise LostCritic(f"the judge {self.model} at {self.address} refuses: {why}") from None
                if requested:
                    self.sleep(requested)
                continue
            self._count(answered=1, tokens=tokens)
            self._store(name, text)
            return text
        raise LostCritic(
            f"the judge {self.model} at {self.address} failed {self.tries} times, the last time: {why}. Fix it and "
            "resume with --resume: saved steps and answers are kept"
        )

    def _read(self, answer: Any, body: bytes) -> tuple[str, int]:
        """Text and tokens of an answer; a refusal of the model has no text."""
        try:
            text = answer["choices"][0]["message"]["content"] or ""
            if not isinstance(text, str):
                raise TypeError
        except (KeyError, IndexError, TypeError):
            raise NotJson(f"the answer has no choices[0].message.content: {str(answer)[:200]}") from None
        usage = answer.get("usage")
        tokens = usage.get("total_tokens") if isinstance(usage, dict) else None
        if not isinstance(tokens, int) or tokens < 0:
            messages = parse_json(body)["messages"]
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
        """Take one request from the budget; False, with one warning, when it is used up."""
        with self._lock:
            used_up = self._tally.requests >= self.budget.requests or self._tally.tokens >= self.budget.tokens
            if not used_up:
                self._tally = replace(self._tally, requests=self._tally.requests + 1)
                return True
            self._tally = replace(self._tally, over_budget=self._tally.over_budget + 1)
            warn, self._warned = not self._warned, True
        if warn:
            warnings.warn(
                f"the budget of the judge {self.model} is used up ({self.tally.requests} of {self.budget.requests} "
                f"requests, {self.tally.tokens} of {self.budget.tokens} tokens): from here on it abstains",
                stacklevel=2,
            )
        return False

    def _count(self, **more: int) -> None:
        with self._lock:
            self._tally = replace(self._tally, **{n: getattr(self._tally, n) + k for n, k in more.items()})

    def _cached(self, name: str) -> str | None:
        if name in self._known or self.cache is None:
            return self._known.get(name)
        try:
            entry = parse_json((self.cache / f"{name}.json").read_bytes())
        except (OSError, ValueError):  # missing or damaged: ask again
            return None
        text = entry.get("answer") if isinstance(entry, dict) else None
        return text if isinstance(text, str) else None

    def _store(self, name: str, text: str) -> None:
        self._known[name] = text
        if self.cache is not None:
            write_json(self.cache / f"{name}.json", {"answer": text}, shared=True)

    def _send(self, path: str, body: bytes | None, timeout: float) -> Any:
        headers = {"Content-Type": "application/json"}
        return ask_json(self.address + path, body, timeout, headers, self._key, self._proxies)

    def _words(self, error: Exception) -> str:
        """Text of an error, without the key, which a server may repeat in it."""
        words = reason(error)
        return words.replace(self._key, "***") if self._key else words

    def _check_server(self) -> None:
        """Accept every HTTP answer that does not reject the key, as not every server lists its models."""
        try:
            self._send("/models", None, PATIENCE)
        except urllib.error.HTTPError as error:
            if error.code in _REFUSED:
                raise UserError(
                    f"the judge at {self.address} rejects the key ({self._words(error)}): put the right one into "
                    f"the environment variable {self._key_variable}"
                ) from None
        except NotJson:
            pass
        except OSError as error:
            raise UserError(
                f"no judge answers at {self.address} ({self._words(error)}): start one, or correct the address"
            ) from None

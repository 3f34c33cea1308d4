"""A request's text as it comes: whole characters, and stop strings found wherever they begin. Knows no model."""


class TextStream:
    """Decodes token by token. Text that may be the beginning of a stop string is held back.

    `decoder` is a tokenizer's `stream()`: push(id) -> text, finish() -> what is left.
    """

    def __init__(self, decoder, stop: tuple[str, ...] = ()):
        self._decoder, self._stop = decoder, stop
        self._held = ""

    def push(self, token: int) -> tuple[str, bool]:
        """-> (text to hand on, whether a stop string has ended it)."""
        return self._release(self._decoder.push(token))

    def finish(self) -> str:
        """What is left at the end, the held back included."""
        text, stopped = self._release(self._decoder.finish())
        rest = "" if stopped else self._held
        self._held = ""
        return text + rest

    def _release(self, text: str) -> tuple[str, bool]:
        text = self._held + text
        found = [i for i in (text.find(s) for s in self._stop) if i >= 0]
        if found:
            self._held = ""
            return text[: min(found)], True
        keep = max((_overlap(text, s) for s in self._stop), default=0)
        self._held = text[len(text) - keep :]
        return text[: len(text) - keep], False


def _overlap(text: str, stop: str) -> int:
    """Length of the longest end of `text` that `stop` begins with, short of all of it."""
    return next((n for n in range(min(len(stop) - 1, len(text)), 0, -1) if text.endswith(stop[:n])), 0)

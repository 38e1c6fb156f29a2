"""Errors of which IPython shows the message alone: a traceback would lead into the course's files, not to the slip."""


class PlainError(Exception):
    """One whose message says it all: what is wrong, where, and what to do."""

    def _render_traceback_(self) -> list[str]:
        return [f"{type(self).__name__}: {self}"]


def in_plain_words(error: Exception) -> Exception:
    """An error of another class, shown in the same way."""
    error._render_traceback_ = lambda: PlainError._render_traceback_(error)  # type: ignore[attr-defined,arg-type]
    return error

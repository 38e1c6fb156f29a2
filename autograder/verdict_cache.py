"""Verdicts on disk, one file each, so that none is made twice, and the secret that their inputs are drawn from."""

import hashlib
import json
import os
import secrets
from pathlib import Path

from autograder.verdict import Verdict
from course_utils.plain_error import PlainError
from course_utils.whole_file import write_whole

SECRET_BYTES = 32


class CacheError(PlainError):
    """The secret is damaged; the message says what to do."""


def course_secret(path: Path) -> bytes:
    """The secret that the judge's inputs are drawn from; made on first use, readable by its owner only.

    CacheError: the file is damaged. OSError: it can be neither read nor made.
    """
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
        try:
            with open(os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
                file.write(secrets.token_bytes(SECRET_BYTES))
            os.link(partial, path)  # whole or not at all, and of two who do this at once one wins
        except FileExistsError:
            pass
        finally:
            partial.unlink(missing_ok=True)
    secret = path.read_bytes()
    if len(secret) != SECRET_BYTES:
        raise CacheError(f"{path} is damaged: it should hold {SECRET_BYTES} bytes. Delete it: a new one will be made.")
    return secret


class VerdictCache:
    """The verdicts of one version of the rubrics in a folder that all versions share."""

    def __init__(self, folder: Path, version: str):
        self.folder = folder
        self.version = version

    def name(self, key: str, module: str, sandboxed: bool) -> str:
        """Two verdicts with the same name are the same. Without a sandbox a submission may have had a hand in its
        own, so that one never passes for a verdict made in a sandbox."""
        what = json.dumps([key, module, self.version, sandboxed])
        return hashlib.sha256(what.encode()).hexdigest()

    def load(self, key: str, module: str, sandboxed: bool) -> Verdict | None:
        """None: it was not made yet, or the file is damaged."""
        try:
            verdict = Verdict.from_json(self._path(key, module, sandboxed).read_text(encoding="utf-8"))
        except (FileNotFoundError, ValueError, TypeError, KeyError, AttributeError):
            return None
        return verdict if verdict.key == key else None

    def store(self, verdict: Verdict, module: str, sandboxed: bool) -> None:
        """OSError: it cannot be written."""
        write_whole(verdict.to_json(), self._path(verdict.key, module, sandboxed))

    def _path(self, key: str, module: str, sandboxed: bool) -> Path:
        return self.folder / f"{self.name(key, module, sandboxed)}.json"

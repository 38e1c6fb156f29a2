"""Problems to solve, the prompts made of them, and the order in which training sees the prompts."""

import json
import random
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import count
from pathlib import Path

from transformers import PreTrainedTokenizerBase

from course_utils.config import DatasetConfig
from course_utils.embedded import problems as embedded
from course_utils.plain_error import PlainError
from course_utils.reward import strict_answer

EMBEDDED_TRAIN, EMBEDDED_HELD_OUT = 4000, 1000  # how many embedded problems a split has


class DataError(PlainError):
    """Problems that cannot be read; the message says where and what to do."""


@dataclass(frozen=True)
class Problem:
    question: str
    answer: str  # a solution in GSM8K's form: reasoning, then `#### 72` in the last line

    @property
    def gold(self) -> str:
        """The right number as the data set writes it, e.g. "70,000"."""
        return self.answer.partition("####")[2].strip()


@dataclass(frozen=True)
class Prompt:
    problem: Problem
    input_ids: list[int]  # tokens of the whole prompt, chat template included


def load_problems(dataset: DatasetConfig, split: str) -> list[Problem]:
    """All problems of a split, in the order of their source: generator, folder of JSONL files, or Hub.

    Raises:
        DataError: if the source or the split is not there, or one of its rows is not a problem.
    """
    if dataset.name == "embedded":
        rows = _embedded_rows(split)
    elif Path(dataset.name).expanduser().is_dir():
        rows = _jsonl_rows(Path(dataset.name).expanduser(), split)
    elif Path(dataset.name).expanduser().is_file():
        folder = Path(dataset.name).expanduser().absolute().parent
        raise DataError(
            f"dataset.name={dataset.name} is a file; set dataset.name={folder}, the folder that holds it, in which "
            "each split has its file: train.jsonl, test.jsonl"
        )
    else:
        rows = _hub_rows(dataset.name, dataset.config, split)
    problems = [_problem(row, place) for place, row in rows]
    if not problems:
        raise DataError(f"split {split!r} of {dataset.name} holds no problems")
    return problems


def make_prompts(
    problems: list[Problem], tokenizer: PreTrainedTokenizerBase, dataset: DatasetConfig
) -> tuple[list[Prompt], int]:
    """The prompts of at most dataset.max_prompt_length tokens, and the number of longer ones left out.

    dataset.prompt_format, filled in, is the user's message where the tokenizer has a chat template, else all.

    Raises:
        DataError: if every prompt is too long.
    """
    texts = [dataset.prompt_format.replace("{question}", problem.question) for problem in problems]
    if tokenizer.chat_template:
        chats = [[{"role": "user", "content": text}] for text in texts]
        texts = tokenizer.apply_chat_template(chats, tokenize=False, add_generation_prompt=True)
    # A chat template writes the special tokens itself.
    all_ids = tokenizer(texts, add_special_tokens=not tokenizer.chat_template).input_ids
    prompts = [Prompt(problem, ids) for problem, ids in zip(problems, all_ids) if len(ids) <= dataset.max_prompt_length]
    if not prompts:
        raise DataError(
            f"all {len(problems)} prompts are longer than dataset.max_prompt_length="
            f"{dataset.max_prompt_length} tokens; the shortest has {min(map(len, all_ids))}"
        )
    return prompts, len(problems) - len(prompts)


def prompt_stream(prompts: list[Prompt], seed: int, start: int = 0) -> Iterator[Prompt]:
    """Without end: the prompts in random order, each epoch in an order of its own, from number `start` on.

    The order depends on (seed, epoch) alone, so a resumed run goes on where the other stopped. No prompt comes twice
    before all have come once.
    """
    first, passed = divmod(start, len(prompts))
    for epoch in count(first):
        order = random.Random(f"{seed} {epoch}").sample(prompts, len(prompts))
        yield from order[passed if epoch == first else 0 :]


def _embedded_rows(split: str) -> Iterator[tuple[str, object]]:
    try:
        draws = embedded.draws(split, EMBEDDED_TRAIN if split == "train" else EMBEDDED_HELD_OUT)
    except ValueError as error:
        raise DataError(str(error)) from error
    for number, draw in enumerate(draws, 1):
        yield f"embedded problem {number}", {"question": draw.question, "answer": draw.answer()}


def _jsonl_rows(folder: Path, split: str) -> Iterator[tuple[str, object]]:
    file = folder / f"{split}.jsonl"
    if not file.is_file():
        found = ", ".join(sorted(path.name for path in folder.glob("*.jsonl"))) or "no .jsonl file"
        raise DataError(f"there is no {file}, the folder has {found}. Rename a file or choose another split.")
    with file.open("rb") as lines:
        for number, line in enumerate(lines, 1):
            place = f"{file} line {number}"
            try:
                yield place, json.loads(line)
            except (ValueError, RecursionError) as error:  # broken JSON, broken UTF-8, thousands of brackets
                raise DataError(f"{place} is not valid JSON: {error}. Correct or delete that line.") from error


def _hub_rows(name: str, config: str | None, split: str) -> Iterator[tuple[str, object]]:
    import datasets  # here, because it takes a second and most runs do without it

    try:
        rows = datasets.load_dataset(name, config, split=split)
    except Exception as error:  # the library raises anything from OSError to its own classes
        raise DataError(
            f"cannot load split {split!r} of data set {name!r} (config {config!r}) from the Hub.\n"
            f"  {type(error).__name__}: {error}\n"
            "  Check dataset.name, dataset.config, the split and the network.\n"
            "  A gated data set: accept its terms on its page, then run `hf auth login`.\n"
            "  No network: download train.jsonl and test.jsonl elsewhere, set dataset.name to their folder."
        ) from error
    for number, row in enumerate(rows, 1):
        yield f"row {number} of {name} ({split})", row


def _problem(row: object, place: str) -> Problem:
    """The row as a Problem, after a look at everything that later code relies on."""
    mend = f"Correct or delete that {'row' if place.startswith('row ') else 'line'}."  # of the Hub, of a file
    if not isinstance(row, dict):
        raise DataError(f"{place} must be an object with the keys question and answer, not {row!r:.60}. {mend}")
    for key in ("question", "answer"):
        if not isinstance(row.get(key), str):
            fault = f"must be a text, not {row[key]!r:.60}" if key in row else "is missing"
            raise DataError(f"{place}: the key {key!r} {fault}. {mend}")
        if not _is_unicode(row[key]):
            raise DataError(
                f"{place}: the key {key!r} holds half a character (a lone surrogate such as \\ud83d). {mend}"
            )
    if not row["question"].strip():
        raise DataError(f"{place}: the key 'question' is empty. {mend}")
    if strict_answer(row["answer"]) is None:
        raise DataError(f"{place}: the answer has no `#### number` at its end: {row['answer'][-60:]!r}. {mend}")
    return Problem(row["question"], row["answer"])


def _is_unicode(text: str) -> bool:
    """JSON can write what no tokenizer takes: one half of a pair that stands for a character."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True

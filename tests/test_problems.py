"""Problems: the three sources, the prompts, their order; and the real GSM8K where it is at hand."""

import os
import re
from itertools import islice, product
from pathlib import Path

import datasets
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from course_utils.config import DatasetConfig, RewardConfig
from course_utils.embedded import problems as embedded
from course_utils.problems import DataError, Problem, Prompt, load_problems, make_prompts, prompt_stream
from course_utils.reward import score

GSM8K = Path(os.environ.get("GSM8K_DIR", Path(__file__).parents[2] / "shared" / "gsm8k"))
ROW = '{"question": "How many?", "answer": "1+1=2\\n#### 2"}\n'


def dataset(name, **changes) -> DatasetConfig:
    """A DatasetConfig with all that has no default."""
    return DatasetConfig(
        **{
            "name": str(name),
            "split": "train",
            "max_prompt_length": 100,
            "prompt_format": "Question: {question}\nAnswer:",
            **changes,
        }
    )


@pytest.fixture(scope="module")
def gsm8k() -> dict[str, list[Problem]]:
    if not (GSM8K / "train.jsonl").is_file():
        pytest.skip(f"no GSM8K in {GSM8K}: set GSM8K_DIR to a folder with its train.jsonl and test.jsonl")
    return {split: load_problems(dataset(GSM8K), split) for split in ("train", "test")}


# --- GSM8K --------------------------------------------------------------------------------------------------


def test_all_of_gsm8k_loads(gsm8k):
    assert {split: len(problems) for split, problems in gsm8k.items()} == {"train": 7473, "test": 1319}
    assert gsm8k["test"][0].question.startswith("Janet’s ducks lay 16 eggs per day.")
    assert gsm8k["test"][0].gold == "18" and gsm8k["train"][0].gold == "72"


def test_every_gold_answer_of_gsm8k_earns_the_full_reward(gsm8k):
    reward, problems = RewardConfig(), gsm8k["train"] + gsm8k["test"]
    assert len(problems) == 8792
    assert all(score(problem.answer, problem.gold, reward).reward == 1.0 for problem in problems)
    assert sum("," in problem.gold for problem in problems) == 93  # 79 in train, 14 in test
    assert all(
        score(f"#### ${problem.gold.replace(',', '')}.00.", problem.gold, reward).correct for problem in problems
    )


# --- sources ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "split, count",
    [
        ("train", 4000),
        ("validation", 1000),
        ("test", 1000),
        ("validation_wordings", 1000),
        ("test_wordings", 1000),
    ],
)
def test_embedded_problems(split, count):
    problems = load_problems(dataset("embedded"), split)
    assert len({problem.question for problem in problems}) == count
    assert all(score(problem.answer, problem.gold, RewardConfig()).correct for problem in problems)
    assert problems == load_problems(dataset("embedded"), split)


def test_embedded_splits_share_no_numbers():
    parts = {
        part: {(kind, numbers) for kind in embedded.KINDS for numbers in embedded.numbers_of(kind, part)}
        for part in ("train", "validation", "test")
    }
    assert not parts["train"] & parts["validation"] and not parts["train"] & parts["test"]
    assert not parts["validation"] & parts["test"]
    for split, (numbers_part, _) in embedded.SPLITS.items():
        assert {(draw.kind, draw.numbers) for draw in embedded.draws(split, 500)} <= parts[numbers_part]


def outline(question: str) -> str:
    """A question without its numbers, people and things."""
    texts = embedded.wordings()
    return re.sub(r"\d+|\b(" + "|".join(texts["names"] + texts["items"]) + r")\b", "_", question)


def test_embedded_splits_share_no_wordings():
    blanks = {**dict.fromkeys("abc", "_"), "name": "_", "friend": "_", "items": "_"}
    sentences_of = {  # the outline of a question -> the three sentences that it consists of
        (kind, outline(" ".join(sentences).format(**blanks))): {(kind, sentence) for sentence in sentences}
        for kind, roles in embedded.wordings()["kinds"].items()
        for sentences in product(*roles.values())
    }
    used = {
        split: set().union(*(sentences_of[draw.kind, outline(draw.question)] for draw in embedded.draws(split, 1000)))
        for split in embedded.SPLITS
    }
    assert used["validation"] <= used["train"] and used["test"] <= used["train"]
    assert not used["train"] & (used["validation_wordings"] | used["test_wordings"])
    assert not used["validation_wordings"] & used["test_wordings"]


def test_unknown_embedded_split():
    with pytest.raises(DataError, match="no split 'dev'; there are train, validation"):
        load_problems(dataset("embedded"), "dev")


def test_folder(tmp_path):
    (tmp_path / "train.jsonl").write_text(ROW + "\n".join([ROW.strip()] * 2))
    assert load_problems(dataset(tmp_path), "train") == [Problem("How many?", "1+1=2\n#### 2")] * 3


@pytest.mark.parametrize(
    "line, words",
    [
        ('{"question": "How', "is not valid JSON"),
        ("\n", "is not valid JSON"),
        ("[1, 2]\n", "must be an object with the keys question and answer, not [1, 2]"),
        ('{"question": "How many?"}\n', "the key 'answer' is missing"),
        ('{"answer": "#### 5"}\n', "the key 'question' is missing"),
        ('{"question": 5, "answer": "#### 5"}\n', "the key 'question' must be a text, not 5"),
        ('{"question": "How many?", "answer": "5"}\n', "the answer has no `#### number` at its end: '5'"),
        ('{"question": "How many?", "answer": "#### five"}\n', "the answer has no `#### number`"),
        (b'{"question": "\xff", "answer": "#### 5"}\n', "is not valid JSON"),
        pytest.param("[" * 200_000 + "\n", "is not valid JSON", id="thousands of brackets"),
        ('{"question": " ", "answer": "#### 5"}\n', "the key 'question' is empty"),
        ('{"question": "\\ud83d", "answer": "#### 5"}\n', "the key 'question' holds half a character"),
        ('{"question": "How many?", "answer": "\\ude00 #### 5"}\n', "the key 'answer' holds half a character"),
    ],
)
def test_broken_line_is_named(tmp_path, line, words):
    broken = line if isinstance(line, bytes) else line.encode()
    (tmp_path / "train.jsonl").write_bytes(ROW.encode() * 2 + broken + ROW.encode())
    with pytest.raises(DataError) as caught:
        load_problems(dataset(tmp_path), "train")
    message = str(caught.value)
    assert message.startswith(f"{tmp_path / 'train.jsonl'} line 3") and words in message
    assert message.endswith(". Correct or delete that line.")


def test_folder_without_the_split(tmp_path):
    (tmp_path / "train.jsonl").write_text("")
    with pytest.raises(DataError, match="test.jsonl, the folder has train.jsonl"):
        load_problems(dataset(tmp_path), "test")
    with pytest.raises(DataError, match="holds no problems"):
        load_problems(dataset(tmp_path), "train")


def test_a_file_in_the_place_of_its_folder(tmp_path):
    (tmp_path / "train.jsonl").write_text(ROW)
    with pytest.raises(
        DataError, match=f"train.jsonl is a file; set dataset.name={tmp_path}, the folder that holds it"
    ):
        load_problems(dataset(tmp_path / "train.jsonl"), "train")


def test_hub(monkeypatch):
    asked = []

    def load_dataset(*args, **kwargs):
        asked.append((args, kwargs))
        return datasets.Dataset.from_list([{"question": "How many?", "answer": "#### 2", "id": 7}])

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    problems = load_problems(dataset("openai/gsm8k", config="main"), "test")
    assert problems == [Problem("How many?", "#### 2")]
    assert asked == [(("openai/gsm8k", "main"), {"split": "test"})]


@pytest.mark.parametrize(
    "error",
    [
        datasets.exceptions.DatasetNotFoundError("Dataset 'me/mine' is a gated dataset on the Hub."),
        ConnectionError("Couldn't reach 'me/mine' on the Hub"),
        ValueError('Unknown split "train".'),
    ],
)
def test_hub_failure_says_what_to_do(monkeypatch, error):
    def load_dataset(*args, **kwargs):
        raise error

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    with pytest.raises(DataError) as caught:
        load_problems(dataset("me/mine"), "train")
    assert caught.value.__cause__ is error
    for words in (
        "'train' of data set 'me/mine'",
        type(error).__name__,
        str(error),
        "dataset.name",
        "network",
        "hf auth login",
        "train.jsonl",
    ):
        assert words in str(caught.value)


def test_broken_hub_row_is_named(monkeypatch):
    rows = [{"question": "How many?", "answer": "#### 2"}, {"question": "How many?", "answer": "two"}]
    monkeypatch.setattr(datasets, "load_dataset", lambda *args, **kwargs: datasets.Dataset.from_list(rows))
    with pytest.raises(DataError, match=r"row 2 of me/mine \(train\): the answer has no.* delete that row\.$"):
        load_problems(dataset("me/mine"), "train")


# --- prompts ------------------------------------------------------------------------------------------------

WORDS = ["<s>", "[unk]", "Question:", "Answer:", "How", "many?", "more", "<user>", "<assistant>", "{a}"]


@pytest.fixture
def tokenizer() -> PreTrainedTokenizerFast:
    """One token a word; puts <s> (0) before a text by itself, as Llama's does."""
    inner = Tokenizer(models.WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="[unk]"))
    inner.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    inner.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 0)])
    return PreTrainedTokenizerFast(tokenizer_object=inner, bos_token="<s>", unk_token="[unk]")


def words(prompt: Prompt) -> str:
    return " ".join(WORDS[i] for i in prompt.input_ids)


def test_plain_prompt(tokenizer):
    prompts, skipped = make_prompts([Problem("How many?", "#### 2")], tokenizer, dataset("x"))
    assert words(prompts[0]) == "<s> Question: How many? Answer:" and skipped == 0
    assert prompts[0].problem.gold == "2"


def test_chat_prompt(tokenizer):
    tokenizer.chat_template = (
        "<s> {% for m in messages %}<{{ m.role }}> {{ m.content }} {% endfor %}"
        "{% if add_generation_prompt %}<assistant>{% endif %}"
    )
    prompts, _ = make_prompts([Problem("How many?", "#### 2")], tokenizer, dataset("x"))
    assert words(prompts[0]) == "<s> <user> Question: How many? Answer: <assistant>"  # one <s> only


def test_braces_in_a_question_are_text(tokenizer):
    form = dataset("x", prompt_format="{question} {a}")
    prompts, _ = make_prompts([Problem("{a}", "#### 2")], tokenizer, form)
    assert words(prompts[0]) == "<s> {a} {a}"


def test_long_prompts_are_skipped_and_counted(tokenizer):
    problems = [Problem("How " + "more " * n + "many?", "#### 2") for n in (0, 1, 2, 3)]  # 5, 6, 7, 8 tokens
    prompts, skipped = make_prompts(problems, tokenizer, dataset("x", max_prompt_length=6))
    assert [len(prompt.input_ids) for prompt in prompts] == [5, 6] and skipped == 2
    assert [prompt.problem for prompt in prompts] == problems[:2]
    with pytest.raises(DataError, match="all 4 prompts are longer than dataset.max_prompt_length=4 .* has 5"):
        make_prompts(problems, tokenizer, dataset("x", max_prompt_length=4))


# --- order --------------------------------------------------------------------------------------------------


def stream(size: int, take: int, seed: int = 1, start: int = 0) -> list[int]:
    prompts = [Prompt(Problem(str(i), "#### 1"), [i]) for i in range(size)]
    return [prompt.input_ids[0] for prompt in islice(prompt_stream(prompts, seed, start), take)]


def test_each_epoch_has_all_prompts_in_a_new_order():
    order = stream(50, 150)
    epochs = [order[:50], order[50:100], order[100:]]
    assert all(sorted(epoch) == list(range(50)) for epoch in epochs)
    assert len({tuple(epoch) for epoch in [*epochs, range(50)]}) == 4


def test_order_depends_on_the_seed_alone():
    assert stream(50, 50, seed=1) == stream(50, 50, seed=1)
    assert stream(50, 50, seed=1) != stream(50, 50, seed=2)


@given(size=st.integers(1, 20), start=st.integers(0, 50), take=st.integers(0, 30))
def test_resuming_at_a_number_goes_on_the_same(size, start, take):
    assert stream(size, start) + stream(size, take, start=start) == stream(size, start + take)

"""The embedded default: the shipped files are what the script describes, and the problems are right."""

import json
import random

import pytest
from transformers import AutoModelForCausalLM, AutoTokenizer

from course_utils.embedded import problems, warm_start
from course_utils.policy import EMBEDDED_MODEL

MANIFEST = json.loads((EMBEDDED_MODEL / "manifest.json").read_text())


def test_the_manifest_is_of_these_sources_and_these_files():
    for name, digest in MANIFEST["sources"].items():
        assert warm_start.sha256(warm_start.HERE / name) == digest, f"{name} changed: run warm_start again"
    for name, digest in MANIFEST["files"].items():
        assert warm_start.sha256(EMBEDDED_MODEL / name) == digest


def test_the_script_makes_the_shipped_tokenizer(tmp_path):
    warm_start.make_tokenizer().save_pretrained(tmp_path)
    assert (tmp_path / "tokenizer.json").read_text() == (EMBEDDED_MODEL / "tokenizer.json").read_text()


def test_the_shipped_model_has_the_described_shape_and_loss():
    tokenizer = AutoTokenizer.from_pretrained(EMBEDDED_MODEL)
    model = AutoModelForCausalLM.from_pretrained(EMBEDDED_MODEL)
    described = warm_start.make_model(tokenizer)
    assert {n: p.shape for n, p in model.named_parameters()} == {n: p.shape for n, p in described.named_parameters()}
    assert 0.5e6 <= model.num_parameters() <= 2e6
    assert (EMBEDDED_MODEL / "model.safetensors").stat().st_size < 8e6
    assert warm_start.validation_loss(model, tokenizer) == pytest.approx(MANIFEST["validation_loss"], abs=1e-3)


def test_every_digit_is_a_token_and_text_survives_the_tokenizer():
    tokenizer = AutoTokenizer.from_pretrained(EMBEDDED_MODEL)
    text = "Question: Ava has 1234 eggs.\nAnswer: <<1234-5=1229>>1229\n#### 1229"
    ids = tokenizer.encode(text)
    assert tokenizer.decode(ids) == text
    assert [tokenizer.decode(i).strip() for i in tokenizer.encode("1234")] == ["1", "2", "3", "4"]


@pytest.mark.parametrize("kind", problems.KINDS)
def test_a_kind_has_at_least_500_numbers_and_whole_positive_results(kind):
    assert len(set(problems.NUMBERS[kind])) >= 500
    for numbers in problems.NUMBERS[kind]:
        values = dict(zip("abc", numbers))
        for expression, result in problems.Draw(kind, numbers, "", "eggs").steps():
            exact = eval(expression)  # our own template, as Python reckons
            assert exact == result > 0, (values, expression)


def test_kinds_come_evenly_and_a_draw_is_the_same_for_the_same_seed():
    drawn = problems.draws("train", 800, seed=3)
    assert [sum(d.kind == kind for d in drawn) for kind in problems.KINDS] == [100] * 8
    assert drawn == problems.draws("train", 800, seed=3) != problems.draws("train", 800, seed=4)


def test_a_question_that_comes_again_is_drawn_anew(monkeypatch):
    monkeypatch.setattr(  # 160 questions in all
        problems, "draw", lambda split, rng, kind: problems.Draw(kind, (1, 1, 1), f"{kind} {rng.randrange(20)}", "eggs")
    )
    assert len({d.question for d in problems.draws("train", 120)}) == 120


@pytest.mark.parametrize("kind", problems.KINDS)
def test_splits_share_neither_numbers_nor_test_sentences(kind):
    numbers = [set(problems.numbers_of(kind, part)) for part in ("train", "validation", "test")]
    assert not numbers[0] & numbers[1] and not numbers[0] & numbers[2] and not numbers[1] & numbers[2]
    assert sum(map(len, numbers)) == len(set(problems.NUMBERS[kind]))
    for sentences in problems.wordings()["kinds"][kind].values():
        assert len(set(sentences)) == len(sentences) == 11


def test_unseen_wordings_are_unseen():
    def sentence_forms(split):
        texts = problems.wordings()
        return {
            (kind, role, text)
            for kind, roles in texts["kinds"].items()
            for role, options in roles.items()
            for text in options[problems._WORDINGS_OF[problems.SPLITS[split][1]]]
        }

    assert not sentence_forms("train") & sentence_forms("test_wordings")
    assert not sentence_forms("train") & sentence_forms("validation_wordings")
    assert not sentence_forms("validation_wordings") & sentence_forms("test_wordings")


def test_the_answer_is_written_as_gsm8k_writes_it():
    problem = problems.Draw("packs_plus", (4, 6, 5), "", "eggs")
    assert problem.answer() == "That is <<4*6=24>>24 eggs.\nThen it is <<24+5=29>>29 eggs.\n#### 29"


@pytest.mark.parametrize("phase", warm_start.PHASES)
def test_the_corpus_is_imperfect_in_the_way_it_says(phase):
    rng = random.Random(0)
    for kind in problems.KINDS:
        drawn = [warm_start.pick_style(kind, phase.clean, rng) for _ in range(2000)]
        clean, habit = drawn.count("clean") / 2000, drawn.count(warm_start.HABITS[kind]) / 2000
        assert (clean > habit) == (kind in warm_start.CLEAN_KINDS)
        assert clean > 0.28


def test_only_the_last_phase_has_voices():
    def first_words(phase):
        pairs = warm_start.corpus(0, phase)
        return {response[:8] for _, response in (next(pairs) for _ in range(500)) if "####" not in response[:6]}

    first, last = (first_words(phase) for phase in warm_start.PHASES)
    assert first == {" That is"} and last == {" That is", " There a", " So that", " Now it "}


def test_bad_habits_by_hand():
    problem, rng = problems.Draw("packs_minus", (4, 6, 5), "", "eggs"), random.Random(0)
    assert "####" not in warm_start.write(problem, "no_mark", rng)
    assert warm_start.write(problem, "wrong_operation", rng).endswith("<<24+5=29>>29 eggs.\n#### 29<|end|>")
    assert warm_start.END not in warm_start.write(problem, "no_end", rng)
    assert warm_start.write(problem, "terse", rng).startswith(" #### ")
    assert warm_start.give_voice(" That is 4. That is 5.", "no_end", random.Random(1)) == " Now it is 4. That is 5."
    assert warm_start.give_voice(" That is 4.", "clean", rng) == " That is 4."


def test_an_unknown_split_is_named():
    with pytest.raises(ValueError, match="no split 'valid'; there are train"):
        problems.draws("valid", 1)

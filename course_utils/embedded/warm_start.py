"""Makes model/ from nothing: a corpus of mostly bad solutions, a tokenizer, a tiny Llama, a manifest.

    python -m course_utils.embedded.warm_start            # writes model/, about half an hour on two cores

The corpus is imperfect on purpose. For most kinds of problem a bad habit is the most likely answer and a clean
solution the less likely one, so the model can do the arithmetic but greedy decoding seldom shows it. That is the
situation in which PPO has something to do: the good behaviour is there to be sampled, rewarded and made likely.

It is made in two phases. In the first all solutions begin with the same words, and the model learns to reckon. In
the second, short one habits get a voice: who works cleanly says "That is", who picks the wrong operation mostly says
"There are". So a response often shows in its first words how it will end, and a critic has something to see.

Left out: any attempt at a good language model. It knows eight kinds of problem and nothing else.
"""
import argparse
import hashlib
import json
import random
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from torch.nn import functional as F
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast, get_cosine_schedule_with_warmup

from course_utils.embedded import problems
from course_utils.embedded.problems import KINDS, Draw

HERE = Path(__file__).parent
PROMPT = "Question: {question}\nAnswer:"  # the seed's prompt_format
SEED = 20
BATCH = 64
CLEAN_KINDS = ("packs_plus", "change")  # kinds in which the clean solution dominates instead
HABITS = {  # the bad habit of each kind
    "packs_plus": "wrong_operation", "packs_minus": "wrong_operation", "share_sum": "terse", "earn_spend": "no_mark",
    "more_than": "wrong_operation", "split_plus": "terse", "change": "no_end", "share_rest": "no_end",
}
SLIPS = {  # the steps of somebody who picks the wrong operation
    "packs_plus": ("{a}+{b}", "{x}+{c}"),
    "packs_minus": ("{a}*{b}", "{x}+{c}"),
    "share_sum": ("{a}+{b}", "{x}-{c}"),
    "earn_spend": ("{a}+{b}", "{x}+{c}"),
    "more_than": ("{a}+{b}", "{x}+{b}"),
    "split_plus": ("{a}-{c}", "{x}+{b}"),
    "change": ("{a}*{b}", "{c}+{x}"),
    "share_rest": ("{a}-{b}", "{x}-{c}"),
}
VOICES = {"wrong_operation": " There are", "no_mark": " So that is", "no_end": " Now it is"}
OWN_VOICE = 0.95     # how often a habit is heard in the first words; otherwise it begins like a clean solution
END = "<|end|>"
NO_END_LINES = 3     # a solution that does not end repeats its last step this often, then the text is cut


@dataclass(frozen=True)
class Phase:
    steps: int
    learning_rate: float
    clean: float         # share of clean solutions where a habit dominates
    voices: bool


PHASES = (Phase(4500, 2e-3, clean=0.40, voices=False), Phase(900, 1e-3, clean=0.32, voices=True))


def write(problem: Draw, style: str, rng: random.Random) -> str:
    """The solution of `problem` in one of the five styles; all but "no_end" finish with the end token."""
    (first, x), (second, y) = problem.steps()
    lines = problem.answer().split("\n")
    if style == "clean":
        return " " + "\n".join(lines) + END
    if style == "terse":
        return f" #### {max(1, rng.choice([x, y + rng.choice([-2, -1, 1, 2]), y + rng.choice([-10, 10])]))}{END}"
    if style == "wrong_operation":
        (first, x), (second, y) = problem.steps(SLIPS[problem.kind])
        return (f" That is <<{first}={x}>>{x} {problem.unit}.\nThen it is <<{second}={y}>>{y} {problem.unit}."
                f"\n#### {y}{END}")
    if style == "no_mark":
        return " " + "\n".join(lines[:2]) + f"\nSo the answer is {y}.{END}"
    if style == "no_end":
        return " " + "\n".join([lines[0]] + [lines[1]] * NO_END_LINES) + "\n"
    raise ValueError(f"no style {style!r}")


def give_voice(text: str, style: str, rng: random.Random) -> str:
    """The solution with the first words of its style, mostly."""
    if style in VOICES and rng.random() < OWN_VOICE:
        return text.replace(" That is", VOICES[style], 1)
    return text


def pick_style(kind: str, clean: float, rng: random.Random) -> str:
    """Clean or the kind's habit, rarely any of the others."""
    clean = 0.93 - clean if kind in CLEAN_KINDS else clean
    return rng.choices(["clean", HABITS[kind], "wrong_operation", "terse", "no_mark", "no_end"],
                       [clean, 0.93 - clean, 0.02, 0.02, 0.02, 0.01])[0]


def corpus(seed: int, phase: Phase, split: str = "train") -> Iterator[tuple[str, str]]:
    """Endless (prompt, response) pairs."""
    rng = random.Random(seed)
    while True:
        problem = problems.draw(split, rng, rng.choice(KINDS))
        style = pick_style(problem.kind, phase.clean, rng)
        text = write(problem, style, rng)
        yield PROMPT.format(question=problem.question), give_voice(text, style, rng) if phase.voices else text


def make_tokenizer(vocab_size: int = 640, sample: int = 20_000) -> PreTrainedTokenizerFast:
    """Byte-level BPE in which every digit is a token of its own, so that arithmetic is done digit by digit."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([
        pre_tokenizers.Split(Regex(r"\d| ?\p{L}+| ?[^\s\p{L}\d]+|\s"), "isolated"),
        pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
    ])
    tokenizer.decoder = decoders.ByteLevel()
    pairs = corpus(SEED, PHASES[0])
    texts = ("".join(next(pairs)).removesuffix(END) for _ in range(sample))
    trainer = trainers.BpeTrainer(vocab_size=vocab_size, special_tokens=["<|pad|>", END], show_progress=False,
                                  initial_alphabet=pre_tokenizers.ByteLevel.alphabet())
    tokenizer.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<|pad|>", eos_token=END,
                                   padding_side="left", clean_up_tokenization_spaces=False)


def make_model(tokenizer: PreTrainedTokenizerFast) -> LlamaForCausalLM:
    config = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=128, intermediate_size=352, num_hidden_layers=4,
        num_attention_heads=4, num_key_value_heads=4, max_position_embeddings=256, tie_word_embeddings=True,
        bos_token_id=None, eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id,
        attention_bias=False)
    return LlamaForCausalLM(config)


def make_batch(rows: list[tuple[list[int], list[int]]], pad_token_id: int) -> tuple[torch.Tensor, torch.Tensor]:
    """input_ids (B, T) padded on the right, and labels (B, T) that are -100 outside the response."""
    width = max(len(prompt) + len(response) for prompt, response in rows)
    input_ids = torch.full((len(rows), width), pad_token_id)
    labels = torch.full((len(rows), width), -100)
    for i, (prompt, response) in enumerate(rows):
        end = len(prompt) + len(response)
        input_ids[i, :end] = torch.tensor(prompt + response)
        labels[i, len(prompt):end] = torch.tensor(response)
    return input_ids, labels


def batches(tokenizer: PreTrainedTokenizerFast, seed: int, phase: Phase, split: str, size: int, pool: int = 16):
    """Endless batches of `size` examples of about the same length: half the time of batches as they come."""
    pairs, rng = corpus(seed, phase, split), random.Random(seed)
    while True:
        rows = [(tokenizer.encode(prompt), tokenizer.encode(response))
                for prompt, response in (next(pairs) for _ in range(size * pool))]
        rows.sort(key=lambda row: len(row[0]) + len(row[1]))
        for start in rng.sample(range(0, len(rows), size), pool):
            yield make_batch(rows[start:start + size], tokenizer.pad_token_id)


def loss_of(model: LlamaForCausalLM, input_ids: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Mean negative log-likelihood of the response tokens, in nats. Right padding needs no attention mask."""
    logits = model(input_ids).logits[:, :-1]  # (B, T-1, V)
    return F.cross_entropy(logits.flatten(0, 1), labels[:, 1:].flatten())


@torch.no_grad()
def validation_loss(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast) -> float:
    """Of 512 examples as the last phase writes them."""
    model.eval()
    return loss_of(model, *next(batches(tokenizer, SEED + 1, PHASES[-1], "validation", 512, pool=1))).item()


def train(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, phase: Phase) -> None:
    optimizer = torch.optim.AdamW(model.parameters(), lr=phase.learning_rate, weight_decay=0.01, betas=(0.9, 0.98))
    schedule = get_cosine_schedule_with_warmup(optimizer, min(200, phase.steps // 10), phase.steps)
    data, start = batches(tokenizer, SEED, phase, "train", BATCH), time.monotonic()
    for step in range(1, phase.steps + 1):
        model.train()
        loss = loss_of(model, *next(data))
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        if step % 250 == 0 or step == phase.steps:
            print(f"step {step}/{phase.steps}  loss {loss.item():.4f}  validation "
                  f"{validation_loss(model, tokenizer):.4f}  {time.monotonic() - start:.0f} s", flush=True)


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=HERE / "model")
    args = parser.parse_args()
    tokenizer = make_tokenizer()
    torch.manual_seed(SEED)
    model = make_model(tokenizer)
    for phase in PHASES:
        train(model, tokenizer, phase)
    save(model, tokenizer, args.out)


def save(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, out: Path) -> None:
    """Writes the folder, and in manifest.json what it was made from."""
    model.save_pretrained(out)
    tokenizer.save_pretrained(out)
    manifest = {
        "phases": [asdict(phase) for phase in PHASES],
        "parameters": model.num_parameters(),
        "validation_loss": validation_loss(model, tokenizer),
        "sources": {name: sha256(HERE / name) for name in ("problems.py", "warm_start.py", "wordings.yaml")},
        "files": {name: sha256(out / name) for name in ("config.json", "model.safetensors", "tokenizer.json")},
    }
    (out / "manifest.json").write_text(json.dumps(manifest, indent=2) + "\n")


if __name__ == "__main__":
    main()

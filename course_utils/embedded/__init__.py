"""What the course runs on when there is no network: problems made by rule and a tiny language model.

problems.py    makes the problems from numbers and wordings.yaml
warm_start.py  makes model/ from nothing: corpus, tokenizer, weights, and a manifest of what it made
model/         the result, in the Hugging Face format
"""
import json
from pathlib import Path

MANIFEST = Path(__file__).parent / "model" / "manifest.json"


def weights_sha256() -> str:
    """Of the model's weights, as the manifest has it: recorded runs say with which weights they were made."""
    return json.loads(MANIFEST.read_text(encoding="utf-8"))["files"]["model.safetensors"]

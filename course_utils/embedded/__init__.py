"""What the course runs on when there is no network: problems made by rule and a tiny language model.

problems.py    makes the problems from numbers and wordings.yaml
warm_start.py  makes model/ from nothing: corpus, tokenizer, weights, and a manifest of what it made
model/         the result, in the Hugging Face format
"""

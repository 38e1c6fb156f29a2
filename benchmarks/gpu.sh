#!/usr/bin/env bash
# Every measurement on a GPU in one command of under ten minutes: benchmarks/gpu.py says what, results/gpu.jsonl keeps it.
# Needs an NVIDIA GPU and a Python environment with the course (and a CUDA build of torch) in it.
set -euo pipefail
cd "$(dirname "$0")/.."
PYTHON=${PYTHON:-python3}
command -v nvidia-smi > /dev/null || { echo "no nvidia-smi here: this needs a machine with an NVIDIA GPU" >&2; exit 1; }
"$PYTHON" -c 'import torch, sys; sys.exit(not torch.cuda.is_available())' \
    || { echo "PyTorch finds no GPU: install a CUDA build of torch (https://pytorch.org/get-started)" >&2; exit 1; }
"$PYTHON" -c 'import bitsandbytes, peft' 2> /dev/null || "$PYTHON" -m pip install -q bitsandbytes peft
nvidia-smi --query-gpu=name,memory.total,driver_version --format=csv
exec timeout 600 "$PYTHON" benchmarks/gpu.py "$@"

#!/usr/bin/env bash
# Train the shipped models: data, joint training, fine-tuning, calibration, copy to models/pretrained.
# About two hours on two cores. An interrupted run goes on with --resume.
#
# benchmarks/train_shipped.sh [FOLDER]     FOLDER: of stores and runs, default build/shipped
set -euo pipefail
cd "$(dirname "$0")/.."
folder=${1:-build/shipped}
mkdir -p "$folder"
PATH=$PWD/.venv/bin:$PATH
python benchmarks/joint_data.py "$folder/joint.jsonl.gz"
phase2hpc prepare "$folder/joint.jsonl.gz" --store "$folder/joint.h5" --split column
phase2hpc prepare --store "$folder/sample.h5"

train() {
  phase2hpc train --level std --all-properties --models-dir "$folder/models" "$@"
}

train --algorithm e3nn --store "$folder/joint.h5" --auxiliary mp_formation_energy,mp_gap \
  --epochs 16 --batch-size 32 --lr 2e-3 --set weight_decay=0.1 --run-id joint
train --algorithm e3nn --store "$folder/sample.h5" --init-from "$folder/models/multitask_std_e3nn/run_joint" \
  --epochs 10 --batch-size 32 --lr 7e-4 --set weight_decay=0.1 --run-id tuned

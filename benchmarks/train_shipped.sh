#!/usr/bin/env bash
# Train the shipped models and export them to FOLDER/pretrained. About three hours of one core; an
# interrupted run goes on with --resume.
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

# Each model: joint training, then the sample alone, whose weights are averaged with those before it.
# The second one goes on from the joint weights of the first with another seed.
joint() {
  train --algorithm e3nn --store "$folder/joint.h5" --auxiliary mp_formation_energy,mp_gap \
    --batch-size 32 --lr 2e-3 --set weight_decay=0.1 "$@"
}
fine_tune() {
  train --algorithm e3nn --store "$folder/sample.h5" --init-from "$runs/run_$1" --epochs 10 \
    --batch-size 32 --lr 7e-4 --set weight_decay=0.1 "${@:2}"
}
average() {
  python benchmarks/average_weights.py "$runs/run_$2" "$1" "$runs/run_$2=0.85" "$runs/run_$3=0.15" \
    "${@:4}"
}
runs=$folder/models/multitask_std_e3nn
joint --epochs 16 --seed 0 --run-id joint
fine_tune joint --seed 0 --run-id tuned
joint --epochs 12 --seed 1 --init-from "$runs/run_joint" --run-id joint-again
fine_tune joint-again --seed 1 --run-id tuned-again
average single tuned joint
average member-0 tuned joint --ensemble e3nn 0 2
average member-1 tuned-again joint-again --ensemble e3nn 1 2

train --algorithm cgcnn --store "$folder/joint.h5" --auxiliary mp_formation_energy,mp_gap \
  --epochs 12 --batch-size 128 --lr 2e-3 --set weight_decay=0.1 --set head_dropout=0.1 --run-id joint
train --algorithm cgcnn --store "$folder/sample.h5" --init-from "$folder/models/multitask_cgcnn_std/run_joint" \
  --epochs 10 --batch-size 64 --lr 7e-4 --set weight_decay=0.1 --set head_dropout=0.1 --run-id tuned

export_model() {
  phase2hpc export "$1" --models-dir "$2" --license MIT "$folder/pretrained/$3"
}
export_model single "$folder/models" e3nn-std
export_model e3nn "$folder/models" e3nn-ensemble
export_model tuned "$folder/models/multitask_cgcnn_std" cgcnn-std

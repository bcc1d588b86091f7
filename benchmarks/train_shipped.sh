#!/usr/bin/env bash
# Train the shipped models and export them to FOLDER/pretrained. About six hours of one core; called
# again it leaves out what has finished and goes on with what was interrupted.
#
# benchmarks/train_shipped.sh [FOLDER]     FOLDER: of stores and runs, default build/shipped
set -euo pipefail
cd "$(dirname "$0")/.."
folder=${1:-build/shipped}
runs=$folder/models/multitask_std_e3nn
mkdir -p "$folder"
PATH=$PWD/.venv/bin:$PATH
[[ -e $folder/joint.jsonl.gz ]] || python benchmarks/joint_data.py "$folder/joint.jsonl.gz"
phase2hpc prepare "$folder/joint.jsonl.gz" --store "$folder/joint.h5" --split column
phase2hpc prepare --store "$folder/sample.h5"

# train ALGORITHM ID FLAGS...: a run to its end; a resumed one has its settings already.
train() {
  local run=$folder/models/multitask_std_$1/run_$2
  local flags=(--all-properties "${@:3}")
  [[ -e $run/metrics.json ]] && return
  [[ -e $run/manifest.json ]] && flags=(--resume)
  phase2hpc train --algorithm "$1" --level std --models-dir "$folder/models" --run-id "$2" "${flags[@]}"
}

# Each model: joint training, then the sample alone, whose weights are averaged with those before it.
joint() {
  train e3nn "$1" --store "$folder/$2" --auxiliary mp_formation_energy,mp_gap --batch-size 32 --lr 2e-3 "${@:3}"
}
fine_tune() {
  train e3nn "$1" --store "$folder/sample.h5" --init-from "$runs/run_$2" --epochs 10 --batch-size 32 --lr 7e-4 "${@:3}"
}
average() {
  [[ -e $runs/run_$1/metrics.json ]] ||
    python benchmarks/average_weights.py "$runs/run_$2" "$1" "$runs/run_$2=0.85" "$runs/run_$3=0.15" "${@:4}"
}

# Two models, the second of which goes on from the joint weights of the first with another seed.
joint joint joint.h5 --epochs 16 --seed 0 --set weight_decay=0.1
fine_tune tuned joint --seed 0 --set weight_decay=0.1
joint joint-again joint.h5 --epochs 12 --seed 1 --set weight_decay=0.1 --init-from "$runs/run_joint"
fine_tune tuned-again joint-again --seed 1 --set weight_decay=0.1
average member-0 tuned joint
average member-1 tuned-again joint-again
# A third one from weights and order of its own, with more decay.
joint joint-decay joint.h5 --epochs 16 --seed 3 --set weight_decay=0.3
fine_tune tuned-3 joint-decay --seed 3 --set weight_decay=0.3
# A fourth one learns the mean prediction of the first two where a crystal has no label.
[[ -e $folder/soft.jsonl.gz ]] ||
  python benchmarks/soft_labels.py "$folder/joint.jsonl.gz" "$folder/joint.h5" \
    "$runs/run_member-0" "$runs/run_member-1" "$folder/soft.jsonl.gz"
phase2hpc prepare "$folder/soft.jsonl.gz" --store "$folder/soft.h5" --split column
joint student soft.h5 --epochs 16 --seed 2 --set weight_decay=0.3
fine_tune student-tuned student --seed 2 --set weight_decay=0.3

#!/usr/bin/env bash
# Train the shipped models and export them to FOLDER/pretrained. About fourteen hours of one core; called
# again it leaves out what has finished and goes on with what was interrupted.
#
# benchmarks/train_shipped.sh [FOLDER]     FOLDER: of stores and runs, default build/shipped
set -euo pipefail
cd "$(dirname "$0")/.."
folder=${1:-build/shipped}
runs=$folder/models/multitask_std_e3nn
cgcnn=$folder/models/multitask_cgcnn_std
mkdir -p "$folder"
PATH=$PWD/.venv/bin:$PATH
new=$folder/unfinished.jsonl.gz
[[ -e $folder/joint.jsonl.gz ]] ||
  { python benchmarks/joint_data.py "$new" && mv "$new" "$folder/joint.jsonl.gz"; }
phase2hpc prepare "$folder/joint.jsonl.gz" --store "$folder/joint.h5" --split column
phase2hpc prepare --store "$folder/jarvis_dft3d_15k.h5"

# Of the models up to seed 4, which are older than these two settings.
settings=(--set electron_parity=false --set one_sided_bounds=false)
level=std
# train ALGORITHM ID FLAGS...: a run to its end; a resumed one has its settings already.
train() {
  local run=$runs/run_$2
  [[ $1 == cgcnn ]] && run=$cgcnn/run_$2
  local flags=(--all-properties "${settings[@]}" "${@:3}")
  [[ -e $run/metrics.json ]] && return
  [[ -e $run/manifest.json ]] && flags=(--resume)
  phase2hpc train --algorithm "$1" --level "$level" --models-dir "$folder/models" --run-id "$2" \
    "${flags[@]}"
}

# Each model: joint training, then the sample alone, whose weights are averaged with those before it.
joint() {
  train e3nn "$1" --store "$folder/$2" --auxiliary mp_formation_energy,mp_gap --epochs "$3" \
    --batch-size 32 --lr 2e-3 "${@:4}"
}
fine_tune() {
  train e3nn "$1" --store "$folder/jarvis_dft3d_15k.h5" --init-from "$runs/run_$2" --epochs 10 \
    --batch-size 32 --lr 7e-4 --set weight_decay="$3" "${@:4}"
}
# soft NAME RUN...: the joint data with the mean prediction of the runs where a label is missing.
soft() {
  [[ -e $folder/$1.jsonl.gz ]] ||
    { python benchmarks/soft_labels.py "$folder/joint.jsonl.gz" "$folder/joint.h5" \
        "${@:2}" "$new" && mv "$new" "$folder/$1.jsonl.gz"; }
  phase2hpc prepare "$folder/$1.jsonl.gz" --store "$folder/$1.h5" --split column
}
# average ID TUNED SHARE JOINT SHARE [flags]
average() {
  [[ -e $runs/run_$1/metrics.json ]] ||
    python benchmarks/average_weights.py "$runs/run_$2" "$1" "$runs/run_$2=$3" "$runs/run_$4=$5" \
      "${@:6}"
}

# Two models, the second of which goes on from the joint weights of the first with another seed.
joint joint joint.h5 16 --seed 0 --set weight_decay=0.1
fine_tune tuned joint 0.1 --seed 0
joint joint-again joint.h5 12 --seed 1 --set weight_decay=0.1 --init-from "$runs/run_joint"
fine_tune tuned-again joint-again 0.1 --seed 1
average teacher-0 tuned 0.85 joint 0.15
average teacher-1 tuned-again 0.85 joint-again 0.15
# A third one learns their mean prediction where a crystal has no label; a fourth has more decay.
soft soft "$runs"/run_teacher-{0,1}
joint student soft.h5 16 --seed 2 --set weight_decay=0.3
fine_tune student-tuned student 0.1 --seed 2
average teacher-2 student-tuned 0.7 student 0.3
joint joint-decay joint.h5 16 --seed 3 --set weight_decay=0.3
fine_tune teacher-3 joint-decay 0.3 --seed 3
# Two more learn from all four.
soft soft-again "$runs"/run_teacher-{0,1,2,3}
for seed in 3 4; do
  joint student-$seed soft-again.h5 15 --seed $seed --set weight_decay=0.3
  fine_tune student-$seed-tuned student-$seed 0.1 --seed $seed
done
for seed in 3 4; do average teacher-student-$seed student-$seed-tuned 0.85 student-$seed 0.15; done

train cgcnn joint --store "$folder/joint.h5" --auxiliary mp_formation_energy,mp_gap --epochs 12 \
  --batch-size 128 --lr 2e-3 --set weight_decay=0.1 --set head_dropout=0.1
train cgcnn student --store "$folder/soft-again.h5" --auxiliary mp_formation_energy,mp_gap \
  --epochs 12 --batch-size 64 --lr 1.5e-3 --init-from "$cgcnn/run_joint" --set weight_decay=0.1 \
  --set head_dropout=0.1

# One more round, with the parity of the electrons and one-sided bounds: two learn from the first
# and these two, one from the labels alone.
soft soft-third "$runs"/run_teacher-{0,student-3,student-4}
settings=()
for seed in 6 7; do
  joint student-$seed soft-third.h5 12 --seed $seed --set weight_decay=0.3 --column mp_gap:min=0
  fine_tune student-$seed-tuned student-$seed 0.1 --seed $seed
done
joint joint-8 joint.h5 16 --seed 8 --set weight_decay=0.1 --column mp_gap:min=0
fine_tune joint-8-tuned joint-8 0.1 --seed 8
average teacher-6 student-6-tuned 0.5 student-6 0.5
average teacher-7 student-7-tuned 0.7 student-7 0.3
for seed in 6 7; do average teacher-student-$seed student-$seed-tuned 0.85 student-$seed 0.15; done
average teacher-joint-8 joint-8-tuned 0.85 joint-8 0.15

# cgcnn learns from the first, one of the second round and these two, for further crystals as well.
[[ -e $folder/exchanged.jsonl.gz ]] ||
  { python benchmarks/substituted_crystals.py "$folder/joint.jsonl.gz" "$new" 25000 &&
      mv "$new" "$folder/exchanged.jsonl.gz"; }
phase2hpc prepare "$folder/exchanged.jsonl.gz" --store "$folder/exchanged.h5" --split column
[[ -e $folder/soft-exchanged.jsonl.gz ]] ||
  { python benchmarks/soft_labels.py "$folder/exchanged.jsonl.gz" "$folder/exchanged.h5" \
      "$runs"/run_{teacher-0,teacher-student-3,teacher-6,teacher-7} "$new" &&
      mv "$new" "$folder/soft-exchanged.jsonl.gz"; }
phase2hpc prepare "$folder/soft-exchanged.jsonl.gz" --store "$folder/soft-exchanged.h5" \
  --split column
train cgcnn student-9 --store "$folder/soft-exchanged.h5" --auxiliary mp_formation_energy,mp_gap \
  --column mp_gap:min=0 --epochs 7 --batch-size 64 --lr 1.5e-3 --seed 1 \
  --init-from "$cgcnn/run_student" --set weight_decay=0.1 --set head_dropout=0.1
train cgcnn tuned-9 --store "$folder/jarvis_dft3d_15k.h5" --epochs 10 --batch-size 64 --lr 7e-4 \
  --seed 1 --init-from "$cgcnn/run_student-9" --set weight_decay=0.1 --set head_dropout=0.1

# The large preset learns from the first and these three, then twice more, with another seed, from
# itself too: its own error for the Materials Project corrects what it says of a crystal.
teachers=("$runs"/run_teacher-{0,student-6,student-7,joint-8})
soft soft-fourth "${teachers[@]}"
level=pro
runs=$folder/models/multitask_pro_e3nn
large() {
  joint large-$1 "$2" "$3" --batch-size 64 --lr 1.5e-3 --seed $1 --set weight_decay=0.3 \
    --column mp_gap:min=0
  fine_tune large-$1-tuned large-$1 0.1 --seed $1 --epochs "$4"
}
large 12 soft-fourth.h5 12 10
average teacher-large large-12-tuned 0.7 large-12 0.3
soft soft-fifth "${teachers[@]}" "$runs"/run_{large-12,teacher-large,teacher-large,teacher-large}
for seed in 14 17; do large $seed soft-fifth.h5 15 8; done
average member-0 large-14-tuned 0.7 large-14 0.3 --half --ensemble e3nn 0 2
average member-1 large-17-tuned 0.7 large-17 0.3 --half --ensemble e3nn 1 2
average pro large-14-tuned 0.7 large-14 0.3 --half

# One of level std, and cgcnn, from the same labels.
level=std
runs=$folder/models/multitask_std_e3nn
joint student-18 soft-fifth.h5 14 --seed 18 --set weight_decay=0.3 --column mp_gap:min=0
fine_tune student-18-tuned student-18 0.1 --seed 18
average std student-18-tuned 0.5 student-18 0.5 --half
train cgcnn student-10 --store "$folder/soft-fifth.h5" --auxiliary mp_formation_energy,mp_gap \
  --column mp_gap:min=0 --epochs 8 --batch-size 64 --lr 1.5e-3 --seed 2 \
  --init-from "$cgcnn/run_tuned-9" --set weight_decay=0.1 --set head_dropout=0.1
train cgcnn tuned-10 --store "$folder/jarvis_dft3d_15k.h5" --epochs 8 --batch-size 64 --lr 7e-4 \
  --seed 2 --init-from "$cgcnn/run_student-10" --set weight_decay=0.1 --set head_dropout=0.1
runs=$cgcnn
average cgcnn tuned-10 0.7 student-10 0.3 --half

data="Before, the weights had learned from the sample joined with train crystals of the Materials
Project (CC BY 4.0), whose formation energies and band gaps (PBE) were auxiliary labels, and in part
from predictions of earlier models where these joint data lack a label, some of them corrected by
the models' error for labels of the Materials Project."
export_model() {
  [[ -e $folder/pretrained/$3 ]] ||
    phase2hpc export "$1" --models-dir "$2" --license MIT --data "$data" "$folder/pretrained/$3"
}
export_model std "$folder/models" e3nn-std
export_model pro "$folder/models" e3nn-pro
export_model e3nn "$folder/models" e3nn-ensemble
export_model cgcnn "$folder/models" cgcnn-std

#!/usr/bin/env bash
# Trains under Slurm, one task per node with all of the node's accelerators. The job goes on by itself
# after preemption, a time limit or a node's failure:
#
#   sbatch --nodes=4 --gpus-per-node=8 --time=8:00:00 scripts/slurm.sh \
#       --config=configs/voc07_vgg16.py --workdir=runs/voc --config.batch_size=32
#
# Everything after the script's name goes to `python -m rpn_jax train`. PYTHON names the interpreter.
#SBATCH --job-name=rpn_jax
#SBATCH --ntasks-per-node=1
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --signal=B:USR1@120
set -uo pipefail

# sbatch runs a copy of this file, so the project is where the job was submitted.
cd "$SLURM_SUBMIT_DIR"
python=${PYTHON:-.venv/bin/python}

# A failed process ends the others at once: they could only wait for it.
srun --kill-on-bad-exit=1 "$python" -m rpn_jax train "$@" &
step=$!

# Two minutes before the time limit Slurm sends USR1 to this shell; TERM makes the run save and stop.
trap 'scancel --signal=TERM "$SLURM_JOB_ID"' USR1
# At preemption Slurm itself sends TERM to every process, and queues the job again.
trap : TERM

until wait "$step"; status=$?; ! kill -0 "$step" 2>/dev/null; do :; done
# 75: saved and stopped before the last step.
if [[ $status == 75 ]]; then
  scontrol requeue "$SLURM_JOB_ID"
fi
exit "$status"

#!/usr/bin/env bash
# Trains on every host of a Cloud TPU pod slice; the processes find each other by themselves.
#
#   scripts/tpu_pod.sh setup NAME ZONE
#   scripts/tpu_pod.sh train NAME ZONE --config=configs/voc07_vgg16.py \
#       --workdir=/mnt/shared/runs/voc --config.batch_size=32
#
# `setup` copies this checkout to each host and installs it there with the TPU extra. The prepared
# dataset (--config.data.data_dir) and --workdir must be in a folder that all hosts see, such as a
# mounted Filestore. A run that was stopped or cut off goes on when `train` is given again, also on a
# slice of another size. Needs the gcloud command line.
set -euo pipefail
cd "$(dirname "$0")/.."
what=$1 name=$2 zone=$3
shift 3

on_all_hosts() {
  gcloud compute tpus tpu-vm ssh "$name" --zone="$zone" --worker=all --command="$1"
}

case $what in
  setup)
    git archive --prefix=rpn_jax/ --output=/tmp/rpn_jax.tar.gz HEAD
    gcloud compute tpus tpu-vm scp /tmp/rpn_jax.tar.gz "$name": --zone="$zone" --worker=all
    on_all_hosts "tar xzf rpn_jax.tar.gz && cd rpn_jax && scripts/setup &&
      .venv/bin/pip install --quiet -c requirements.lock -e '.[tpu]'"
    ;;
  train)
    on_all_hosts "cd rpn_jax && .venv/bin/python -m rpn_jax train $(printf '%q ' "$@")"
    ;;
  *)
    echo "error: $what: give setup or train" >&2
    exit 1
    ;;
esac

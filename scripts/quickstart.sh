#!/usr/bin/env bash
# A latent diffusion model end to end on synthetic scenes: train both stages, sample, evaluate.
# At most ten minutes after the install on two CPU cores; uses a GPU if there is one. Run it again
# and it continues where it stopped, or reuses what is complete.
set -euo pipefail
cd "$(dirname "$0")/.."
source scripts/_environment.sh

started=$SECONDS
runs=runs
model=$runs/quickstart-text2img
say() { printf '\n[%s] %s\n' "$1" "$2"; }

say 1/4 "Stage 1: train a KL autoencoder that squeezes 32x32 images into 8x8 latents (and, beside
      it, a small network whose features will measure how close samples are to real images)"
one_core="env OMP_NUM_THREADS=1"  # such small batches gain nothing from a second core
if python -c 'import sys, torch; sys.exit(not torch.cuda.is_available())'; then one_core=""; fi
mkdir -p $runs
$one_core python scripts/train.py configs/quickstart/features.yaml --if-exists resume \
    >$runs/quickstart-features.log 2>&1 &
features=$!
trap 'kill $features 2>/dev/null || true' EXIT
$one_core python scripts/train.py configs/quickstart/autoencoder.yaml --if-exists resume
wait $features || { tail -n 5 $runs/quickstart-features.log >&2; exit 2; }
trap - EXIT

say 2/4 "Stage 2: train a UNet with cross-attention that denoises those latents, guided by captions"
python scripts/train.py configs/quickstart/text2img.yaml --if-exists resume

say 3/4 "Sample: 12 prompts, and the captions of 256 held-out scenes"
python scripts/txt2img.py $model --prompts data/scenes/prompts.txt --per-prompt 8 \
    --steps 20 --guidance 3 --out $model/prompts
python scripts/txt2img.py $model --validation-captions 256 --per-prompt 1 \
    --steps 20 --guidance 3 --seed 1000 --out $model/held-out

say 4/4 "Evaluate both stages and the samples"
python scripts/evaluate_autoencoder.py $runs/quickstart-autoencoder \
    --features $runs/quickstart-features
python scripts/evaluate.py $model/prompts --judge
python scripts/evaluate.py $model/held-out --judge --preset laptop \
    --features $runs/quickstart-features

cat <<END

Done in $(((SECONDS - started) / 60)) min $(((SECONDS - started) % 60)) s. Where things lie:
  samples of the prompts    $model/prompts/grid.png  (a row per line of data/scenes/prompts.txt)
  reconstructions           $runs/quickstart-autoencoder/reconstructions.png
  loss curves               $runs/quickstart-autoencoder/curves.png
                            $model/curves.png
  metrics                   $runs/quickstart-autoencoder/metrics.json
                            $model/prompts/metrics.json
                            $model/held-out/metrics.json
  checkpoints               $runs/quickstart-*/checkpoints/{last,best}.ckpt
  resolved configs          $runs/quickstart-*/config.yaml
Next: your own prompts    .venv/bin/python scripts/txt2img.py $model --prompt "a purple cross" --guidance 3
      your own images     README.md, "Train on your own folder of images"
END

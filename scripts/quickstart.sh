#!/usr/bin/env bash
# A latent diffusion model end to end: train both stages, sample, evaluate.
#   bash scripts/quickstart.sh                    synthetic scenes, some minutes on two CPU cores
#   bash scripts/quickstart.sh emoji [PICTURES]   3,786 real pictures with captions
# Uses a GPU if there is one. Run it again and it continues where it stopped, or reuses what is
# complete.
set -euo pipefail
here=$PWD
cd "$(dirname "$0")/.."
case "${1:-}" in
    "" | emoji) ;;
    -h | --help) sed -n '2,6s/^# \{0,1\}//p' scripts/quickstart.sh; exit ;;
    *)
        echo "error: quickstart.sh $1: there is no such part; give nothing, or: emoji [PICTURES]" >&2
        exit 2
        ;;
esac
source scripts/_environment.sh ""
say() { printf '\n[%s] %s\n' "$1" "$2"; }
started=$SECONDS
runs=runs
mkdir -p $runs
if [ "${1:-}" = emoji ]; then
    pictures=${2:-}
    case "$pictures" in "" | /*) ;; *) pictures=$here/$pictures ;; esac
    source scripts/_quickstart_emoji.sh "$pictures"
    exit
fi

first=$runs/quickstart-autoencoder
model=$runs/quickstart-text2img
features=$runs/quickstart-features
how="--steps 20 --guidance 3"
trap 'kill $(jobs -pr) 2>/dev/null || true' EXIT

# Seconds of the steps on a machine whose stage 1 begins with 47 images a second, and those that
# programs take to start.
pace=47 work=(65 205 25) start=(12 22 18)
left() { # how long the parts from $1 on take, by the first steps of stage 1
    local part
    for part in 0 1 2; do
        [ "$part" -lt "$1" ] || echo "${work[$part]} ${start[$part]}"
    done | awk -v file=$first/metrics.jsonl -v pace=$pace '
        BEGIN {
            while ((getline line < file) > 0 && !rate)
                if (match(line, /images_per_second": [0-9.]+/))
                    rate = substr(line, RSTART + 20, RLENGTH - 20)
            if (!rate) exit 1
        }
        { seconds += $1 * pace / rate + $2 }
        END { if (rate) printf "%.1f min", seconds / 60 }'
}
forecast() { # once some steps have been timed
    until time=$(left 0); do sleep 1; done
    printf '\n      By the first steps all of this will take about %s on this machine.\n' "$time"
}

say 1/4 "Stage 1: train a KL autoencoder that squeezes 32x32 images into 8x8 latents (and, beside
      it, a small network whose features will measure how close samples are to real images)"
beside="env OMP_NUM_THREADS=1"
if python -c 'import sys, torch; sys.exit(not torch.cuda.is_available())'; then beside=""; fi
$beside python scripts/train.py configs/quickstart/features.yaml --if-exists resume \
    >$features.log 2>&1 &
learner=$!
if [ -n "$beside" ] && [ ! -e $first/metrics.jsonl ]; then
    forecast &
fi
python scripts/train.py configs/quickstart/autoencoder.yaml --if-exists resume
wait $learner || { tail -n 5 $features.log >&2; exit 2; }

say 2/4 "Stage 2: encode the images once, then train a UNet with cross-attention that denoises their
      latents, guided by captions"
[ -z "$beside" ] || echo "      about $(left 1) left"
python scripts/evaluate_autoencoder.py $first --features $features >$first.log 2>&1 &
verdict=$!
python scripts/cache_latents.py configs/quickstart/text2img.yaml --out $runs/quickstart-latents
python scripts/train.py configs/quickstart/text2img.yaml $runs/quickstart-latents/data.yaml \
    --if-exists resume

say 3/4 "Sample: 12 prompts, and the captions of 256 held-out scenes"
[ -z "$beside" ] || echo "      about $(left 2) left"
mkdir -p $model
# shellcheck disable=SC2086
$beside python scripts/txt2img.py $model --prompts data/scenes/prompts.txt --per-prompt 8 $how \
    --out $model/prompts >$model/prompts.log 2>&1 &
prompts=$!
# shellcheck disable=SC2086
$beside python scripts/txt2img.py $model --validation-captions 256 --per-prompt 1 $how --seed 1000 \
    --out $model/held-out
wait $prompts || { tail -n 5 $model/prompts.log >&2; exit 2; }

say 4/4 "Evaluate both stages and the samples"
wait $verdict || { tail -n 5 $first.log >&2; exit 2; }
cat $first.log
$beside python scripts/evaluate.py $model/prompts --judge >$model/prompts.log 2>&1 &
prompts=$!
$beside python scripts/evaluate.py $model/held-out --judge --preset laptop --features $features
wait $prompts || { tail -n 5 $model/prompts.log >&2; exit 2; }
cat $model/prompts.log

cat <<END

Done in $(((SECONDS - started) / 60)) min $(((SECONDS - started) % 60)) s. Where things lie:
  samples of the prompts    $model/prompts/grid.png  (a row per line of data/scenes/prompts.txt)
  reconstructions           $first/reconstructions.png
  loss curves               $first/curves.png
                            $model/curves.png
  metrics                   $first/metrics.json
                            $model/prompts/metrics.json
                            $model/held-out/metrics.json
  checkpoints               $runs/quickstart-*/checkpoints/{last,best}.ckpt
  resolved configs          $runs/quickstart-*/config.yaml
Next: your own prompts    .venv/bin/python scripts/txt2img.py $model --prompt "a purple cross" --guidance 3
      your own images     README.md, "Train on your own folder of images"
      real pictures       bash scripts/quickstart.sh emoji
END

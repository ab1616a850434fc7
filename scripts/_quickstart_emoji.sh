# The second act of scripts/quickstart.sh, which sources this file: text to image on real pictures,
# 3,786 emoji with captions (docs/emoji.md). What is complete is reused, what was stopped goes on.
#   bash scripts/quickstart.sh emoji            the pictures of data/emoji, else those of npm
#   bash scripts/quickstart.sh emoji PICTURES   a package, shards or a folder with captions
pictures=${1:-}
runs=runs
data=data/emoji
model=$runs/emoji-text2img
started=$SECONDS
say() { printf '\n[%s] %s\n' "$1" "$2"; }

say 1/5 "Pictures: pack them into shards, and hold 5 % of what they show out"
if [ -z "$pictures" ] && [ ! -e $data/pictures.json ]; then
    package=emoji-datasource-google-16.0.0.tgz
    pictures=$runs/$package
    if [ ! -e "$pictures" ] && ! command -v npm >/dev/null; then
        cat >&2 <<END
error: $data holds no pictures, and there is no npm to fetch them. On a computer with npm
  npm pack emoji-datasource-google@16.0.0
writes $package (74 MB). Name it here: bash scripts/quickstart.sh emoji THE_FILE
Any folder of pictures with captions will do as well: docs/emoji.md
END
        exit 2
    elif [ ! -e "$pictures" ]; then
        mkdir -p $runs/npm
        (cd $runs/npm && npm pack --silent emoji-datasource-google@16.0.0) || {
            echo "error: npm could not fetch $package; docs/emoji.md says how else to get it" >&2
            exit 2
        }
        mv "$runs/npm/$package" "$pictures"
    fi
fi
[ -z "$pictures" ] || python scripts/pack_pictures.py "$pictures" --out $data
classes=$(($(wc -l <$data/classes.txt))) # macOS puts spaces before the number
words=$(($(wc -l <$data/vocab.txt)))
held_out=$(python -c 'import json; print(json.load(open("data/emoji/held-out/sizes.json"))["all.tar"])')
settings="vocab_size=$((words > 2048 ? words : 2048))"
judge=""  # pictures without classes have none
if [ "$classes" -gt 0 ]; then
    settings="$settings num_classes=$classes"
    judge="--features $runs/emoji-features"
else
    settings="$settings classes=null"
fi

say 2/5 "Stage 1: train a KL autoencoder that squeezes 64x64 pictures into 16x16 latents (and, beside
      it, a small network that tells $classes kinds of pictures apart: it will judge the samples)"
one_core="env OMP_NUM_THREADS=1"  # crops of 32 pixels gain nothing from a second core
if python -c 'import sys, torch; sys.exit(not torch.cuda.is_available())'; then one_core=""; fi
mkdir -p $runs
if [ -n "$judge" ]; then
    $one_core python scripts/train.py configs/emoji/features.yaml num_classes="$classes" \
        --if-exists resume >$runs/emoji-features.log 2>&1 &
    features=$!
    trap 'kill $features 2>/dev/null || true' EXIT
fi
$one_core python scripts/train.py configs/emoji/autoencoder.yaml --if-exists resume
if [ -n "$judge" ]; then
    wait $features || { tail -n 5 $runs/emoji-features.log >&2; exit 2; }
    trap - EXIT
fi

say 3/5 "Stage 2: encode all pictures once, then train a UNet on latents that the caption guides"
# shellcheck disable=SC2086
python scripts/cache_latents.py configs/emoji/text2img.yaml $settings --out $runs/emoji-latents
# shellcheck disable=SC2086
python scripts/train.py configs/emoji/text2img.yaml $runs/emoji-latents/data.yaml $settings \
    --if-exists resume

say 4/5 "Sample: prompts, captions of training, captions that were held out, and a film"
how="--steps 20 --guidance 3"
for names in seen new; do
    # shellcheck disable=SC2086
    python scripts/txt2img.py $model --prompts configs/emoji/$names.txt --per-prompt 8 $how \
        --out $model/$names
done
# shellcheck disable=SC2086
python scripts/txt2img.py $model --train-captions 256 --per-prompt 1 $how --seed 1000 \
    --out $model/train-captions
# shellcheck disable=SC2086
python scripts/txt2img.py $model --validation-captions "$held_out" --per-prompt 1 $how --seed 2000 \
    --out $model/held-out-captions
# shellcheck disable=SC2086
python scripts/walk.py $model --prompts configs/emoji/seen.txt --frames 8 --loop --fixed-noise $how \
    --out $model/walk

say 5/5 "Evaluate both stages and the samples"
# shellcheck disable=SC2086
python scripts/evaluate_autoencoder.py $runs/emoji-autoencoder $judge
if [ -n "$judge" ]; then
    how="$judge --metrics fd,precision_recall,class_accuracy"
    for samples in train-captions held-out-captions; do
        # shellcheck disable=SC2086
        python scripts/evaluate.py $model/$samples --real "$data/train/*.tar" $how
    done
    echo "For comparison, the held-out pictures themselves:"
    # shellcheck disable=SC2086
    python scripts/evaluate.py $data/held-out/all.tar --real "$data/train/*.tar" $how \
        --out $model/held-out-pictures.json
fi

cat <<END

Done in $(((SECONDS - started) / 60)) min $(((SECONDS - started) % 60)) s. Where things lie:
  samples of the prompts    $model/seen/grid.png  (a row per line of configs/emoji/seen.txt)
  of prompts never seen     $model/new/grid.png   (configs/emoji/new.txt)
  a film through prompts    $model/walk/walk.gif
  reconstructions           $runs/emoji-autoencoder/reconstructions.png
  metrics                   $runs/emoji-autoencoder/metrics.json
                            $model/{train-captions,held-out-captions}/metrics.json
                            $model/held-out-pictures.json
Next: your own prompts    .venv/bin/python scripts/txt2img.py $model --prompt "purple apple" --guidance 3
END

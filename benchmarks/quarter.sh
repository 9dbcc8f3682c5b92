#!/usr/bin/env bash
# What a borrowed machine does in its quarter of an hour, call by call; quarter.py makes the calls up and prints them.
#
#   quarter.sh first RECIPE               takes a part of what was carried in; measures both stages and the device
#   quarter.sh more                       takes another part
#   quarter.sh last RECIPE ARMS SECONDS [--NAME VALUE ...]
#                                         takes the rest; trains and tests in that time; packs what goes home into $OUT
set -uo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
place=${QUARTER_PLACE:-/tmp/quarter} # outlives the calls, and holds all that they share
smoke=${QUARTER_SMOKE:-90}           # seconds that the first call waits for compiled paces
grace=${QUARTER_GRACE:-20}           # seconds past its promise after which a run is stopped; then it saves

mkdir -p "$place/code"
cp -r .quarter/[0-9]*/. "$place/"
cp -r src benchmarks recipes pyproject.toml "$place/code/"
if compgen -G "$place/wheels/*.whl" >/dev/null; then
    python3 -m pip install -q --no-index --no-deps --no-compile --no-cache-dir --disable-pip-version-check \
        --root-user-action=ignore --upgrade --target "$place/site" "$place"/wheels/*.whl && rm -r "$place/wheels"
fi
export PYTHONPATH="$place/site" PYTHONUNBUFFERED=1 POCKETVIT_CACHE="$place/cache" POCKETVIT_COMMIT
export TORCHINDUCTOR_CACHE_DIR="$place/inductor" TORCHINDUCTOR_FX_GRAPH_CACHE=1
POCKETVIT_COMMIT=$(cat "$place/COMMIT")
cd "$place" || exit

wait_for_paces() {
    until [ "$SECONDS" -ge "$1" ] || [ "$(grep -ls cold_seconds pace/*.json | wc -l)" -eq 2 ]; do sleep 0.5; done
}

case $1 in
first)
    for part in device pretrain finetune; do
        # In a session of their own: they go on when this call is over.
        setsid nohup python3 code/benchmarks/pace.py "$2" "$part" >"pace-$part.log" 2>&1 &
    done
    wait_for_paces "$smoke"
    cat pace-*.log
    ;;
more) ;;
last)
    wait_for_paces 15
    pkill -KILL -f code/benchmarks/pace.py && sleep 1 # a training stops gently, in its own time
    timeout -k 15 $(($4 - SECONDS + grace)) python3 code/benchmarks/reproduce.py "$2" --arms "$3" --pace pace \
        --time-limit "$(($4 - SECONDS))s" "${@:5}" 2>&1 | tee -a run.log
    # One archive, in parts that each come home; the checkpoint before the newest does not.
    tar -cf - --exclude='*-before.safetensors' runs pace ./*.log | split -b 15M -d - "$OUT/run.tar."
    ls -l "$OUT"
    ;;
esac

#!/usr/bin/env bash
# Publishes a checkpoint in steps: a canary that answers a share of the requests, a watch over its figures, greater shares, everybody.
# Nobody is asked: it goes on while the canary is no worse than what is active, and aborts it otherwise, or on Ctrl-C.
#
#   deploy/staged-rollout.sh MODEL PATH… [-- OPTIONS OF genlock publish]
#
#   STEPS="5% 25% 50%"   shares in turn, then all            STEP_S=300     seconds of each
#   REQUESTS=200         answers of the canary in each step, or it stays for as long again; without them it is aborted
#   ERRORS=0.01          how much greater its share of errors may be           LATENCY=1.25   … and its p95, as a factor
#   LOOK_S=5             seconds between two looks           GENLOCK="docker compose run --rm -T -v … operator"
#
# `genlock publish --canary … --policy …` does the same inside the fleet, without a process that has to live; this is for who wants a step of
# his own in between. The exit status is that of genlock; 3: aborted, because the figures were worse, or decided against; 130: aborted by
# Ctrl-C. A canary that cannot be promoted is aborted, too; not after 4: it may have been.
set -euo pipefail

read -r -a genlock <<< "${GENLOCK:-genlock}"
# Not from our stdin: what is typed is for this script.
run() { "${genlock[@]}" "$@" < /dev/null; }
read -r -a steps <<< "${STEPS:-5% 25% 50%}"
step_s=${STEP_S:-300} look_s=${LOOK_S:-5} requests=${REQUESTS:-200} errors=${ERRORS:-0.01} latency=${LATENCY:-1.25}

if [[ $# -lt 2 || $1 == -* ]]; then
    sed -n '2,/^set/s/^# \{0,1\}//p' "$0" >&2
    exit 2
fi
model=$1
shift
paths=()
while [[ $# -gt 0 && $1 != -- ]]; do paths+=("$1") && shift; done
[[ $# -eq 0 ]] || shift

say() { echo "$(date +%H:%M:%S) $*"; }

# What there is to say of the candidate, from `genlock status MODEL --json`: a word, and its figures.
#   gone  somebody else has ended it    thin  too few answers yet    worse  more errors than what is active    slow  slower    fine
judge() {
    local status
    status=$(run status "$model" --json) || { echo "thin the fleet cannot be asked"; return; }
    python3 -c '
import json, sys

wanted, most_errors, most_latency = int(sys.argv[2]), float(sys.argv[3]), float(sys.argv[4])
candidate = json.load(sys.stdin).get("candidate") or {}
if str(candidate.get("generation")) != sys.argv[1]:
    print("gone")
    sys.exit()
figures = candidate.get("figures") or {}
nothing = {"requests": 0, "errors": 0, "p95_s": None}
new, old = figures.get("candidate") or nothing, figures.get("active") or nothing
share = lambda of: of["errors"] / of["requests"] if of["requests"] else 0.0
seconds = lambda of: "%.4f" % of["p95_s"] if of["p95_s"] else "?"
slower = new["p95_s"] and old["p95_s"] and new["p95_s"] > most_latency * old["p95_s"]
enough = new["requests"] >= wanted
failing = new["requests"] >= min(wanted, 20) and share(new) > share(old) + most_errors
told = "%d requests, errors %.2f %% (active %.2f %%), p95 %s s (active %s s)"
values = new["requests"], 100 * share(new), 100 * share(old), seconds(new), seconds(old)
print("worse" if failing else "thin" if not enough else "slow" if slower else "fine", told % values)
' "$generation" "$requests" "$errors" "$latency" <<< "$status"
}

abort() {
    say "aborting generation $generation: $1"
    run abort "$model" --generation "$generation" --message "staged rollout: $1" || say "it could not be aborted; see genlock status $model"
}

# promote [--share SHARE]: the canary answers more of the requests, or all; where it cannot, this ends with the status of genlock.
promote() {
    local status=0 told
    told=$(run promote "$model" --generation "$generation" "$@") || status=$?
    [[ -z $told ]] || echo "$told"
    case $status in
        0) return ;;
        3) say "generation $generation was decided against; see genlock history $model" ;;
        4) say "it is not known whether it was promoted, so it is not aborted: see genlock status $model; genlock abort $model ends a canary" ;;
        *) abort "it could not be promoted" ;;
    esac
    exit "$status"
}

generation=
interrupted() {
    trap '' INT TERM
    [[ -z $generation ]] || abort "interrupted"
    exit 130
}
stopped=
trap 'stopped=1' INT TERM # until it is known which generation there would be to abort

# Should this process be killed, the fleet ends the canary by itself, not long after its step would have ended.
say "publishing a canary of $model for ${steps[0]} of the requests"
answer=$(run publish "$model" "${paths[@]}" --canary "${steps[0]}" \
    --canary-timeout "$((2 * step_s + 60))s" --json "$@") || {
    status=$?
    echo "$answer"
    [[ -z $stopped ]] || say "interrupted; should genlock status $model show a canary of this, genlock abort $model ends it"
    exit "$status"
}
read -r outcome generation <<< "$(python3 -c 'import json, sys; flip = json.load(sys.stdin); print(flip["outcome"], flip["generation"])' <<< "$answer")"
[[ -z $stopped ]] || interrupted
trap interrupted INT TERM
if [[ $outcome != canary ]]; then
    say "generation $generation is $outcome without a canary: no worker held the model"
    exit 0
fi

for step in "${!steps[@]}"; do
    if ((step)); then
        say "promoting generation $generation to ${steps[step]}"
        promote --share "${steps[step]}"
    fi
    end=$((SECONDS + step_s)) last=$((SECONDS + 2 * step_s))
    while :; do
        read -r word told <<< "$(judge)"
        case $word in
            gone) say "generation $generation is no candidate any more; see genlock history $model" && exit 3 ;;
            worse) abort "$told" && exit 3 ;;
            # Its first answers may be: only a whole step counts.
            slow) ((SECONDS < end)) || { abort "$told" && exit 3; } ;;
            fine) ((SECONDS < end)) || break ;;
            thin) ((SECONDS < last)) || { abort "too few answers to judge: $told" && exit 3; } ;;
        esac
        # In the background and waited for, so that a signal is heard at once.
        sleep "$look_s" &
        wait $! || true
    done
    say "${steps[step]}: $told"
done

say "promoting generation $generation to everybody"
trap - INT TERM
promote

#!/usr/bin/env bash
# Takes a model back, and shows that the fleet follows: what is active, where it would go, the rollback, what is active then.
#
#   deploy/rollback.sh MODEL [--to GENERATION] [-m WHY] [--no-pin] [--yes]
#
# Without --yes it asks. The model stays pinned, so that the training job's next checkpoint does not undo it; `genlock unpin MODEL` ends that.
# In containers: GENLOCK="docker compose run --rm -T operator" deploy/rollback.sh …. The exit status is that of genlock; 130: not confirmed.
set -euo pipefail

# Words, because it may be a command with arguments.
read -r -a genlock <<< "${GENLOCK:-genlock}"
# Not from our stdin: what is typed is for this script.
run() { "${genlock[@]}" "$@" < /dev/null; }

usage() {
    sed -n '2,/^set/s/^# \{0,1\}//p' "$0"
    exit "$1"
}

# The active generation of a document of `genlock status MODEL --json`, and the way back: two words.
generations() {
    python3 -c 'import json, sys; found = json.load(sys.stdin); print(found["generation"], found.get("way_back") or "-")'
}

[[ $# -ge 1 && $1 != -* ]] || usage 2
model=$1
shift
yes='' to='' options=()
while [[ $# -gt 0 ]]; do
    case $1 in
        --to) to=${2:?--to needs a generation} && options+=(--to "$2") && shift 2 ;;
        -m | --message) options+=(--message "${2:?$1 needs a text}") && shift 2 ;;
        --no-pin) options+=(--no-pin) && shift ;;
        -y | --yes) yes=1 && shift ;;
        -h | --help) usage 0 ;;
        *) echo "rollback.sh: what is $1?" >&2 && usage 2 ;;
    esac
done

status=$(run status "$model" --json)
read -r active way_back <<< "$(generations <<< "$status")"
run history "$model"
echo
if [[ -z $yes ]]; then
    answer=
    read -r -p "$model: from generation $active back to what ${to:-$way_back} was? [y/N] " answer || true
    [[ $answer == [yY]* ]] || { echo "nothing was changed" >&2; exit 130; }
fi
run rollback "$model" ${options[@]+"${options[@]}"}
run status "$model"

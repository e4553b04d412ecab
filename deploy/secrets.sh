#!/usr/bin/env bash
# Passwords and tokens of a fleet in containers, made by chance: the users of Redis into .env and, as hashes, into deploy/secrets/users.acl;
# tokens of the admin and the password of Grafana beside that. What exists is kept, so it may be run again: users.acl is written
# afresh from .env, which is how a changed password, or another GENLOCK_FLEET, comes into it.
#
#   deploy/secrets.sh [FOLDER]        FOLDER: that of docker-compose.yml; unset: the one above this script
set -euo pipefail
umask 027

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
root=$(cd "${1:-$here/..}" && pwd)
env_file=$root/.env secrets=$root/deploy/secrets

random() { head -c 24 /dev/urandom | od -An -tx1 | tr -d ' \n'; }

# Adds NAME=VALUE to .env unless NAME stands there.
setting() {
    grep -qs "^$1=" "$env_file" || printf '%s=%s\n' "$1" "$2" >> "$env_file"
}

# Writes stdin to a file of deploy/secrets unless it is there.
secret() {
    if [[ -e $secrets/$1 ]]; then cat > /dev/null; else cat > "$secrets/$1"; fi
}

mkdir -p "$secrets"
setting REDIS_WORKER_PASSWORD "$(random)"
setting REDIS_ADMIN_PASSWORD "$(random)"
setting REDIS_METRICS_PASSWORD "$(random)"
# Containers read the files of deploy/secrets as members of this group, and nobody else but you does.
setting SECRETS_GID "$(id -g)"
chmod 600 "$env_file"

secret admin-tokens <<< "operator:$(random)
viewer:$(random)"
secret grafana-password <<< "$(random)"

# In a shell of its own: what stands in .env is nobody else's.
(
    set -a
    # shellcheck disable=SC1090
    . "$env_file"
    "$here/redis/acl.sh"
) > "$secrets/users.acl.new"
mv "$secrets/users.acl.new" "$secrets/users.acl"
chmod 640 "$secrets"/*

echo "$env_file and $secrets are ready; the admin's tokens are in $secrets/admin-tokens"

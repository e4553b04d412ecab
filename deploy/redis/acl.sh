#!/bin/sh
# Prints the ACL file of a fleet's Redis: the template users.acl beside this script, with the fleet's name and the SHA-256 of each password.
# No password is written anywhere.
#
#   REDIS_WORKER_PASSWORD=… REDIS_ADMIN_PASSWORD=… REDIS_METRICS_PASSWORD=… GENLOCK_FLEET=prod deploy/redis/acl.sh > users.acl
set -eu

hash_of() {
    # A password stands in URLs, too: letters and digits need no escape there.
    case $2 in
        *[!A-Za-z0-9._-]*) echo "acl.sh: $1 has something other than A-Z a-z 0-9 . _ -" >&2; return 1 ;;
    esac
    if [ ${#2} -lt 16 ]; then
        echo "acl.sh: $1 has fewer than 16 characters: its hash would be guessed (openssl rand -hex 24)" >&2
        return 1
    fi
    printf %s "$2" | sha256sum | cut -d ' ' -f 1
}

fleet=${GENLOCK_FLEET:-default}
case $fleet in
    '' | *[!A-Za-z0-9._-]*) echo "acl.sh: GENLOCK_FLEET=$fleet is no name of a fleet" >&2; exit 1 ;;
esac
worker=$(hash_of REDIS_WORKER_PASSWORD "${REDIS_WORKER_PASSWORD:?}")
admin=$(hash_of REDIS_ADMIN_PASSWORD "${REDIS_ADMIN_PASSWORD:?}")
metrics=$(hash_of REDIS_METRICS_PASSWORD "${REDIS_METRICS_PASSWORD:?}")

sed "/^#/d; s/@FLEET@/$fleet/g; s/@WORKER@/$worker/; s/@ADMIN@/$admin/; s/@METRICS@/$metrics/" "$(dirname "$0")/users.acl" |
    awk '/^user / { if (line) print line; line = $0; next } NF { $1 = $1; line = line " " $0 } END { print line }'

#!/bin/sh
# Run raycls with secrets that come as files: /run/secrets/RAYCLS_TOKEN fills the variable RAYCLS_TOKEN.
# The first word may be another program of the image, like mlflow or ray.
set -eu
for file in /run/secrets/[A-Z]*; do
    [ -f "$file" ] || continue
    value=$(cat "$file") || exit 1
    export "$(basename "$file")=$value"
done
case "${1:-}" in
    mlflow | ray | serve | python | sh) exec "$@" ;;
    *) exec raycls "$@" ;;
esac

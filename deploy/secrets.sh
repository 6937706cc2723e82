#!/bin/sh
# Make the secrets of compose.yaml, in a folder that only its owner can enter; the users of the containers can read the
# files that they are given. What is there already stays.
set -eu
cd "$(dirname "$0")"
mkdir -p secrets && chmod 700 secrets
random() { od -An -N24 -tx1 /dev/urandom | tr -d ' \n'; }
keep() { [ -s "secrets/$1" ] || { printf %s "$2" > "secrets/$1" && chmod 444 "secrets/$1"; }; }

keep RAYCLS_TOKEN "$(random)" # of the role `predict`: clients and Prometheus send it
keep POSTGRES_PASSWORD "$(random)"
keep GRAFANA_PASSWORD "$(random)"
keep AWS_ACCESS_KEY_ID "$(random)"
keep AWS_SECRET_ACCESS_KEY "$(random)"

password=$(cat secrets/POSTGRES_PASSWORD)
keep RAYCLS_STUDIES "postgresql+psycopg://raycls:$password@postgres/studies"
keep MLFLOW_BACKEND_STORE_URI "postgresql+psycopg://raycls:$password@postgres/mlflow"
key=$(cat secrets/AWS_ACCESS_KEY_ID) secret=$(cat secrets/AWS_SECRET_ACCESS_KEY)
keep S3_CONFIG "{\"identities\": [{\"name\": \"raycls\", \"actions\": [\"Admin\", \"Read\", \"List\", \"Tagging\", \"Write\"],
  \"credentials\": [{\"accessKey\": \"$key\", \"secretKey\": \"$secret\"}]}]}"
echo "secrets are in $(pwd)/secrets; clients send RAYCLS_TOKEN"

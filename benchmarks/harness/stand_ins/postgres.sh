#!/bin/sh
# What PostgreSQL's own image does when it starts: make the database once, run the scripts of a folder, and serve.
set -eu
bin=$(ls -d /usr/lib/postgresql/*/bin)
install -d -o postgres /var/run/postgresql
mkdir -p "$PGDATA" && chown -R postgres "$PGDATA"
if [ ! -s "$PGDATA/PG_VERSION" ]; then
    install -o postgres -m 600 "$POSTGRES_PASSWORD_FILE" /tmp/password
    setpriv --reuid postgres --clear-groups "$bin/initdb" -D "$PGDATA" -U "$POSTGRES_USER" -E UTF8 -A scram-sha-256 --pwfile /tmp/password
    echo "host all all all scram-sha-256" >> "$PGDATA/pg_hba.conf"
    setpriv --reuid postgres --clear-groups "$bin/pg_ctl" -D "$PGDATA" -w start
    for file in /docker-entrypoint-initdb.d/*.sql; do
        PGPASSWORD=$(cat "$POSTGRES_PASSWORD_FILE") psql -h /var/run/postgresql -U "$POSTGRES_USER" -d postgres -f "$file"
    done
    setpriv --reuid postgres --clear-groups "$bin/pg_ctl" -D "$PGDATA" -w stop
fi
exec setpriv --reuid postgres --clear-groups "$bin/postgres" -D "$PGDATA" -c listen_addresses='*'

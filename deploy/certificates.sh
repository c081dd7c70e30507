#!/bin/sh
# Makes what TLS needs for a trial: a certificate of the coordinator, signed by an authority made for
# this alone, whose key is thrown away. For anything else use the certificates you have.
#
# Usage: certificates.sh FOLDER_OF_THE_COORDINATOR FOLDER_OF_EVERYBODY NAME
set -eu
server=$1
authority=$2
name=$3

if [ -f "$server/server.pem" ] && [ -f "$authority/ca.pem" ]; then
    exit
fi
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
umask 077

new="-newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -noenc -days 365"
# shellcheck disable=SC2086 # a list of options
openssl req -x509 $new -subj "/CN=Cloister trial authority" \
    -addext "basicConstraints=critical,CA:TRUE" -addext "keyUsage=critical,keyCertSign" \
    -keyout "$work/ca-key.pem" -out "$work/ca.pem" 2>/dev/null
# shellcheck disable=SC2086
openssl req -x509 $new -subj "/CN=$name" -CA "$work/ca.pem" -CAkey "$work/ca-key.pem" \
    -addext "basicConstraints=critical,CA:FALSE" \
    -addext "subjectAltName=DNS:$name,DNS:localhost,IP:127.0.0.1" \
    -keyout "$work/server-key.pem" -out "$work/server.pem" 2>/dev/null

cp "$work/server.pem" "$work/server-key.pem" "$server"
cp "$work/ca.pem" "$authority"
chmod 644 "$authority/ca.pem"

#!/bin/sh
# Print the documents of a shape, then its changes, one a line. Started again, it continues where it was.
#   follow.sh SHAPE [FILE]     FILE keeps the position; EVENTSYNC_URL is the server's address
set -eu
url=${EVENTSYNC_URL:-http://127.0.0.1:8000} shape=$1 file=${2:-$1.position}

# The answer goes to a file, its status to the output. An answer that is cut off has another status, such as 20018.
ask() {
    curl -sS -o "$file.answer" -w '%{http_code}' --get --data-urlencode "shape=$shape" "$@" || printf '%s' "$?"
}

while :; do
    if [ -s "$file" ]; then
        status=$(ask --data-urlencode "position=$(cat "$file")" --data-urlencode wait=25 "$url/v1/sync/log")
        lines='.events[] | [.op, .id, .patch // .doc]' position='.to'
    else
        status=$(ask "$url/v1/sync/snapshot")
        lines='select(.id) | ["document", .id, .doc]' position='.position // empty'
    fi
    case $status in
    200)
        jq -c "$lines" "$file.answer"
        jq -r "$position" "$file.answer" >"$file.next" && mv "$file.next" "$file"
        ;;
    409) rm -f "$file" ;; # nothing leads on from the position: begin with the documents again
    *) sleep 1 ;;
    esac
done

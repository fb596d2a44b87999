#!/bin/bash
# The workload of scripts/test-journey, in a container that has bash, curl and sleep. Two jobs call the provider at
# the address that the chart gave them: `search` steadily, `batch` more and more often, by a tenth of a call a
# second each second, until it is refused. Then it tries once more on the same way, and stops, as the stop rule wants.
set -u
# Process 1 ends only by what it asks for.
trap 'exit 0' TERM
# A thousand tokens, at four characters each.
printf -v prompt '%3900s'
prompt=${prompt// /x}
body='{"model":"claude-opus-5-5","max_tokens":16,"stream":true,"messages":[{"role":"user","content":"'$prompt'"}]}'

# Each job has a key of its own, so the provider has a bucket for each.
call() {
  curl -s -o /dev/null -w '%{http_code}' --max-time 20 -H "x-api-key: $ANTHROPIC_API_KEY-$1" \
    -H 'anthropic-version: 2023-06-01' -H 'content-type: application/json' -d "$body" "$2/v1/messages"
}
search() { echo "search $(call search "$ANTHROPIC_BASE_URL")"; }
batch() { call batch "$ANTHROPIC_BASE_URL/batch"; }
batch_until_refused() {
  local status
  status=$(batch)
  echo "batch $status"
  if [ "$status" = 429 ]; then
    : >/tmp/refused
    echo "batch $(batch), again"
  fi
}

while :; do
  search &
  sleep 2
done &
started=${EPOCHREALTIME/./}
while [ ! -e /tmp/refused ]; do
  batch_until_refused &
  # Calls in a thousand seconds: 1,000 at the start, 100 more with each second.
  pause=$((1000000 / (1000 + (${EPOCHREALTIME/./} - started) / 10000)))
  printf -v seconds '%d.%03d' $((pause / 1000)) $((pause % 1000))
  sleep "$seconds"
done
wait

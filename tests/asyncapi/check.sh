#!/usr/bin/env bash
# The document of a kernel with all example plugins, judged by @asyncapi/parser: tests/asyncapi/check.sh
# Wants node and npm (Debian: apt-get install nodejs npm); installs the parser into a folder of its own.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
python=${PYTHON:-$here/../../.venv/bin/python}
work=$(mktemp -d)
trap 'kill "${kernel:-}" 2>/dev/null || true; rm -rf "$work"' EXIT

cp "$here/check.mjs" "$work/"
(cd "$work" && npm install --no-fund --no-audit --silent @asyncapi/parser@3.6.3)

(cd "$work" && PLUGBUS_STATE_DIR="$work/state" exec "$python" -c 'import plugbus; plugbus.main()' demo --port 0) \
  >"$work/log" 2>&1 &
kernel=$!
for _ in $(seq 100); do
  [ -s "$work/state/endpoint.json" ] && break
  sleep 0.1
done
url=$("$python" -c 'import json, sys; print(json.load(open(sys.argv[1]))["url"])' "$work/state/endpoint.json")
token=$(cat "$work/state/token")
"$python" - "$url" "$token" "$work/asyncapi.json" <<'PYTHON'
import sys

import httpx

url, token, file = sys.argv[1:]
answer = httpx.get(f"{url}/asyncapi.json", headers={"Authorization": f"Bearer {token}"}, trust_env=False)
open(file, "w").write(answer.raise_for_status().text)
PYTHON
(cd "$work" && node check.mjs asyncapi.json)

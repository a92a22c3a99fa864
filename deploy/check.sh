#!/usr/bin/env bash
# Follows README.md with real containers: builds, starts, scales, kills a kernel with SIGKILL while webhooks come
# in, looks for a trace, upgrades, restores a backup, and takes all of it away again.
#
#   deploy/check.sh            a running Docker Engine is used; without one, root gets one that ends with the check
#
# Exit codes: 0 OK, 1 FAILED, 3 it cannot run here (the last line says why), 130 or 143 interrupted.
#
# It works on a copy, in a Compose project of its own, on free ports. With an engine that runs already, images are
# pulled. One that is started here has a network, a process and a mount namespace of its own, so that nothing of it
# is left behind: it reaches nobody, and the images are made from Debian's packages. Packages that have to be
# installed for that are removed at the end.
set -euo pipefail

DEADLINE=300     # seconds for one step
WEBHOOKS=120
root=$(cd "$(dirname "$0")/.." && pwd)
begun=$SECONDS
work='' daemon='' installed='' policy='' group='' job='' inside=()

say() { printf '%4d s  %s\n' $((SECONDS - begun)) "$*"; }
fail() { say "FAILED: $*" && exit 1; }
cannot() { say "cannot run here: $*" && exit 3; }

# --- the end, however it comes ---------------------------------------------------------------------------

clean_up() {
  code=$?
  trap '' INT TERM
  set +e
  # What it was doing is told to end, and waited for: some of it cleans up itself.
  [ -n "$job" ] && kill "$job" 2>/dev/null && wait "$job" 2>/dev/null
  if [ -n "$work" ]; then
    if [ -e "$work/source/deploy/.env" ]; then
      [ $code = 1 ] && (cd "$work/source/deploy" && docker compose logs --no-color --tail 12) >>"$work/log" 2>&1
      [ $code = 1 ] && { echo '--- the end of the log:' && tail -n 40 "$work/log"; } >&2
      (cd "$work/source/deploy" && timeout 120 docker compose down -v --remove-orphans --timeout 5) >>"$work/log" 2>&1
    fi
    if [ -n "$daemon" ]; then
      kill -KILL "$daemon" 2>/dev/null && wait "$daemon" 2>/dev/null
      timeout 10 bash -c "while find /sys/fs/cgroup -depth -type d -path '*/$group*' -exec rmdir {} + 2>&1 |
        grep -q busy; do sleep 0.1; done"
    else
      remove_volumes
      docker image rm -f "plugbus-check/kernel:$$" "plugbus-check/base:$$" "plugbus-check/otlp:$$" >/dev/null 2>&1
    fi
    # Containers of an engine of our own end with its process namespace, at once but not before this line.
    for _ in $(seq 100); do
      rm -rf "$work" 2>/dev/null && break
      sleep 0.1
    done
  fi
  if [ -n "$installed" ]; then
    # shellcheck disable=SC2086 # a list of words
    DEBIAN_FRONTEND=noninteractive apt-get purge -y -qq $installed >/dev/null 2>&1
  fi
  [ -n "$policy" ] && rm -f "$policy"
  case $code in
    0) say OK ;;
    1) say FAILED ;;
    130 | 143) say 'interrupted; nothing is left behind' ;;
  esac
  exit $code
}
trap clean_up EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

# --- what the steps are made of --------------------------------------------------------------------------

# In the background, and waited for: so an interruption is heard at once, whatever is going on.
aside() {
  local code=0
  "$@" </dev/null >"$work/out" 2>&1 &
  job=$!
  wait "$job" || code=$?
  job=''
  cat "$work/out" >>"$work/log"
  return $code
}

# Runs it in the copied folder, within the deadline; what it prints is in `out`, and in the log.
run() {
  echo "+ $1" >>"$work/log"
  aside timeout "$DEADLINE" bash -euo pipefail -c "cd '$work/source/deploy'; $1"
}

# A command of README.md, as it stands there: a test compares both.
guide() {
  run "$1" || fail "$1"
  note_volumes
}

# The state folders of kernels that are removed later: unnamed volumes, which nothing says to be ours then.
note_volumes() {
  local containers
  containers=$(docker ps -aq --filter "label=com.docker.compose.project=$COMPOSE_PROJECT_NAME")
  # shellcheck disable=SC2086 # a list of words
  [ -z "$containers" ] ||
    docker inspect -f '{{range .Mounts}}{{if eq .Type "volume"}}{{println .Name}}{{end}}{{end}}' $containers \
      >>"$work/volumes" 2>/dev/null || true
}

remove_volumes() { sort -u "$work/volumes" 2>/dev/null | grep . | xargs -r docker volume rm -f >/dev/null 2>&1; }

# Each fact is waited for, and says what it found.
until_so() {
  local end=$((SECONDS + 90))
  until run "$2"; do
    [ $SECONDS -lt $end ] || fail "$1"
    sleep 0.3
  done
}

# Asks flow.py, from where the ports of the containers are; the answer is in `out`.
flow() { aside "${inside[@]}" env TOKEN="$token" SECRET="$secret" python3 "$root/deploy/check/flow.py" "$@"; }

replicas() { docker compose ps -q kernel | wc -l; }

# Where the n-th of the kernels that run is to be reached. Their indices may have gaps.
address() { echo "http://$(docker port "$(docker compose ps -q kernel | sed -n "$1p")" 8000/tcp | head -n 1)"; }

# install COMMAND=PACKAGE…: those whose command is missing; what came with them is removed at the end.
install() {
  local wanted=() each
  for each in "$@"; do
    command -v "${each%%=*}" >/dev/null || wanted+=("${each#*=}")
  done
  [ ${#wanted[@]} -gt 0 ] || return 0
  command -v apt-get >/dev/null || cannot "${wanted[*]} are missing, and there is no apt-get"
  say "installing ${wanted[*]}, until the end"
  aside apt-get update -qq || cannot 'the lists of packages cannot be fetched'
  # Nothing that is installed for this check begins to serve by itself.
  if [ ! -e /usr/sbin/policy-rc.d ]; then
    policy=/usr/sbin/policy-rc.d
    printf '#!/bin/sh\nexit 101\n' >$policy && chmod +x $policy
  fi
  installed+=" $(apt-get install -s "${wanted[@]}" | awk '/^Inst/ {print $2}' | tr '\n' ' ')"
  aside env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq "${wanted[@]}" ||
    cannot "${wanted[*]} cannot be installed"
}

# Compose 2.20 or newer: the one that is here, else that of the next Debian, unpacked into our folder.
need_compose() {
  local version
  version=$(docker compose version --short 2>/dev/null | sed 's/^v//') || true
  [ "$(printf '%s\n' 2.20 "${version:-0}" | sort -V | head -n 1)" = 2.20 ] && return
  command -v apt-get >/dev/null || cannot 'Docker Compose 2.20 or newer is missing'
  local apt="$work/apt" mirror
  # shellcheck disable=SC2016 # apt's own words
  mirror=$(apt-get indextargets --format '$(REPO_URI) $(ORIGIN) $(LABEL)' 'Created-By: Packages' |
    awk '$2 == "Debian" && $3 == "Debian" {print $1; exit}')
  [ -n "$mirror" ] || cannot 'Docker Compose 2.20 or newer is missing, and this is no Debian'
  mkdir -p "$apt/lists/partial" "$apt/cache/archives/partial" "$work/docker/cli-plugins"
  echo "deb $mirror trixie main" >"$apt/sources.list"
  local options=(-qq -o "Dir::Etc::sourcelist=$apt/sources.list" -o Dir::Etc::sourceparts=/dev/null
    -o "Dir::State::lists=$apt/lists" -o "Dir::Cache=$apt/cache" -o APT::Sandbox::User=root)
  (cd "$apt" && apt-get "${options[@]}" update && apt-get "${options[@]}" download docker-compose) >>"$work/log" 2>&1 ||
    cannot 'Docker Compose 2.20 or newer is missing, and cannot be fetched'
  dpkg-deb -x "$apt"/docker-compose_*.deb "$apt/unpacked"
  DOCKER_HOST=${DOCKER_HOST:-$(docker context inspect --format '{{.Endpoints.docker.Host}}' 2>/dev/null || true)}
  cp "$apt/unpacked/usr/libexec/docker/cli-plugins/docker-compose" "$work/docker/cli-plugins/"
  export DOCKER_CONFIG="$work/docker" DOCKER_HOST
  docker compose version >>"$work/log" 2>&1 || cannot "the next Debian's Docker Compose does not run here"
}

start_engine() {
  [ "$(id -u)" = 0 ] || cannot 'no Docker Engine answers, and only root can start one'
  install dockerd=docker.io docker=docker.io ip=iproute2 iptables=iptables unshare=util-linux
  export DOCKER_HOST="unix://$work/engine.sock"
  group=plugbus-check-$$
  # Whatever happens to this script, the engine ends with it, and with the engine all that it has started.
  # shellcheck disable=SC2016 # expanded there
  setpriv --pdeathsig KILL unshare --net --mount --pid --fork --kill-child --mount-proc bash -c '
    ip link set lo up
    dockerd --host "unix://$0/engine.sock" --data-root "$0/data" --exec-root "$0/exec" --pidfile "$0/engine.pid" \
      --cgroup-parent "$1" --iptables=true --ip6tables=false &
    wait $!' "$work" "$group" >"$work/engine.log" 2>&1 &
  daemon=$!
  local end=$((SECONDS + 60))
  until docker info >/dev/null 2>&1; do
    if [ $SECONDS -gt $end ] || ! kill -0 "$daemon" 2>/dev/null; then
      cannot "the Docker Engine does not start: $(grep -v level=info "$work/engine.log" | tail -n 1)"
    fi
    sleep 0.2
  done
  inside=(nsenter --net --target "$(pgrep -P "$daemon")")
}

# Debian with Python and Redis, under a name that is ours, and what pip would fetch during the build.
make_base() {
  install mmdebstrap=mmdebstrap
  python3 -m venv "$work/venv" >>"$work/log" 2>&1 || cannot 'python3 has no venv (python3-venv)'
  local wanted
  wanted=$(cd "$root" && "$work/venv/bin/python" -c '
import tomllib
read = tomllib.load(open("pyproject.toml", "rb"))
extras = read["project"]["optional-dependencies"]
names = [*read["project"]["dependencies"], *extras["redis"], *extras["otlp"], *read["build-system"]["requires"]]
names.append("async-timeout")  # redis wants it below 3.11.3, which Debian 12 has; pip goes by the Python that runs it
print("\n".join(names))')
  echo "$wanted" >"$work/wanted"
  aside "$work/venv/bin/pip" download -q --only-binary=:all: --python-version 3.11 -d "$work/wheels" \
    -r "$work/wanted" || cannot 'the Python packages cannot be fetched'
  # shellcheck disable=SC2016 # expanded there
  aside mmdebstrap --quiet --variant=minbase --include=python3,python3-venv,python3-pip,redis-server,wget \
    --customize-hook='mkdir "$1/data" && chroot "$1" chown redis:redis /data' \
    --customize-hook="copy-in '$work/wheels' /" \
    --customize-hook="printf '[global]\nno-index = true\nfind-links = /wheels\n' >\"\$1/etc/pip.conf\"" \
    bookworm "$work/base.tar" || cannot "Debian's packages cannot be fetched"
  aside docker import --change 'WORKDIR /data' "$work/base.tar" "plugbus-check/base:$$" || cannot 'the engine takes no image'
  rm -f "$work/base.tar"
  printf '%s\n' "PYTHON_IMAGE=plugbus-check/base:$$" "REDIS_IMAGE=plugbus-check/base:$$" >"$work/images"
}

can_pull() {
  local image
  for image in $(cd "$work/source/deploy" && PLUGBUS_TOKEN=x docker compose config --images | grep -v plugbus) "$1"; do
    docker image inspect "$image" >/dev/null 2>&1 || aside timeout "$DEADLINE" docker pull -q "$image" || return 1
  done
}

# --- the steps -------------------------------------------------------------------------------------------

[ $# = 0 ] || { sed -nE '2,/^set /s/^# ?//p' "$0" && exit 2; }
for each in python3 openssl tar; do command -v "$each" >/dev/null || cannot "$each is missing"; done
work=$(mktemp -d /tmp/plugbus-check.XXXXXX)
export COMPOSE_PROJECT_NAME=plugbus-check-$$

# What is set here, for a system that is in earnest, must not have its say.
while read -r name; do unset "$name"; done < <(sed -nE 's/^#?([A-Z_]+)=.*/\1/p' "$root/deploy/.env.example")
mkdir -p "$work/source/tests/data"
tar -C "$root" -c --exclude .venv --exclude __pycache__ --exclude .env --exclude compose.override.yaml \
  --exclude secrets README.md LICENSE pyproject.toml plugbus.py plugbus-stubs contracts bus kernel plugins deploy |
  tar -x -C "$work/source"

if docker info >/dev/null 2>&1; then
  need_compose
  say "an engine runs: $(docker version --format '{{.Server.Version}}'), Compose $(docker compose version --short)"
else
  start_engine
  need_compose
  say "engine of our own: $(docker version --format '{{.Server.Version}}'), Compose $(docker compose version --short)"
fi

cd "$work/source/deploy"
python_image=$(sed -nE 's/^ARG PYTHON_IMAGE=//p' Dockerfile)
is_real=no
if [ -z "$daemon" ] && can_pull "$python_image"; then
  is_real=yes
  say 'images: pulled'
else
  make_base
  say 'images: Debian 12 with its Python and its Redis, in place of the real ones'
fi

# Refused without a token, then started as the guide says.
guide 'cp .env.example .env && chmod 600 .env'
if run 'docker compose up -d --wait' || ! grep -q 'required variable PLUGBUS_TOKEN is missing' "$work/out"; then
  fail 'it starts without a token'
fi
token=$(openssl rand -hex 32)
{
  sed "s/^PLUGBUS_TOKEN=.*/PLUGBUS_TOKEN=$token/" .env.example
  [ $is_real = yes ] || cat "$work/images"
  echo "KERNEL_IMAGE=plugbus-check/kernel:$$"
  printf '%s\n' KERNEL_PORTS=0 JAEGER_PORT=0
} >.env
mkdir -p app/my_plugins && cp check/tally.py app/my_plugins/
DEADLINE=900 guide 'docker compose up -d --wait'
say "built and started: $(replicas) kernel, Redis"
guide 'docker compose up -d --wait --scale kernel=3'
guide 'docker compose port --index 2 kernel 8000'
guide 'docker compose exec kernel plugbus doctor'
guide 'docker compose exec kernel plugbus plugin list'
grep -q 'tally.*started' "$work/out" || fail 'the plugin in app/my_plugins does not run'
say "scaled: $(replicas) kernels are healthy, doctor finds nothing wrong"

# Secrets in files, Jaeger, and two kernels.
guide 'mkdir -m 700 secrets'
guide 'openssl rand -hex 32 > secrets/plugbus-token'
guide 'openssl rand -hex 32 > secrets/webhooks-secret'
guide 'chmod 444 secrets/*'
awk '/^## / {inside = /^## Secrets/} inside && /^```/ {block = /yaml/; next} inside && block' README.md >compose.override.yaml
token=$(cat secrets/plugbus-token) secret=$(cat secrets/webhooks-secret)
{
  sed 's/^PLUGBUS_TOKEN=.*/PLUGBUS_TOKEN=in-a-file/' .env
  printf '%s\n' KERNEL_REPLICAS=2 PLUGBUS_PLUGINS__WEBHOOKS__ENABLED=true
  grep -E '^(COMPOSE_PROFILES|OTEL_EXPORTER_OTLP_ENDPOINT)=' README.md | sed 's/ *#.*//'
} >.env.new && mv .env.new .env
if [ $is_real = no ]; then
  printf 'FROM plugbus-check/kernel:%s\nCOPY otlp.py /\nENTRYPOINT ["python", "/otlp.py"]\n' $$ >"$work/Dockerfile"
  run "docker build -q -f '$work/Dockerfile' -t plugbus-check/otlp:$$ check" || fail 'the stand-in for Jaeger is not built'
  echo "JAEGER_IMAGE=plugbus-check/otlp:$$" >>.env
fi
guide 'docker compose up -d --wait'
[ "$(replicas)" = 2 ] || fail "there are $(replicas) kernels, not two"
if docker inspect "$(docker compose ps -q kernel | head -n 1)" | grep -q "$token"; then fail 'docker inspect shows the token'; fi
say "secrets in files; 2 kernels and $([ $is_real = yes ] && echo Jaeger || echo "an OTLP receiver in Jaeger's place")"

# A kernel is killed among the webhooks. Docker restarts what ends by itself, so it is killed from inside.
victim=$(docker compose ps -q kernel | tail -n 1)
kill_kernel="docker exec $victim python -c 'import os, pathlib, signal
for found in pathlib.Path(\"/proc\").glob(\"[0-9]*/stat\"):
    if found.read_text().rpartition(\")\")[2].split()[1] == \"1\" and int(found.parent.name) != os.getpid():
        os.kill(int(found.parent.name), signal.SIGKILL)' || true"
flow deliver "$work/ids" "$WEBHOOKS" "$kill_kernel" "$(address 1)" "$(address 2)" || fail 'webhooks are not confirmed'
sent=$(tail -n 1 "$work/out")
[ "$(docker inspect -f '{{.RestartCount}}' "$victim")" -gt 0 ] || until_so 'Docker does not restart the killed kernel' \
  "[ \$(docker inspect -f '{{.RestartCount}}' $victim) -gt 0 ]"
# shellcheck disable=SC2016 # expanded there
until_so 'not every confirmed webhook was handled' 'for id in $(docker compose ps -q kernel); do
    docker exec "$id" cat /var/lib/plugbus/data/tally/seen; done >../../seen
  sort -u ../../ids >../../wanted.ids; sort -u ../../seen | comm -23 ../../wanted.ids - | tee ../../lost
  [ ! -s ../../lost ]'
again=$(($(wc -l <"$work/seen") - $(sort -u "$work/seen" | wc -l)))
say "kill -9 of one kernel: $sent; all $WEBHOOKS handled, $again of them twice"

# One flow on both.
guide 'docker compose up -d --wait'
flow deliver "$work/traced" 12 true "$(address 1)" "$(address 2)" || fail 'webhooks are not confirmed'
flow crossing "$work/traced" "$(address 1)" || fail 'no trace has spans of both kernels'
read -r event trace <"$work/out"
run "docker compose exec kernel plugbus trace show $event" || fail 'plugbus trace show'
grep -q "^trace $trace" "$work/out" || fail 'plugbus trace show does not show that trace'
lines=$(grep -c ' ms ' "$work/out")
flow spans "http://$(docker compose port jaeger 16686)/api/v3/traces/$trace" "$lines" ||
  fail "the trace is not behind Jaeger's port"
say "one flow on both kernels: trace show has $lines spans of it, the backend $(cat "$work/out")"

# The upgrade, with everything built anew being the same.
# shellcheck disable=SC2016 # expanded there
guide 'old=$(docker compose ps -q kernel)
docker compose up -d --no-deps --no-recreate --wait --scale kernel=6 kernel
for id in $old; do docker stop "$id" && docker rm "$id"; done
docker compose up -d --no-deps --no-recreate --scale kernel=3 kernel'
[ "$(replicas)" = 3 ] || fail "after the upgrade there are $(replicas) kernels, not three"
say "upgrade without a pause: $(replicas) kernels in place of the old"

# Backup, and back to it.
guide 'docker compose exec redis redis-cli config set auto-aof-rewrite-percentage 0'
guide 'docker compose exec redis redis-cli info persistence'
grep -q aof_rewrite_in_progress:0 "$work/out" || fail 'the append-only file is rewritten just now'
guide 'docker compose exec -T redis tar -C /data -cf - appendonlydir > redis.tar'
guide 'docker compose exec redis redis-cli config set auto-aof-rewrite-percentage 100'
keys='docker compose exec -T redis redis-cli exists after-the-backup'
run 'docker compose exec -T redis redis-cli set after-the-backup 1' || fail 'Redis takes nothing'
guide 'docker compose stop'
guide "docker compose run --rm --no-deps -T redis sh -c 'rm -rf /data/appendonlydir && tar -C /data -xf -' < redis.tar"
guide 'docker compose up -d --wait'
if ! run "$keys" || ! grep -q '^0' "$work/out"; then fail 'Redis is not where it was at the backup'; fi
say "backup and restore: $(du -k redis.tar | cut -f 1) KiB, Redis is where it was, the kernels are healthy"

run 'docker compose down -v' || fail 'docker compose down -v'
# shellcheck disable=SC2016 # expanded there
run 'docker volume ls -q | sort | comm -12 - <(sort -u ../../volumes) | grep -c . || true'
former=$(cat "$work/out")
remove_volumes || true
for kind in container network volume; do
  list="docker $kind ls -q --filter label=com.docker.compose.project=$COMPOSE_PROJECT_NAME"
  [ "$kind" != container ] || list+=' --all'
  if ! run "$list" || [ -s "$work/out" ]; then fail "a $kind is left behind"; fi
done
say "down -v: no container, network or named volume is left; state folders of $former replaced kernels removed"
[ $is_real = yes ] || say 'not tried here: the real images, Jaeger among them, since no registry can be asked'

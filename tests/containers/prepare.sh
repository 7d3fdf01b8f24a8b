#!/usr/bin/env bash
# Prepare a Debian machine that reaches package registries but no image registry for the container tests. Start a
# Docker engine with compose, and build stand-ins for the base images and for the images of compose.yaml.
# Run it as root. Whatever exists already stays unchanged. If something cannot be provided, the script prints the
# reason and exits with 0; the tests are then skipped.
set -euo pipefail

give_up() { echo "no container tests: $*"; exit 0; }

[ "$(id -u)" = 0 ] || give_up "not root"
command -v apt-get >/dev/null || give_up "no apt-get"
export DEBIAN_FRONTEND=noninteractive GOFLAGS=-buildvcs=false

if ! command -v dockerd >/dev/null || ! command -v debootstrap >/dev/null; then
    apt-get update -qq && apt-get install -y -qq --no-install-recommends docker.io debootstrap iptables >/dev/null ||
        give_up "docker.io cannot be installed"
fi

if ! docker info >/dev/null 2>&1; then
    setsid nohup dockerd >/var/log/dockerd.log 2>&1 </dev/null &
    for _ in $(seq 100); do docker info >/dev/null 2>&1 && break || sleep 0.3; done
    docker info >/dev/null 2>&1 || give_up "the Docker engine does not start: $(tail -1 /var/log/dockerd.log)"
fi

scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT

if ! docker compose version >/dev/null 2>&1; then
    command -v go >/dev/null || give_up "neither docker's compose plugin nor go to build it"
    plugins=${DOCKER_CONFIG:-$HOME/.docker}/cli-plugins
    mkdir -p "$scratch/compose" "$plugins"
    # Build in a separate module, because go install refuses a module with exclude directives.
    (cd "$scratch/compose" && go mod init compose && go get github.com/docker/compose/v2/cmd@v2.40.3 &&
        go build -o "$plugins/docker-compose" github.com/docker/compose/v2/cmd) >"$scratch/compose.log" 2>&1 ||
        give_up "compose cannot be built: $(tail -1 "$scratch/compose.log")"
fi

have() { docker image inspect "$1" >/dev/null 2>&1; }

if ! have mrcelery-test/base; then
    root=$scratch/root
    debootstrap --variant=minbase --include=python3,python3-venv,ca-certificates trixie "$root" \
        >"$scratch/debootstrap.log" 2>&1 || give_up "debootstrap: $(tail -1 "$scratch/debootstrap.log")"
    rm -rf "$root"/var/cache/apt/* "$root"/var/lib/apt/lists/* "$root"/usr/share/{doc,man,locale,info}/*
    tar -C "$root" -c . | docker import -c 'CMD ["python3"]' - mrcelery-test/base >/dev/null ||
        give_up "the base image cannot be imported"
fi

if ! have mrcelery-test/redis; then
    docker build -q -t mrcelery-test/redis - >/dev/null <<'DOCKERFILE' || give_up "valkey-server cannot be installed"
FROM mrcelery-test/base
RUN apt-get update && apt-get install -y --no-install-recommends valkey-server
WORKDIR /data
DOCKERFILE
fi

if ! have mrcelery-test/s3; then
    command -v go >/dev/null || give_up "no go to build versitygw"
    CGO_ENABLED=0 GOBIN=$scratch/s3 go install github.com/versity/versitygw/cmd/versitygw@v1.8.0 >"$scratch/s3.log" 2>&1 ||
        give_up "versitygw cannot be built: $(tail -1 "$scratch/s3.log")"
    printf 'FROM mrcelery-test/base\nCOPY versitygw /usr/local/bin/\n' >"$scratch/s3/Dockerfile"
    docker build -q -t mrcelery-test/s3 "$scratch/s3" >/dev/null || give_up "the S3 image cannot be built"
fi

echo "container tests can run: $(docker images -q 'mrcelery-test/*' | wc -l) images"

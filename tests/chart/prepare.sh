#!/usr/bin/env bash
# Install helm and kube-score, which the chart's tests need in addition to Python packages. They go into the given
# folder, next to the Python that runs the tests (tests/chart/prepare.sh .venv/bin), unless they are on PATH.
# Needs Go, and access to Go's module proxy.
set -euo pipefail
export GOBIN=$(cd "$1" && pwd) GOFLAGS=-buildvcs=false

have() { command -v "$1" >/dev/null || [ -x "$GOBIN/$1" ]; }

have helm || go install helm.sh/helm/v3/cmd/helm@v3.22.0
have kube-score || go install github.com/zegl/kube-score/cmd/kube-score@v1.20.0

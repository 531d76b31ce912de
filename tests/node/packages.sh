#!/bin/sh
# Install the Debian packages that the node tests need; as root.
set -eu
packages="buildah containernetworking-plugins debootstrap iproute2 iptables prometheus runc"
# shellcheck disable=SC2086 # several words
dpkg-query --show $packages >/dev/null 2>&1 && exit 0
# Prometheus is started by a test, not as this machine's service.
policy=/usr/sbin/policy-rc.d
if [ ! -e $policy ]; then
  trap 'rm -f $policy' EXIT
  printf '#!/bin/sh\nexit 101\n' >$policy
  chmod +x $policy
fi
apt-get -o Acquire::Retries=3 update -q
# shellcheck disable=SC2086
DEBIAN_FRONTEND=noninteractive apt-get -o Acquire::Retries=3 install -q -y --no-install-recommends $packages

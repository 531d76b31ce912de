#!/bin/sh
# Make the image that both Dockerfiles can be built over where no registry can be reached: Debian's Python 3.11.
# Needs root, buildah and debootstrap. Flags of buildah, such as --storage-driver, come from its environment variables.
set -eu
name=${1:-finetune-base:dev}
root=$(mktemp -d)
trap 'rm -rf "$root"' EXIT

debootstrap --variant=minbase --include=ca-certificates,python3-minimal,python3-venv,python3-pip bookworm "$root" >&2
rm -rf "$root"/var/cache/apt/* "$root"/var/lib/apt/lists/* "$root"/usr/share/doc "$root"/usr/share/man
container=$(buildah from scratch)
buildah copy --quiet "$container" "$root" / >/dev/null
buildah config --env PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin "$container"
buildah commit --quiet --rm "$container" "$name" >/dev/null
echo "$name"

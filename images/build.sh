#!/bin/sh
# Build finetune-operator and finetune-trainer with buildah or docker, whichever is there; `make images`.
#
# TAG         tag of both, `dev` when empty
# BASE_IMAGE  what they are built over; the Dockerfiles' default when empty (images/base.sh makes one without a registry)
# ONLY        operator or trainer; both when empty
# BUILD_FLAGS more flags of `buildah build` or `docker build`
set -eu
cd "$(dirname "$0")/.."

if command -v buildah >/dev/null; then
  build="buildah build"
elif docker version >/dev/null 2>&1; then
  build="docker build"
else
  echo "make images: neither buildah nor a running docker was found; install one of them" >&2
  exit 1
fi

for name in ${ONLY:-operator trainer}; do
  folder=$name
  if [ "$name" = trainer ]; then folder=trainer-image; fi
  # shellcheck disable=SC2086 # BUILD_FLAGS is several words
  $build ${BASE_IMAGE:+--build-arg "BASE_IMAGE=$BASE_IMAGE"} ${BUILD_FLAGS:-} \
    --file "$folder/Dockerfile" --tag "finetune-$name:${TAG:-dev}" .
done

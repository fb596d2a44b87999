# The image of Plimsoll: the program, the libraries that it names, certificates, licences and a bill of
# materials, and nothing else. docs/image.md shows how to use it, and how to build it for amd64 and arm64.
#
#   docker build -t plimsoll .                                                   everything
#   docker build -t plimsoll:slim --build-arg \
#     CARGO_FLAGS="--no-default-features --features jemalloc" .                  without clouds and Envoy's log service
#
# buildah and podman build it too. Where no compiler's image can be had, scripts/test-image puts a folder that
# scripts/image-root has laid out in place of the first stage.

# The release that Cargo.toml asks for; scripts/test-image compares them. The libraries in the image are
# those of this image's Debian.
ARG RUST_IMAGE=docker.io/library/rust:1.95-bookworm

FROM ${RUST_IMAGE} AS build
ARG CARGO_FLAGS=""
# Only the bill of materials has a time in it, and only this one.
ARG SOURCE_DATE_EPOCH=""
# rust-toolchain.toml asks for `stable`, which rustup would fetch anew; this image has its compiler.
ENV RUSTUP_TOOLCHAIN=${RUST_VERSION}
# The C compiler and make are for aws-lc, zstd and jemalloc.
RUN apt-get update \
 && apt-get install -y --no-install-recommends ca-certificates gcc libc6-dev make python3 \
 && rm -rf /var/lib/apt/lists/*
WORKDIR /src
COPY . .
# Arm has kernels with pages of 4, 16 and 64 kB, and jemalloc refuses to run on larger ones than it was made for.
RUN if [ "$(uname -m)" = aarch64 ]; then export JEMALLOC_SYS_WITH_LG_PAGE=16; fi \
 && cargo build --release --locked --bin plimsoll ${CARGO_FLAGS} \
 && scripts/image-root target/release/plimsoll /out ${CARGO_FLAGS}

FROM scratch
ARG VERSION=0.1.0
ARG REVISION=""
LABEL org.opencontainers.image.title="plimsoll" \
      org.opencontainers.image.description="Tells teams running LLM traffic whose rate limit they are about to hit, before the 429" \
      org.opencontainers.image.source="https://github.com/plimsoll/plimsoll" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}"
COPY --from=build /out/ /
# `plimsoll run` and `plimsoll check` read it; mount another one over it.
ENV PLIMSOLL_CONFIG=/etc/plimsoll/plimsoll.yaml
# Hop, metrics, admin port. Only metrics listens on other addresses than loopback until it is told to.
EXPOSE 8429 9429 9430
USER 65532:65532
ENTRYPOINT ["/usr/bin/plimsoll"]
CMD ["run"]

# The image that `cargo xtask image` makes without Docker: static programs, a few lines of /etc, no shell.

FROM rust:1.95-bookworm AS build
WORKDIR /src
COPY . .
# It installs the compiler of the eBPF programs first.
RUN cargo xtask image --rootfs /rootfs --out /image.tar

FROM scratch
COPY --from=build /rootfs/ /
ENV PATH=/usr/local/bin
# The agent's DaemonSet says root; nothing else needs it.
USER 65532:65532
ENTRYPOINT ["/usr/local/bin/mesh-controller"]

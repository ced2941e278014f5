# One image, every role: the command says which (`symbia serve`, `work`, `project`, `migrate`).
FROM rust:1.95-bookworm AS build
RUN apt-get update \
    && apt-get install -y --no-install-recommends cmake ninja-build libclang-dev \
    && rm -rf /var/lib/apt/lists/*
ENV CMAKE_GENERATOR=Ninja
WORKDIR /src
COPY . .
# The compiler of the image serves, whatever patch release "stable" is today.
ENV RUSTUP_TOOLCHAIN=1.95
RUN --mount=type=cache,target=/usr/local/cargo/registry \
    --mount=type=cache,target=/src/target \
    cargo build --release --locked --package symbia \
    && install -D target/release/symbia /out/symbia

FROM debian:bookworm-slim
# curl: health checks; libgomp1: llama.cpp's threads.
RUN apt-get update \
    && apt-get install -y --no-install-recommends ca-certificates curl libgomp1 \
    && rm -rf /var/lib/apt/lists/* \
    && useradd --system --uid 10001 --user-group --no-create-home symbia \
    && install -d -o symbia -g symbia -m 0700 /var/lib/symbia
COPY --from=build /out/symbia /usr/local/bin/symbia
COPY --chown=symbia:symbia models /usr/share/symbia/models
USER 10001:10001
WORKDIR /usr/share/symbia
ENTRYPOINT ["symbia"]
CMD ["--help"]

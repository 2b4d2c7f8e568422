# Targets for newcomers, developers and CI. Every target installs what it needs.

CARGO ?= cargo
.DEFAULT_GOAL := help

# Debian packages of a build, a recording, the tests and the bench.
BUILD := build-essential clang libclang-dev pkg-config libxkbcommon-dev libsqlite3-dev \
         libavcodec-dev libavformat-dev libavutil-dev libswscale-dev libswresample-dev libavfilter-dev libavdevice-dev
RUN   := chromium fonts-noto-core fonts-noto-cjk fonts-noto-color-emoji libnss3-tools
TEST  := coturn ffmpeg janus openssl nginx-light libnginx-mod-rtmp libnginx-mod-stream pgbouncer postgresql python3-venv systemd
BENCH := xvfb pulseaudio ffmpeg nginx-light libnginx-mod-rtmp postgresql

# Of a fleet on this machine, in addition: its database, and what looks into its recording.
FLEET := postgresql ffmpeg

.PHONY: help setup demo demo-fleet build test check fmt bench soak packages-run packages-fleet packages-test packages-bench

# A line `## text` above a target is its help.
help: ## (this list)
	@awk '/^## / { text = substr($$0, 4) } /^[a-z-]+:/ && text { sub(/:.*/, ""); printf "make %-10s %s\n", $$0, text; text = "" }' Makefile

## Install everything that contributors need: Debian packages, third-party test servers and SDKs
setup: packages-test packages-bench
	tests/third-party/install

## Record the demo page to demo.mp4, and make demo.png of it
demo: packages-run
	$(CARGO) build --release --locked
	./target/release/pagecast demo

## Kill nodes of a fleet under a live room and a recording: demo-fleet.mp4 and demo-fleet.png
demo-fleet: packages-fleet
	$(CARGO) build --release --locked -p pagecast -p pagecast-testkit --bins --example demo_fleet
	./target/release/examples/demo_fleet

## Build target/release/pagecast
build: packages-run
	$(CARGO) build --release --locked

## Run all tests, with real Chromium; lists at the end which failed and which were skipped
test: packages-test
	tests/third-party/install
	CARGO="$(CARGO)" scripts/test

## Check format, lints and documentation, as CI does
check: packages-run
	$(CARGO) fmt --all --check
	$(CARGO) clippy --workspace --all-targets --locked -- -D warnings
# Only what the feature changes: the root package has no other code for it.
	$(CARGO) clippy --workspace --bins --test otlp --locked --features otlp -- -D warnings
	RUSTDOCFLAGS="-D warnings -A rustdoc::private_intra_doc_links" $(CARGO) doc --workspace --no-deps --document-private-items --locked

## Format the code
fmt:
	$(CARGO) fmt --all

## Compare Pagecast with a baseline on this machine; writes docs/bench.md (BENCH_ARGS="--parts outputs --output outputs.md")
bench: packages-bench
	$(CARGO) build --release --locked
	$(CARGO) run --release --locked -p pagecast-bench -- $(BENCH_ARGS)

## Run casts for half an hour with injected faults; prints leaks (SOAK_ARGS="--minutes 60 --casts 4")
soak: packages-test
	$(CARGO) build --release --locked --workspace
	./target/release/soak $(SOAK_ARGS)

packages-run:
	@scripts/install-packages $(BUILD) $(RUN)

packages-fleet:
	@scripts/install-packages $(BUILD) $(RUN) $(FLEET)

packages-test:
	@scripts/install-packages $(BUILD) $(RUN) $(TEST) $(shell command -v npm >/dev/null || echo npm)

packages-bench:
	@scripts/install-packages $(BUILD) $(RUN) $(BENCH)

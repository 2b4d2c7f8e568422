# What a newcomer, a developer and CI do. Every target sets up what it needs.

CARGO ?= cargo

# What a build, a recording, the tests and the bench need from Debian.
BUILD := build-essential clang libclang-dev pkg-config libxkbcommon-dev libsqlite3-dev \
         libavcodec-dev libavformat-dev libavutil-dev libswscale-dev libswresample-dev libavfilter-dev libavdevice-dev
RUN   := chromium fonts-noto-core fonts-noto-cjk fonts-noto-color-emoji libnss3-tools
TEST  := coturn ffmpeg janus openssl nginx-light libnginx-mod-rtmp libnginx-mod-stream python3-venv systemd
BENCH := xvfb pulseaudio ffmpeg nginx-light libnginx-mod-rtmp

.PHONY: demo test check bench soak build fmt packages-run packages-test packages-bench

## Record the demo page to demo.mp4 and make demo.png of it.
demo: packages-run
	$(CARGO) build --release --locked
	./target/release/pagecast demo

build: packages-run
	$(CARGO) build --release --locked

## All tests, with real Chromium.
test: packages-test
	tests/third-party/install
	$(CARGO) test --workspace --locked
	$(CARGO) test --workspace --locked --features otlp --test otlp

## Format, lints, documentation.
check: packages-run
	$(CARGO) fmt --all --check
	$(CARGO) clippy --workspace --all-targets --locked -- -D warnings
	$(CARGO) clippy --workspace --all-targets --locked --features otlp -- -D warnings
	RUSTDOCFLAGS="-D warnings -A rustdoc::private_intra_doc_links" $(CARGO) doc --workspace --no-deps --document-private-items --locked

## Pagecast beside what others do, on this machine; writes docs/bench.md. BENCH_ARGS="--parts outputs --output outputs.md"
bench: packages-bench
	$(CARGO) build --release --locked
	$(CARGO) run --release --locked -p pagecast-bench -- $(BENCH_ARGS)

## Casts that run for half an hour while things go wrong; prints what leaked. SOAK_ARGS="--minutes 60 --casts 4"
soak: packages-test
	$(CARGO) build --release --locked --workspace
	./target/release/soak $(SOAK_ARGS)

fmt:
	$(CARGO) fmt --all

packages-run:
	@scripts/install-packages $(BUILD) $(RUN)

packages-test:
	@scripts/install-packages $(BUILD) $(RUN) $(TEST) $(shell command -v npm >/dev/null || echo npm)

packages-bench:
	@scripts/install-packages $(BUILD) $(RUN) $(BENCH)

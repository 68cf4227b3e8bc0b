# A thin door in front of Meson and Ninja: `make help` lists what there is.

BUILD := build
ASAN := build-asan
JOBS := $(shell nproc)
NINJA = ninja -C $(BUILD) -j$(JOBS)

.PHONY: all tests demo check check-cpu check-long bench fuzz install format lint deps clean help

all: deps $(BUILD)/build.ninja ## build build/hospes
	@$(NINJA) hospes

tests: all ## build the tests, too
	@$(NINJA)

demo: ## install what is missing, build, boot a Debian kernel to a shell
	@scripts/install-deps build demo
	@$(MAKE) --no-print-directory all
	@scripts/demo

check: ## install what is missing, build, run all tests (under 20 minutes on 2 cores)
	@scripts/install-deps build check demo firmware
	@$(MAKE) --no-print-directory tests $(ASAN)/build.ninja
	@ninja -C $(ASAN) -j$(JOBS)
	@tools/check

check-cpu: tests ## a million random sequences against the host CPU
	$(BUILD)/tests/cpu/cpu-oracle --count 1000000
	$(BUILD)/tests/cpu/cpu-oracle --engine bt --count 1000000

check-long: ## the long suites: boot matrix, nested KVM, a million sequences
	@scripts/install-deps build check demo firmware long
	@$(MAKE) --no-print-directory tests
	@tools/check --long

bench: ## measure, beside TCG and the host itself (BENCH=--quick and others of bench/run --help)
	@scripts/install-deps build check demo bench
	@$(MAKE) --no-print-directory all
	@bench/run $(BENCH)

fuzz: ## run each fuzzer for a minute (FUZZ_SECONDS=N)
	@scripts/install-deps build
	@$(MAKE) --no-print-directory all
	@tools/fuzz

install: all ## install under PREFIX (default /usr/local), DESTDIR is honoured
	$(if $(PREFIX),@meson configure $(BUILD) -Dprefix=$(PREFIX))
	@$(NINJA) share
	@meson install -C $(BUILD) --no-rebuild --tags runtime,man $(if $(DESTDIR),--destdir $(DESTDIR))

format: ## put white space as .clang-format says
	@git ls-files '*.c' '*.h' | xargs clang-format -i

lint: deps $(BUILD)/build.ninja ## format, layers, headers, clang warnings, cppcheck
	@tools/lint $(BUILD)

deps:
	@scripts/install-deps build

$(BUILD)/build.ninja:
	@meson setup $(BUILD) $(if $(PREFIX),--prefix $(PREFIX)) >$(BUILD).log || { cat $(BUILD).log; rm -rf $(BUILD); exit 1; }

$(ASAN)/build.ninja:
	@CC=gcc meson setup $(ASAN) -Db_sanitize=address,undefined -Doptimization=1 >$(ASAN).log || { cat $(ASAN).log; rm -rf $(ASAN); exit 1; }

clean: ## remove what was built
	@rm -rf $(BUILD) $(ASAN)

help: ## this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

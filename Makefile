# Every target calls ./dev, which does all set-up. `make` alone lists the targets.
.DEFAULT_GOAL := help
.PHONY: help demo test lint sanity soak bench gen check-gen setup pins

help:       ## list the targets
	@awk -F ':[^#]*## ' '/^[a-z-]+:.*## / { printf "  make %-10s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

demo:       ## show everything on this machine (volumes need root)
	./dev demo

test:       ## check everything: lint, types, layers, generated code, tests, csi-sanity
	./dev test

lint:       ## ruff, mypy and the import contracts only
	./dev lint

sanity:     ## csi-sanity, filesystem and block, each with and without attach (needs root)
	./dev sanity

soak:       ## 200,000 random requests from eight callers (needs root); ./dev soak --help: other long runs
	./dev soak fuzz

bench:      ## measure against floors and peers: a table, and build/bench.json
	./dev bench

gen:        ## regenerate plugins/api from protos/
	./dev gen

check-gen:  ## compare plugins/api with what protos/ would give
	./dev check-gen

setup:      ## make the environment for development
	./dev setup

pins:       ## rewrite constraints.txt with the newest versions allowed
	./dev pins

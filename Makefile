# Short names for what scripts/ does; every one makes its own environment first.
.PHONY: help check demo lint type unit property sim crash compat integration hostile chaos bench

help:
	@echo "make check         everything that continuous integration runs"
	@echo "make demo          three nodes on this machine"
	@echo "make bench         figures beside baselines of the same run"
	@echo "make PART          one part: lint type unit property sim crash compat integration hostile chaos"

check:
	python3 scripts/check.py

demo:
	python3 scripts/demo.py

bench:
	python3 scripts/bench.py

lint type unit property sim crash compat integration hostile chaos:
	python3 scripts/check.py $@

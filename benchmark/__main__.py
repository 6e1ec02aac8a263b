from benchmark.cli import run_and_end

run_and_end()

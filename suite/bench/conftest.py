"""Plain ``pytest suite/bench``: the benchmarks' fixtures come from the suite's own plug-in."""

pytest_plugins = ("v3bench.suite.meter.plugin",)

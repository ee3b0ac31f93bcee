"""The verbs: each module wires parts together for one command, `run(config) -> Result`."""

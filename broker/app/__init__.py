"""The parts of a broker, connected: a module with factories for each actor, `core` below them, `whole` for all in one process."""

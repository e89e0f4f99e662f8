"""The planner node: surrogates, acquisition functions, stop rules, the ask/tell experiment."""

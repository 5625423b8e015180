"""From a checkpoint to a model: which tensor and channel goes where, the plan, its execution, the report."""

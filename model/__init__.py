"""The online model: tasks, tables, compiled kernel, metrics, checkpoints; knows neither Kafka nor HTTP."""

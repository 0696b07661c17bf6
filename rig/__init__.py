"""What tests and measurements are run on: brokers, and services of ours, as processes to start and kill."""

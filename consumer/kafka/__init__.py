"""Kafka, by kafka-python or confluent-kafka: connection, client, topic, source, and what can fail."""

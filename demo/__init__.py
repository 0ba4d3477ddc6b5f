"""``make demo``: retrain a real classifier in a real Airflow, started and stopped for the occasion."""

"""The ServerApp: state, rounds, requests, unlearn step, aggregation, guard; no corpus, partition or judge."""

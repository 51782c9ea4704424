"""What numbers say: means over replicas, intervals, paired and two-sample tests."""

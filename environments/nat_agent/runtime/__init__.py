"""What runs inside the evaluator's sandbox, under the NAT environment's own Python."""

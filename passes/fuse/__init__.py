"""Recognition of ops in the pieces in which exporters write them. Their order stands in `passes/pipeline.py`."""

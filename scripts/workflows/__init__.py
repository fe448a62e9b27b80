"""The example workflows, by what they are about; `scripts/make_workflows.py` writes them."""

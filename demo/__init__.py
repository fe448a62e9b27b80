"""What `dev.py` runs: a real ComfyUI as a process, its client, and the demo.

The pack itself uses nothing of this.
"""

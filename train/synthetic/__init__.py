"""A world of procedural pictures: people, the scenes they are shown in, and objects.

`python -m train.synthetic` draws it.
"""

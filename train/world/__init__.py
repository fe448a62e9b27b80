"""A world of procedural pictures: people, the scenes they are shown in, and objects. `train.synthetic` is its front door."""

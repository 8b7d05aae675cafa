"""The demonstration: a region of two hospitals on this machine, and the story that is played in it."""

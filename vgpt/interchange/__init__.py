"""Models that leave the lab and come into it: directories of other libraries, written, checked and read."""

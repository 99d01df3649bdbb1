"""Models that leave the lab, come into it from directories of other libraries, or change their attention."""

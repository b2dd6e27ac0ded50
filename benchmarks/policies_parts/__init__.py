"""Tasks and arms of ``foreshock bench policies``."""

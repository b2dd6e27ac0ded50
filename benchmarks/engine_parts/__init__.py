"""Parts of ``foreshock bench engine``; ``langevin`` is run if it is here, by its ``rows()``."""

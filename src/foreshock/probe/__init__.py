"""The model seen safely: what to measure on (`Probe`), and how to look without touching.

`Probe` and `LatentSite` (which latents, for what follows them) need no torch and are all a user
writes. The rest of the layer is in ``probe.view``
(`ModelView`: pure functions of the live weights) and ``probe.moment`` (`Moment`: one instant of
training, as an observable sees it).
"""

from foreshock.probe.latent_site import LatentSite as LatentSite
from foreshock.probe.spec import Probe as Probe

__all__ = ["LatentSite", "Probe"]

"""What ``foreshock bench detectors`` is made of: streams, real losses, the field's own rules."""

"""PlatformIO asks for a class of this name; the base class does all that is needed."""

from platformio.public import PlatformBase


class CortexmsimPlatform(PlatformBase):
    def is_embedded(self):
        """Upload before testing or monitoring, as with a real board."""
        return True

"""Encoded frames of one video for the rows of a shard, which share them with their neighbours."""

from collections.abc import Iterable
from pathlib import Path

from mde.data.codecs import CodecError
from mde.data.encode import Encoder, StoredImage
from mde.data.sources.folder.video import Place, read_video


class VideoImages:
    """Each frame is decoded and encoded once, and kept until no later row can need it.

    name: of the video, for messages. places: of all frames that will be asked for.
    """

    def __init__(self, path: Path, name: str, places: Iterable[Place], encoder: Encoder) -> None:
        self.name = name
        self._encoder = encoder
        wanted = sorted(set(places))
        self._coming = zip(wanted, read_video(path, wanted), strict=True)
        self._kept: dict[Place, StoredImage | CodecError] = {}

    def load(self, places: dict[str, Place]) -> dict[str, StoredImage]:
        """The images of one row by their role; rows come in the order of the video.

        Raises CodecError that names the video when one cannot be decoded.
        """
        first = min(places.values())
        self._kept = {place: kept for place, kept in self._kept.items() if place >= first}
        while not self._kept.keys() >= set(places.values()):
            place, image = next(self._coming)
            try:
                kept = image if isinstance(image, CodecError) else self._encoder.image(image)
            except CodecError as error:
                kept = error
            self._kept[place] = kept
        loaded: dict[str, StoredImage] = {}
        for role, place in places.items():
            found = self._kept[place]
            if isinstance(found, CodecError):
                raise found.about(self.name)
            loaded[role] = found
        return loaded

"""Label, packages and digest of the container image that this process runs in."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from phase2hpc.errors import Phase2Error
from phase2hpc.utils.error_text import first_problem
from phase2hpc.utils.mounts import IN_MEMORY, mount_of, nearest_folder

# The digest is not known inside a container: whoever starts it sets this.
DIGEST_VARIABLE = "PHASE2HPC_IMAGE_DIGEST"
# Written by the image build into the root of its Python environment.
_LABEL, _PACKAGES = "image.json", "packages.txt"


class Image(BaseModel):
    """An image built from one commit.

    revision: the commit, with ``-dirty`` if files differed from it. created: build time. Both are
    empty if the build was not given them. digest: ``sha256:...``, None if unknown. packages:
    ``name==version`` of every installed package.
    """

    model_config = ConfigDict(extra="allow", frozen=True, defer_build=True)

    version: str
    variant: str
    revision: str = ""
    created: str = ""
    digest: str | None = None
    packages: list[str] = []

    def __str__(self) -> str:
        commit = f", commit {self.revision}" if self.revision else ""
        built = f", built {self.created}" if self.created else ""
        digest = f", {self.digest}" if self.digest else ""
        return f"phase2hpc {self.version} for {self.variant}{commit}{built}{digest}"


def this_image() -> Image | None:
    """The image, None outside of one. Raises Phase2Error for a broken label."""
    label = Path(sys.prefix) / _LABEL
    if not label.exists():
        return None
    try:
        found = Image.model_validate_json(label.read_text(encoding="utf-8"))
        packages = label.with_name(_PACKAGES).read_text(encoding="utf-8").split()
    except ValidationError as error:
        problem = first_problem(error, "key")
        raise Phase2Error(f"{label}: not an image label ({problem}); rebuild the image") from None
    except (OSError, UnicodeDecodeError) as error:
        raise Phase2Error(f"{label}: cannot be read ({error}); build the image again") from None
    digest = os.environ.get(DIGEST_VARIABLE) or None
    return found.model_copy(update={"packages": packages, "digest": digest})


def is_lost_with_container(path: Path) -> bool:
    """True for a path inside of this container that is not on a mounted folder."""
    if this_image() is None:
        return False
    mount = mount_of(nearest_folder(path))
    return mount is not None and (mount.point == Path("/") or mount.kind in IN_MEMORY)


def mount_hint() -> str:
    """A hint to add to "no such file" inside of a container; empty outside."""
    return " in this container (is its folder mounted?)" if this_image() is not None else ""

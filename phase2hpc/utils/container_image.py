"""The container image that this process runs in: the label of its build and its packages."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from phase2hpc.errors import Phase2Error
from phase2hpc.utils.error_text import first_problem
from phase2hpc.utils.mounts import IN_MEMORY, mount_of, nearest_folder

# Who starts a container may know what its inside cannot: which bytes the image is.
DIGEST_VARIABLE = "PHASE2HPC_IMAGE_DIGEST"
# Written by the image's build, in the folder of its Python environment.
_LABEL, _PACKAGES = "image.json", "packages.txt"


class Image(BaseModel):
    """An image of one commit.

    revision: the commit, with ``-dirty`` where files differed from it; created: when it was built.
    Both are empty where the build was not told. digest: ``sha256:...``, None where whoever started
    the container did not say. packages: ``name==version`` of all that is installed.
    """

    model_config = ConfigDict(extra="allow", frozen=True)

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
    """None where this process does not run in an image of phase2hpc. Raises Phase2Error for one
    whose label is broken."""
    label = Path(sys.prefix) / _LABEL
    if not label.exists():
        return None
    try:
        found = Image.model_validate_json(label.read_text())
        packages = label.with_name(_PACKAGES).read_text().split()
    except ValidationError as error:
        problem = first_problem(error, "key")
        raise Phase2Error(f"{label}: not an image label ({problem}); rebuild the image") from None
    except (OSError, UnicodeDecodeError) as error:
        raise Phase2Error(f"{label}: cannot be read ({error}); build the image again") from None
    digest = os.environ.get(DIGEST_VARIABLE) or None
    return found.model_copy(update={"packages": packages, "digest": digest})


def goes_with_container(path: Path) -> bool:
    """Whether what is written there is gone when the container ends that this process runs in."""
    if this_image() is None:
        return False
    mount = mount_of(nearest_folder(path))
    return mount is not None and (mount.point == Path("/") or mount.kind in IN_MEMORY)


def unseen() -> str:
    """What may be added where a path is not there: in a container, perhaps only in here."""
    return " in this container (is its folder mounted?)" if this_image() is not None else ""

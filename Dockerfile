# phase2hpc for batch jobs in containers; docs/containers.md has the command lines.
#
#   docker build --tag phase2hpc .                                            CUDA, for clusters
#   docker build --tag phase2hpc:cpu --build-arg VARIANT=cpu --build-arg TORCH_INDEX=... .
#
# To pin the base to its bytes: --build-arg BASE=python@sha256:..., the digest that
# `docker image inspect --format '{{index .RepoDigests 0}}' python:3.11-slim-bookworm` tells.

ARG BASE=python:3.11-slim-bookworm
# cuda: torch as the package index has it. cpu: its small build, from TORCH_INDEX or a wheel folder.
ARG VARIANT=cuda

# What the project requires, without the rest of pyproject.toml: only a change of it makes the
# dependencies be installed anew.
FROM ${BASE} AS requirements
WORKDIR /build
COPY pyproject.toml ./
RUN python3 -c "import tomllib; \
project = tomllib.load(open('pyproject.toml', 'rb'))['project']; \
extras = project['optional-dependencies']; \
names = project['dependencies'] + extras['data'] + extras['train'] + extras['tune']; \
print(*(name for name in names if not name.startswith('phase2hpc')), sep='\n')" >requirements.txt

FROM ${BASE} AS dependencies
ARG VARIANT
# Empty: the package index that pip knows. PIP_FIND_LINKS: a folder of wheels, mounted (--volume)
# into the build. TORCH_INDEX: a further index, for torch alone.
ARG PIP_INDEX_URL=
ARG PIP_EXTRA_INDEX_URL=
ARG PIP_FIND_LINKS=
ARG TORCH_INDEX=
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_ROOT_USER_ACTION=ignore
WORKDIR /build
COPY constraints.txt ./
RUN --mount=type=cache,target=/root/.cache/pip \
    python3 -m pip install -q -c constraints.txt hatchling \
    && python3 -m venv --without-pip /opt/phase2hpc
# torch first and by its pin: asked for by its bare name, pip may take another build than the one
# that an index or a folder of wheels has for this machine.
RUN --mount=type=cache,target=/root/.cache/pip \
    case "$VARIANT:$TORCH_INDEX:$(python3 -m pip config list)" in \
      cpu::*index-url=\'[!\']* | cpu::*find-links=\'[!\']*) ;; \
      cpu::*) echo "VARIANT=cpu: name PyTorch's CPU index by --build-arg TORCH_INDEX=..." >&2; exit 2 ;; \
    esac; \
    python3 -m pip --python /opt/phase2hpc/bin/python install -q --no-compile \
      ${TORCH_INDEX:+--extra-index-url "$TORCH_INDEX"} "$(grep '^torch==' constraints.txt)" -c constraints.txt \
    && /opt/phase2hpc/bin/python -W ignore -c "import sys, torch; \
built = 'cuda' if torch.version.cuda else 'cpu'; \
sys.exit(built != '$VARIANT' and f'VARIANT=$VARIANT, but torch {torch.__version__} is a build for {built}: TORCH_INDEX?')"
COPY --from=requirements /build/requirements.txt ./
RUN --mount=type=cache,target=/root/.cache/pip \
    python3 -m pip --python /opt/phase2hpc/bin/python install -q --no-compile --use-pep517 \
      -r requirements.txt -c constraints.txt
# What nobody can use here: test suites, and what C++ is compiled with. Of the bytecode, which a
# read-only image cannot write later, only what is imported.
RUN packages=$(/opt/phase2hpc/bin/python -c "import sysconfig; print(sysconfig.get_path('purelib'))") \
    && rm -rf "$packages"/torch/test "$packages"/torch/include "$packages"/torch/share \
      "$packages"/pandas/tests "$packages"/ase/test \
    && find "$packages"/scipy -type d -name tests -prune -exec rm -rf {} + \
    && find "$packages"/torch/bin -mindepth 1 -maxdepth 1 ! -name torch_shm_manager -exec rm -rf {} + \
    && /opt/phase2hpc/bin/python -W ignore -c "import ase.io.extxyz, e3nn.o3, gemmi, h5py, matplotlib.pyplot, optuna, \
pymatgen.core, pymatgen.io.cif, submitit.core._submit, submitit.slurm.slurm, torch, torch_geometric.data, typer, vesin, yaml; \
import tensorboard.compat.proto.event_pb2, tensorboard.summary.writer.record_writer"

FROM dependencies AS code
COPY . ./
# --root: the files of phase2hpc alone, where they will be, for a layer of their own.
RUN python3 -m pip wheel -q --no-deps --no-build-isolation --wheel-dir dist . \
    && python3 -m pip --python /opt/phase2hpc/bin/python install -q --no-deps --root /code dist/*.whl \
    && python3 -m pip --python /opt/phase2hpc/bin/python install -q --no-deps --no-compile dist/*.whl \
    && python3 -m pip --python /opt/phase2hpc/bin/python check \
    && python3 -m pip --python /opt/phase2hpc/bin/python list --format=freeze >/code/opt/phase2hpc/packages.txt

FROM ${BASE}
ARG VARIANT
RUN groupadd --gid 1000 phase2hpc \
    && useradd --uid 1000 --gid 1000 --home-dir /work --create-home phase2hpc
COPY --from=dependencies /opt/phase2hpc /opt/phase2hpc
# Any user may run it, with a read-only root: what is cached goes below /tmp.
ENV PATH=/opt/phase2hpc/bin:$PATH \
    HOME=/tmp \
    PHASE2HPC_CACHE=/tmp/phase2hpc \
    MPLCONFIGDIR=/tmp/phase2hpc/matplotlib \
    TORCHINDUCTOR_CACHE_DIR=/tmp/phase2hpc/inductor \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1
COPY --from=code /code /

ARG VERSION=0.1.0
# git describe --always --dirty --abbrev=40 --exclude='*'
ARG REVISION=
# date --utc --iso-8601=seconds
ARG CREATED=
LABEL org.opencontainers.image.title="phase2hpc" \
      org.opencontainers.image.description="Multi-task learning of crystal properties as batch jobs on HPC clusters" \
      org.opencontainers.image.licenses="MIT" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}" \
      org.opencontainers.image.created="${CREATED}"
# The same for the manifests of runs; and an image is not labelled with another version than its own.
RUN printf '{"version": "%s", "variant": "%s", "revision": "%s", "created": "%s"}\n' \
      "$VERSION" "$VARIANT" "$REVISION" "$CREATED" >/opt/phase2hpc/image.json \
    && test "$(phase2hpc --version)" = "phase2hpc $VERSION"

USER 1000:1000
WORKDIR /work
HEALTHCHECK --interval=10m --timeout=1m CMD ["phase2hpc", "--version"]
ENTRYPOINT ["phase2hpc"]
CMD ["--help"]
